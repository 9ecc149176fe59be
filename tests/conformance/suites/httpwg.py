"""httpwg's HTTP/2 suite on the listener without TLS, which is all it speaks: Culvert must pass what bare hyper passes, and what
it does not pass must be named here."""

import os
import re
import subprocess

import http2
import install

# Cases that Culvert fails, each with its reason: the part of its name behind the section. docs/conformance.md has them too. What the
# suite itself says of a case that is missing here is printed when it fails.
SIZE = "h2 answers a frame of a wrong length by PROTOCOL_ERROR, not FRAME_SIZE_ERROR"
CLOSED = "h2 answers a frame on a stream that is closed by PROTOCOL_ERROR, not STREAM_CLOSED"
WINDOW = "h2 answers a window that is too large by PROTOCOL_ERROR, not FLOW_CONTROL_ERROR"
SPACE = "h2 takes white space at the ends of a field's value"
REFUSED = "the request is answered 400, which is no stream error"
KNOWN = {
    "invalid header block fragment": "h2 answers a head that it cannot decode by PROTOCOL_ERROR, not COMPRESSION_ERROR",
    "closed sends headers frame after rst stream": CLOSED,
    "half closed remote sends headers frame": CLOSED,
    "closed sends headers frame": CLOSED,
    "half closed remote sends data frame": CLOSED,
    "sends data frame on invalid stream state": CLOSED,
    "sends ping frame with invalid length": SIZE,
    "sends priority frame with invalid length": SIZE,
    "sends rst stream frame with invalid length": SIZE,
    "sends settings frame with ack and payload": SIZE,
    "sends settings frame with invalid length": SIZE,
    "sends window update frame with invalid length": SIZE,
    "sends settings initial window size with exceeded max window size value": WINDOW,
    "sends settings initial window size with invalid value": WINDOW,
    "sends goaway frame with unknown error code": "h2 ends a connection by a goodbye with an error; whether a PING behind it is answered before is luck",
    "sends headers frame with leading space in field value": SPACE,
    "sends headers frame with trailing tab in field value": SPACE,
    "sends headers frame with pseudo header in trailer": "h2 leaves it out, and the request is answered",
    "sends connect without authority": REFUSED,
    "sends headers frame with mismatched host authority": REFUSED,
}
CASES, ROUNDS = 107, 5


def run(processes, program):
    httpwg = install.crate("httpwg-cli", "0.2.5", "httpwg")
    culvert, chain, key = http2.culvert(processes, program, http2.backend(http2.Ok))
    _, hyper = http2.bare_hyper(processes, chain, key)
    failures, hypers = (
        failed(processes.folder, httpwg, *of) for of in (("culvert", culvert.http), ("hyper", hyper))
    )
    known = {name: KNOWN[case(name)] for name in failures if case(name) in KNOWN}
    problems = http2.compare(set(failures), set(hypers), known)
    for name in sorted(KNOWN.keys() - {case(name) for name in failures}):
        # No fault: in which round a case passes is partly luck.
        print(f"   named, and not failed this time: {name}")
    unnamed = sorted(failures.keys() - known.keys())
    if unnamed:
        print("   to be named in KNOWN, each with its reason; the suite says:")
    for name in unnamed:
        print(f'    "{case(name)}": "",  # {failures[name]}')
    return problems + [f"{name}: fails, and has no reason in KNOWN" for name in unnamed if name in hypers]


def failed(folder, httpwg, who, address):
    """The cases that pass in none of the rounds, and what the suite last said of them: how a closing connection's last bytes arrive
    is a matter of luck."""
    environment = {**os.environ, "RUST_LOG": "error", "RUST_BACKTRACE": "0", "NO_COLOR": "1"}
    counts, said_of, passed = [], {}, set()
    for number in range(ROUNDS):
        # Verbose, it names each case before it begins: one that crashes would else never be named.
        done = subprocess.run([httpwg, "-v", "-a", address], env=environment, capture_output=True, text=True, timeout=300)
        said = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
        (folder / f"{who}-{number + 1}.log").write_text(said)
        counts.append(int(re.search(rf"Passed (\d+)/{CASES} tests", said)[1]))
        for name in re.findall(r"Running test: (.*)", said):
            said_of.setdefault(name, "it crashes, or never ends")
        for name, why in re.findall(r"Test failed: (.*)\n((?:(?!.*Test (?:passed|failed): |.*Running test: ).*\n)*)", said):
            said_of[name] = " ".join(why.split())[:200]
        passed |= set(re.findall(r"Test passed: (.*)", said))
    print(f"   {who}: {len(passed)} of {CASES} cases; by rounds {', '.join(map(str, counts))}")
    if len(said_of) != CASES:
        raise RuntimeError(f"{who}: the suite named {len(said_of)} cases, not {CASES}")
    return {name: why for name, why in said_of.items() if name not in passed}


def case(name):
    """The name of a case without its RFC and section."""
    return name.rsplit(" :: ", 1)[-1]
