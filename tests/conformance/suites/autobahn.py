"""Autobahn's fuzzing client: each case must end through Culvert as it does against the backend itself.

The backend is the suite's own echo server, which is strict but knows no compression: the 216 cases about that are the
same "unimplemented" on both ways.
"""

import json
import socket
import subprocess
from collections import Counter

import install
from culvert import Culvert, tunnel_host
from processes import free_port, until

LIMIT = 600  # seconds; it takes about 90

WSTEST = """
import site, sys
site.addsitedir(sys.argv.pop(1))
from autobahntestsuite import wstest
sys.exit(wstest.run())
"""


def run(processes, program):
    python27 = install.python27()
    suite = install.pypi("autobahn", "autobahntestsuite==0.8.2", python=python27)
    wstest = [python27, "-c", WSTEST, suite]
    port = free_port()
    processes.start("echo", *wstest, "-m", "echoserver", "-w", f"ws://127.0.0.1:{port}")
    until("the echo server", lambda: socket.create_connection(("127.0.0.1", port)).close() or True)
    # It refuses another port than its own.
    backend = {"hostHeader": f"localhost:{port}"}
    edge = Culvert(processes, program, [tunnel_host("echo", "localhost", f"127.0.0.1:{port}", backend)])

    reports = processes.folder / "reports"
    edge_port = edge.http.rsplit(":", 1)[1]
    servers = [
        {"agent": "direct", "url": f"ws://localhost:{port}"},
        {"agent": "culvert", "url": f"ws://localhost:{edge_port}"},
    ]
    spec = {"outdir": str(reports), "servers": servers, "cases": ["*"], "exclude-cases": [], "exclude-agent-cases": {}}
    (processes.folder / "spec.json").write_text(json.dumps(spec))
    client = [*wstest, "-m", "fuzzingclient", "-s", "spec.json"]
    with open(processes.folder / "client.log", "wb") as log:
        subprocess.run(client, check=True, cwd=processes.folder, stdout=log, stderr=log, timeout=LIMIT)
    return compare(json.loads((reports / "index.json").read_text()))


# A backend that fails fast may be seen to do so a moment earlier or later: both are the backend's own doing.
TIMING = {"OK", "NON-STRICT"}


def compare(reports):
    direct, culvert = reports["direct"], reports["culvert"]
    for name, cases in reports.items():
        counts = Counter(case["behavior"] for case in cases.values())
        print(f"   {name}: {len(cases)} cases:", ", ".join(f"{count} {what}" for what, count in counts.most_common()))
    problems = []
    for name, case in direct.items():
        seen = [(each["behavior"], each["behaviorClose"], each["remoteCloseCode"]) for each in (case, culvert[name])]
        if seen[0] == seen[1]:
            continue
        line = f"case {name}: directly {seen[0]}, through Culvert {seen[1]}"
        if {seen[0][0], seen[1][0]} <= TIMING and seen[0][1:] == seen[1][1:]:
            print(f"   timing only: {line}")
        else:
            problems.append(line)
    return problems
