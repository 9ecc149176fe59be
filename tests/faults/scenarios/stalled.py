"""Visitors who ask for something large and take nothing of it, beside others of the same agent."""

import re
import socket
import subprocess
import time

from fleet import HOST, answers, rss_kib
from table import at_most, median_at_most

COUNTS = (1, 16, 64, 128)
UNITS = {"us": 1e-3, "ms": 1, "s": 1e3}


def latencies(address, seconds):
    """p50 and p99 of one visitor after another, in milliseconds."""
    command = ["wrk", "-t1", "-c4", f"-d{seconds}s", "--latency", "-H", f"Host: {HOST}", f"http://{address}/small"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = [re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s)", said, re.M) for percent in (50, 99)]
    return [float(match[1]) * UNITS[match[2]] for match in found]


def stall(address):
    host, port = address.split(":")
    reader = socket.socket()
    # A small window of its own: what waits is the tunnel's.
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    reader.connect((host, int(port)))
    reader.sendall(f"GET /large HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
    reader.recv(1024)
    return reader


def run(run):
    fleet = run.fleet()
    edge = fleet.edge()
    agent = fleet.agent("agent", edge).connected()
    answers(edge.http)
    seconds = 1 if run.quick else 4
    latencies(edge.http, seconds)  # what is allocated on first use is nobody's
    rows = {count: ([], [], [], []) for count in COUNTS}
    for _ in range(run.rounds(5)):
        for count in COUNTS:
            held, kept, middle, high = rows[count]
            before = latencies(edge.http, seconds)
            none = rss_kib(edge.process, agent.process)
            readers = [stall(edge.http) for _ in range(count)]
            time.sleep(2)
            beside = latencies(edge.http, seconds)
            held.append((rss_kib(edge.process, agent.process) - none) / 1024)
            for reader in readers:
                reader.close()
            time.sleep(10)
            kept.append((rss_kib(edge.process, agent.process) - none) / 1024)
            after = latencies(edge.http, seconds)
            # Beside the mean of before and after: a busy machine drifts.
            middle.append(2 * beside[0] / (before[0] + after[0]))
            high.append(2 * beside[1] / (before[1] + after[1]))
    for count, (held, kept, middle, high) in rows.items():
        yield at_most(f"{count} stalled readers: RSS of edge and agent above none", held, 32, "MiB")
        yield at_most("10 s after they left", kept, 8, "MiB")
        yield median_at_most("others' p50 ÷ without", middle, 1.1)
        yield median_at_most("others' p99 ÷ without", high, 1.5)
