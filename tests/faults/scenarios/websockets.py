"""Thousands of idle WebSockets: what they cost, how fast they open, and whether they still echo."""

import subprocess
import time

from fleet import HOST, rss_kib
from processes import PATIENCE
from table import at_most

COUNTS = (5000, 9500)


def hold(run, edge, count):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    begun = time.monotonic()
    holder = run.processes.start("ws-idle", run.programs["ws"], "idle", edge.http, HOST, count, **pipes)
    if holder.stdout.readline().strip() != "open":
        raise SystemExit(f"faults: {count} WebSockets did not open; see {holder.log}")
    return holder, time.monotonic() - begun


def echoes(holder):
    """Uses each of them once; says whether all echoed."""
    holder.stdin.write("echo\n")
    holder.stdin.flush()
    return holder.stdout.readline().strip() == "echoed"


def run(run):
    echo = run.processes.start("ws-echo", run.programs["ws"], "echo", stdout=subprocess.PIPE, text=True)
    run.target = echo.stdout.readline().strip()
    counts = (500, 1000) if run.quick else COUNTS
    rows = {count: ([], [], []) for count in counts}
    for _ in range(run.rounds(5)):
        for count in counts:
            fleet = run.fleet()
            edge = fleet.edge()
            agent = fleet.agent("agent", edge).connected()
            warm, _ = hold(run, edge, 50)
            echoes(warm)
            warm.stdin.close()
            warm.wait(timeout=PATIENCE)
            time.sleep(1)
            none = rss_kib(edge.process, agent.process)
            holder, took = hold(run, edge, count)
            used = echoes(holder)
            time.sleep(10)  # what is given back after use is not theirs
            kib, opened, silent = rows[count]
            kib.append((rss_kib(edge.process, agent.process) - none) / count)
            opened.append(took)
            silent.append(0 if used and echoes(holder) else 1)
            holder.stdin.close()
            holder.wait(timeout=PATIENCE)
            for process in (holder, agent.process, edge.process):
                run.processes.end(process)
    for count, (kib, opened, silent) in rows.items():
        yield at_most(f"{count:,} idle WebSockets: edge and agent together, each", kib, 30, "KiB")
        yield at_most(f"{count:,} opened", opened, count / 1000, "s")
        yield at_most("rounds in which not all echoed, before or after", silent, 0)
