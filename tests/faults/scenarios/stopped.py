"""The edge is asked to stop: requests and downloads end, WebSockets are told, and the process is gone in time with exit code 0."""

import signal
import socket
import subprocess
import threading
import time

from fleet import answers
from replaced import download
from table import at_most, told

WEBSOCKETS = 50
DRAIN = 10  # seconds; a download takes 8
GOING_AWAY = bytes([0x88, 2, 0x03, 0xE9])
UPGRADE = (
    f"GET / HTTP/1.1\r\nHost: ws.faults.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
).encode()


def websocket(address):
    host, port = address.split(":")
    stream = socket.create_connection((host, int(port)), timeout=30)
    stream.sendall(UPGRADE)
    head = b""
    while b"\r\n\r\n" not in head:
        head += stream.recv(1)
    assert b" 101 " in head, head
    return stream


def goodbye(stream, told_of, begun, times):
    """Reads to the end; all that may come is one Close frame."""
    rest = b""
    try:
        while piece := stream.recv(1 << 16):
            rest += piece
    except OSError:
        rest = b"reset"
    told_of.append(rest == GOING_AWAY)
    times.append(time.monotonic() - begun)
    stream.close()


def run(run):
    echo = run.processes.start("ws-echo", run.programs["ws"], "echo", stdout=subprocess.PIPE, text=True)
    fleet = run.fleet()
    fleet.add("ws", "ws.faults.test", echo.stdout.readline().strip())
    edge = fleet.edge(flags=("--drain-delay", "1s", "--drain-timeout", f"{DRAIN}s"))
    agent = fleet.agent("agent", edge).connected()
    untold, early, late, cuts, codes, took = [], [], [], [], [], []
    for _ in range(run.rounds(5)):
        answers(edge.http)
        streams = [websocket(edge.http) for _ in range(WEBSOCKETS)]
        cut, told_of, times = [], [], []
        begun = time.monotonic()
        threads = [threading.Thread(target=download, args=(edge.http, cut)) for _ in range(2)]
        time.sleep(0.2)
        threads += [threading.Thread(target=goodbye, args=(stream, told_of, begun, times)) for stream in streams]
        for thread in threads:
            thread.start()
        time.sleep(0.5)
        edge.process.send_signal(signal.SIGTERM)
        asked = time.monotonic() - begun
        answers(edge.http)  # not ready any more, and serving all the same
        codes.append(abs(edge.process.wait(timeout=60)))
        took.append(time.monotonic() - begun - asked)
        for thread in threads:
            thread.join()
        cuts.append(sum(cut))
        untold.append(told_of.count(False))
        early.append(sum(ended - asked < DRAIN for ended in times))
        late.append(max(times) - asked - 1 - DRAIN)
        edge.start()
    yield at_most(f"WebSockets of {WEBSOCKETS} that ended otherwise than by a Close frame 1001", untold, 0)
    yield at_most("WebSockets that ended before the deadline", early, 0)
    yield at_most("the last of them after the deadline", late, 2, "s")
    yield at_most("downloads cut, of two that run for 8 s", cuts, 0)
    yield at_most("exit code", codes, 0)
    yield told("from the signal to the end of the process", took, "s")
    for process in (agent.process, edge.process):
        run.processes.end(process)
