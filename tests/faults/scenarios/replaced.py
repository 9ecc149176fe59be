"""An agent is replaced by another process of the same identity, and asked to stop: no setting on either side."""

import re
import signal
import socket
import threading
import time

from fleet import HOST, SLOW_BYTES, answers
from processes import until
from table import at_most, told
from visitors import Visitors


def download(address, cut):
    host, port = address.split(":")
    received = b""
    try:
        with socket.create_connection((host, int(port)), timeout=60) as connection:
            connection.sendall(f"GET /slow HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            while piece := connection.recv(1 << 16):
                received += piece
    except OSError:
        pass
    head, _, body = received.partition(b"\r\n\r\n")
    whole = re.match(rb"HTTP/1.1 200 ", head) and len(body) == SLOW_BYTES
    cut.append(0 if whole else 1)


def run(run):
    fleet = run.fleet()
    edge = fleet.edge()
    old = fleet.agent("agent-0", edge).connected()
    answers(edge.http)
    failed, cuts, took, codes = [], [], [], []
    for number in range(run.rounds(5)):
        visitors = Visitors(edge.http)
        cut = []
        downloads = [threading.Thread(target=download, args=(edge.http, cut)) for _ in range(4)]
        for thread in downloads:
            thread.start()
        time.sleep(1)
        new = fleet.agent(f"agent-{number + 1}", edge).connected()
        until("both", lambda: edge.agents() >= 2)
        begun = time.monotonic()
        old.process.send_signal(signal.SIGTERM)
        codes.append(abs(old.process.wait(timeout=60)))
        took.append(time.monotonic() - begun)
        for thread in downloads:
            thread.join()
        failed.append(sum(visit.failed for visit in visitors.stop()))
        cuts.append(sum(cut))
        old = new
    yield at_most("50 requests/s: failed", failed, 0)
    yield at_most("downloads cut, of four that run for 8 s", cuts, 0)
    yield at_most("exit code of the old agent", codes, 0)
    yield told("until the old agent was gone", took, "s")
