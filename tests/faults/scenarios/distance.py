"""A line of 50 ms between agent and edge: small requests alone and beside bulk, and what a download or upload comes to."""

import collections
import concurrent.futures
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

from fleet import HOST, answers, rss_kib
from table import at_least, at_most, median_at_most, told

ONE_WAY = 0.025  # seconds
BULK = 64 << 20


UPLOADS = "uploads.faults.test"


def helper(run, name, *args):
    """Starts a program of this folder, and answers the address that it prints."""
    script = Path(__file__).resolve().parents[1] / f"{name}.py"
    process = run.processes.start(name, sys.executable, script, *args, stdout=subprocess.PIPE, text=True)
    return process.stdout.readline().strip()


def transfer(address, upload=False, size=BULK):
    """Megabytes a second of one download or upload, its first round trip included."""
    host, port = address.split(":")
    begun = time.monotonic()
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        head = f"Host: {UPLOADS if upload else HOST}\r\nConnection: close\r\n"
        if upload:
            connection.sendall(f"POST / HTTP/1.1\r\n{head}Content-Length: {size}\r\n\r\n".encode())
            piece, left = bytes(1 << 20), size
            while left:
                connection.sendall(piece[: min(left, len(piece))])
                left -= min(left, len(piece))
        else:
            connection.sendall(f"GET /large HTTP/1.1\r\n{head}Range: bytes=0-{size - 1}\r\n\r\n".encode())
        buffer, received = memoryview(bytearray(1 << 20)), 0
        while count := connection.recv_into(buffer):
            received += count
    if not upload and received < size:
        raise ConnectionError(f"a download of {size} bytes brought {received}")
    return size / 1e6 / (time.monotonic() - begun)


def small(address, count):
    """Milliseconds of small requests, one after the other over one connection."""
    host, port = address.split(":")
    times = []
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(count):
            begun = time.monotonic()
            connection.sendall(f"GET /small HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
            answer = b""
            while b"\r\n\r\n" not in answer or len(answer.partition(b"\r\n\r\n")[2]) < 1024:
                answer += connection.recv(1 << 16)
            times.append(1000 * (time.monotonic() - begun))
    return times[1:]


def eight(address, beside=lambda: None):
    """Megabytes a second of eight downloads together; `beside` is called while they run."""
    begun = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        downloads = [pool.submit(transfer, address) for _ in range(8)]
        time.sleep(0.5)
        beside()
    # One that was cut raises here.
    for download in downloads:
        download.result()
    return 8 * BULK / 1e6 / (time.monotonic() - begun)


def measure(measured, edge, agent, direct):
    """One round: over a direct connection to the backend, and through the tunnel."""
    measured["direct"].append(transfer(direct))
    measured["one"].append(statistics.median(small(direct, 20)) - 2000 * ONE_WAY)
    measured["alone"].append(statistics.median(small(edge.http, 20)) - 2000 * ONE_WAY)
    measured["down"].append(transfer(edge.http))
    measured["up"].append(transfer(edge.http, upload=True))
    none = rss_kib(edge.process, agent.process)

    def beside():
        measured["beside"].append(statistics.median(small(edge.http, 12)))
        measured["memory"].append((rss_kib(edge.process, agent.process) - none) / 1024)

    measured["eight"].append(eight(edge.http, beside))


def run(run):
    fleet = run.fleet()
    edge = fleet.edge()
    fleet.add("uploads", UPLOADS, helper(run, "sink"))
    near = edge.bridge
    edge.bridge = helper(run, "line", near, ONE_WAY)
    agent = fleet.agent("agent", edge).connected()
    edge.bridge = near
    answers(edge.http)
    direct = helper(run, "line", run.target, ONE_WAY)
    measured = collections.defaultdict(list)
    for _ in range(run.rounds(5)):
        measure(measured, edge, agent, direct)
    yield told("a direct TCP connection over such a line, 64 MiB", measured["direct"], "MB/s")
    yield told("1 KiB over the same, beyond the round trip", measured["one"], "ms")
    yield median_at_most("1 KiB alone, beyond the round trip", measured["alone"], 4, "ms")
    yield at_least("64 MiB down", measured["down"], 70, "MB/s")
    yield at_least("64 MiB up", measured["up"], 70, "MB/s")
    yield at_least("eight downloads at once, together", measured["eight"], 120, "MB/s")
    yield median_at_most("1 KiB beside them", measured["beside"], 75, "ms")
    yield at_most("RSS of edge and agent meanwhile, above before", measured["memory"], 64, "MiB")
