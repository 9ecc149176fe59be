"""Odd requests through Culvert, nginx and HAProxy, each in front of a backend that keeps every byte.

It fails where Culvert forwards a request that both others refuse, forwards something that a strict reader takes for more or
for other requests, answers 5xx to a fault of the visitor's, answers nothing, or goes on with a connection on which the next
request is not understood as sent. How each of them took each case is in target/conformance/differential/cases.tsv.
"""

import re
import socket
import threading
import time

import install
from culvert import Culvert, tunnel_host
from differential.cases import CASES, HOST
from differential.peers import haproxy, nginx
from differential.recorder import Recorder

HANGS = 6.0  # seconds without an answer
QUIET = 0.12  # seconds without another byte, after an answer
CANARY = b"GET /canary HTTP/1.1\r\nHost: " + HOST + b"\r\n\r\n"
FINAL = re.compile(rb"HTTP/1\.[01] ([2-5]\d\d)[ \r]")


class Outcome:
    """How a proxy took one case."""

    def __init__(self, statuses, open_, taken, canary):
        self.statuses, self.open, self.canary = statuses, open_, canary
        self.requests, self.malformed, self.partial = taken

    def text(self):
        if self.malformed:
            return f"MALFORMED {self.malformed[0][:60]!r}"
        if self.requests:
            return "forwarded " + " + ".join(f"{method} {target[:40]} ({len(body)} B)" for method, target, body in self.requests)
        answer = "+".join(map(str, self.statuses)) or ("nothing" if self.open else "an end")
        return f"refused by {answer}{', the head forwarded' * bool(self.partial)}"


def read(connection, patience, ends):
    """Bytes until the connection ends, or is quiet once `ends` says that it may be; and whether it is still open."""
    data, deadline = b"", time.monotonic() + patience
    while True:
        wait = QUIET if ends(data) else deadline - time.monotonic()
        if wait <= 0:
            return data, True
        connection.settimeout(wait)
        try:
            more = connection.recv(65536)
        except TimeoutError:
            return data, True
        except OSError:
            return data, False
        if not more:
            return data, False
        data += more


def attempt(address, recorder, case):
    """Sends one case, and a well-formed request behind it where the connection is still open."""
    host, port = address.rsplit(":", 1)
    recorder.take()
    canary = None
    with socket.create_connection((host, int(port))) as connection:
        connection.settimeout(HANGS)
        try:
            connection.sendall(case.raw)
        except OSError:
            pass
        patience = 0.5 if case.incomplete else HANGS
        data, open_ = read(connection, patience, lambda data: bool(FINAL.search(data)))
        statuses = [int(status) for status in FINAL.findall(data)]
        taken = recorder.take()
        if open_ and statuses and not case.incomplete:
            try:
                connection.sendall(CANARY)
                answer, _ = read(connection, HANGS, lambda data: bool(FINAL.search(data)))
            except OSError:
                answer = b""
            seen, malformed, _ = recorder.take()
            # A connection that is closed instead is no harm.
            canary = not answer or (seen == [("GET", "/canary", b"")] and not malformed)
    return Outcome(statuses, open_, taken, canary)


def faults(case, ours, others):
    """What is wrong with how Culvert took a case."""
    if ours.malformed:
        yield "forwards what is no request"
    if len(ours.requests) > case.requests:
        yield "forwards more requests than there are"
    if any(target == "/smuggled" for _, target, _ in ours.requests) and case.requests == 1:
        yield "forwards the smuggled request"
    if ours.requests and not any(other.requests for other in others):
        yield "forwards what both others refuse"
    if any(status >= 500 and status != 501 for status in ours.statuses):
        yield f"answers {max(ours.statuses)} to a fault of the visitor's"
    if not ours.statuses and ours.open and not case.incomplete:
        yield "answers nothing"
    if ours.canary is False:
        yield "misunderstands the next request"


def run(processes, program):
    install.debian(nginx="nginx-light", haproxy="haproxy")
    recorders = [Recorder() for _ in range(3)]
    culvert = Culvert(processes, program, [tunnel_host("odd", HOST.decode(), recorders[0].address)])
    addresses = [culvert.http, nginx(processes, recorders[1].address), haproxy(processes, recorders[2].address)]
    outcomes = [[], [], []]

    def visit(index):
        for case in CASES:
            outcomes[index].append(attempt(addresses[index], recorders[index], case))

    visitors = [threading.Thread(target=visit, args=(index,)) for index in range(3)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()

    table, problems = ["case\tCulvert\tnginx\tHAProxy"], []
    for case, ours, *others in zip(CASES, *outcomes):
        table.append("\t".join([case.name[:120], *(outcome.text() for outcome in (ours, *others))]))
        problems += [f"{fault}: {table[-1]}" for fault in faults(case, ours, others)]
    (processes.folder / "cases.tsv").write_text("\n".join(table) + "\n")
    for index, name in enumerate(("Culvert", "nginx", "HAProxy")):
        others = [outcomes[other] for other in range(3) if other != index]
        judged = [any(faults(case, own, rest)) for case, own, *rest in zip(CASES, outcomes[index], *others)]
        refused = sum(not outcome.requests and not outcome.malformed for outcome in outcomes[index])
        print(f"   {name}: {refused} of {len(CASES)} refused, {sum(judged)} with a fault by these rules")
    return problems
