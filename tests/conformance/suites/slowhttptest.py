"""slowhttptest: visitors who send or read as slowly as they can, beside wrk's; those must hardly notice.

Each attack opens 1,000 connections to the listener that wrk loads. The service must stay available to slowhttptest's own
probe all along, no request of wrk may fail, and the 99th percentile of its latency may move by less than half. It drifts with the
machine's load by more than that within a minute, so each attack is compared with what was right before and right after
it, and the median of these ratios counts. wrk's visitors pause between their requests, so that the percentile is the service's and not that of a queue
for the processors; the attacker, who would have processors of its own, gets what the others leave (SCHED_IDLE). An nginx in
the same place is attacked in the same way, to tell what of the rest is the machine's.
"""

import concurrent.futures
import csv
import re
import statistics
import subprocess
import time

import install
from culvert import Culvert, tunnel_host
from nginx import nginx
from processes import free_port

CONNECTIONS, A_SECOND, SECONDS = 1000, 200, 17
ROUNDS = {"nginx": 1, "Culvert": 5}
# How often and how long wrk measures during one attack, and between two.
LOADS, LOAD_SECONDS = 2, 5
# What is asked for, and how.
ATTACKS = {
    "slow headers": ("small", ["-H", "-i", "2"]),
    "slow body": ("upload", ["-B", "-i", "2", "-s", "100000"]),
    "slow read": ("large", ["-X", "-w", "10", "-y", "20", "-n", "5", "-z", "10", "-k", "1"]),
    "ranges": ("large", ["-R", "-a", "10", "-b", "3000"]),
}
# wrk's visitors: each waits up to 40 ms before its next request.
VISITORS = 20
PAUSE = "function delay() return math.random(1, 40) end"


def run(processes, program):
    install.debian(slowhttptest="slowhttptest", nginx="nginx-light", wrk="wrk")
    port = free_port()
    pages = processes.folder / "pages"
    pages.mkdir(exist_ok=True)
    (pages / "small").write_text("x" * 1024)
    (pages / "large").write_text("x" * (1 << 20))
    # An upload is answered once it is there as a whole.
    upload = f"location /upload {{ proxy_pass http://127.0.0.1:{port}/small; proxy_method GET; }}"
    site = f"server {{ listen 127.0.0.1:{port} backlog=4096; root {pages}; {upload} }}"
    nginx(processes, "backend", site)
    hop = f"127.0.0.1:{free_port()}"
    forward = 'proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection "";'
    upstream = f"upstream backend {{ server 127.0.0.1:{port}; keepalive 64; }}"
    nginx(processes, "hop", f"{upstream} server {{ listen {hop} backlog=4096; location / {{ {forward} }} }}")
    culvert = Culvert(processes, program, [tunnel_host("suite", "localhost", f"127.0.0.1:{port}")])
    attacked(processes.folder, "nginx", hop)
    return attacked(processes.folder, "Culvert", culvert.http)


def attacked(folder, who, address):
    """Attacks a listener in each way, and says what went wrong."""
    problems = []
    for name, (page, flags) in ATTACKS.items():
        alone, beside, closed = [loads(folder, address)], [], 0
        for number in range(ROUNDS[who]):
            report = f"{who}, {name} {number}"
            with concurrent.futures.ThreadPoolExecutor(1) as pool:
                attack = pool.submit(slow, folder, f"{address}/{page}", report, flags)
                time.sleep(CONNECTIONS / A_SECOND)
                beside.append(loads(folder, address))
            attack.result()
            closed += unavailable(folder, report)
            alone.append(loads(folder, address))
        calm, high = (sum(group, []) for group in (alone, beside))
        # Of the four around each attack: one that the machine held up makes no difference.
        around = [p99(before + after) for before, after in zip(alone, alone[1:])]
        ratios = [p99(during) / others for during, others in zip(beside, around)]
        moved = statistics.median(ratios) - 1
        latency = f"p99 {p99(calm):.2f} ms alone, {p99(high):.2f} ms attacked"
        told = f"{latency}; moved by {moved:+.0%} ({min(ratios) - 1:+.0%} to {max(ratios) - 1:+.0%})"
        print(f"   {who}, {name}: {told}; unavailable in {closed} of the attack's seconds", flush=True)
        problems += [f"{name}: wrk: {each['failed']}" for each in calm + high if each["failed"]]
        if closed:
            problems.append(f"{name}: the probe got no answer in {closed} seconds")
        if moved > 0.5:
            problems.append(f"{name}: p99 moved by {moved:+.0%}")
    return problems


def p99(seen):
    return statistics.median(each["p99"] for each in seen)


def loads(folder, address):
    return [load(folder, address) for _ in range(LOADS)]


def load(folder, address):
    """A few visitors, far below what the edge can do."""
    script = folder / "pause.lua"
    script.write_text(PAUSE)
    command = ["wrk", "-t1", f"-c{VISITORS}", f"-d{LOAD_SECONDS}s", "--latency", "-s", script, "-H", "Host: localhost"]
    command.append(f"http://{address}/small")
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    high = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    failed = re.search(r"^\s*(Non-2xx.*|Socket errors:.*)$", said, re.M)
    return {"p99": float(high[1]) * {"us": 1e-3, "ms": 1, "s": 1e3}[high[2]], "failed": failed and failed[1]}


def slow(folder, address, name, flags):
    url = f"http://localhost:{address.rsplit(':', 1)[1]}"
    command = ["chrt", "-i", "0", "slowhttptest", *flags, "-c", str(CONNECTIONS), "-r", str(A_SECOND), "-l", str(SECONDS)]
    command += ["-p", "3", "-u", url]
    with open(folder / f"{name}.log", "wb") as log:
        report = ["-g", "-o", folder / name]
        subprocess.run([*command, *report], check=True, stdout=log, stderr=log, timeout=SECONDS + 60)


def unavailable(folder, name):
    """In how many of its seconds slowhttptest's own probe was not answered."""
    with open(folder / f"{name}.csv") as seconds:
        return sum(row["Service Available"].strip() == "0" for row in csv.DictReader(seconds))
