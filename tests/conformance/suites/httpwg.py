"""httpwg's HTTP/2 suite on the listener without TLS, which is all it speaks: Culvert must pass what bare hyper passes."""

import os
import re
import subprocess

import http2
import install

# Cases that Culvert fails on purpose, each with its reason; docs/conformance.md has them too.
KNOWN = {}
CASES, ROUNDS = 107, 5


def run(processes, program):
    httpwg = install.crate("httpwg-cli", "0.2.5", "httpwg")
    culvert, chain, key = http2.culvert(processes, program, http2.backend(http2.Ok))
    _, hyper = http2.bare_hyper(processes, chain, key)
    failures = [failed(processes.folder, httpwg, *of) for of in (("culvert", culvert.http), ("hyper", hyper))]
    return http2.compare(*failures, KNOWN)


def failed(folder, httpwg, who, address):
    """The cases that pass in none of the rounds: how a closing connection's last bytes arrive is a matter of luck."""
    environment = {**os.environ, "RUST_LOG": "error", "RUST_BACKTRACE": "0", "NO_COLOR": "1"}
    counts, seen, passed = [], set(), set()
    for _ in range(ROUNDS):
        done = subprocess.run([httpwg, "-a", address], env=environment, capture_output=True, text=True, timeout=300)
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        (folder / f"{who}.log").write_text(said)
        counts.append(int(re.search(rf"Passed (\d+)/{CASES} tests", said)[1]))
        seen |= set(re.findall(r"Test (?:passed|failed): (.*)", said))
        passed |= set(re.findall(r"Test passed: (.*)", said))
    print(f"   {who}: {len(passed)} of {CASES} cases; by rounds {', '.join(map(str, counts))}")
    # A case that crashes the suite each time is not even named.
    return (seen - passed) | {f"case {number} that crashes the suite" for number in range(len(seen), CASES)}
