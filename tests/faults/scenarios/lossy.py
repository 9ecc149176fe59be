"""A line of 50 ms that loses one packet in a thousand, between networks of their own: what a tunnel comes to beside one TCP connection."""

import collections
import os
import statistics
import subprocess
import sys
from pathlib import Path

from distance import ONE_WAY, UPLOADS, eight, measure
from fleet import answers
from namespace import Namespace
from nginx import nginx
from table import at_least, at_most, median_at_most, told

LOSS = 0.001
EDGE, AGENT = "10.202.0.1", "10.202.0.2"
PORT = 8080


class Line(Namespace):
    """A network at the other end of a wire that is slow and loses packets."""

    def lay(self, processes):
        script = Path(__file__).resolve().parents[1] / "wire.py"
        wire = [sys.executable, script, self.near, self.far, ONE_WAY, LOSS]
        wire = processes.start("wire", *wire, stdout=subprocess.PIPE, text=True)
        if wire.stdout.readline() != "up\n":
            raise SystemExit(f"faults: no tun devices; see {wire.log}")
        inside = f"ip -n {self.name}"
        self.make(
            f"ip link set {self.far} netns {self.name}",
            f"ip addr add {EDGE} peer {AGENT} dev {self.near}",
            f"ip link set {self.near} txqueuelen 50000 up",
            f"{inside} addr add {AGENT} peer {EDGE} dev {self.far}",
            f"{inside} link set {self.far} txqueuelen 50000 up",
        )


def run(run):
    if os.geteuid():
        print("faults: without root there is no network that loses packets", file=sys.stderr)
        return
    line = Line()
    try:
        line.lay(run.processes)
        yield from over(run, line)
    finally:
        line.remove()


def over(run, line):
    www = run.processes.folder / "www"
    nginx(run.processes, "far", f"server {{ listen {PORT} backlog=4096; root {www}; }}", prefix=line.enter())
    sink = [*line.enter(), sys.executable, Path(__file__).resolve().parents[1] / "sink.py"]
    sink = run.processes.start("sink", *sink, stdout=subprocess.PIPE, text=True).stdout.readline().strip()
    run.target = f"127.0.0.1:{PORT}"
    fleet = run.fleet()
    edge = fleet.edge(listen="0.0.0.0")
    fleet.add("uploads", UPLOADS, sink)
    ports = {name: getattr(edge, name).rpartition(":")[2] for name in ("http", "admin", "bridge")}
    edge.http, edge.admin, edge.bridge = f"127.0.0.1:{ports['http']}", f"127.0.0.1:{ports['admin']}", f"{EDGE}:{ports['bridge']}"
    agent = fleet.agent("agent", edge, prefix=line.enter()).connected()
    answers(edge.http)
    direct = f"{AGENT}:{PORT}"
    measured = collections.defaultdict(list)
    for _ in range(run.rounds(5)):
        measure(measured, edge, agent, direct)
        measured["direct eight"].append(eight(direct))
    share = lambda name, of: [mine / statistics.median(measured[of]) for mine in measured[name]]
    yield told("a direct TCP connection over the line, 64 MiB", measured["direct"], "MB/s")
    yield told("eight of them together", measured["direct eight"], "MB/s")
    yield told("1 KiB over such a one, beyond the round trip", measured["one"], "ms")
    yield median_at_most("1 KiB alone, beyond the round trip", measured["alone"], 4, "ms")
    yield told("64 MiB down", measured["down"], "MB/s")
    yield at_least("its share of the direct one's", share("down", "direct"), 0.9)
    yield told("64 MiB up", measured["up"], "MB/s")
    yield at_least("its share of the direct one's", share("up", "direct"), 0.9)
    yield told("eight downloads at once, together", measured["eight"], "MB/s")
    yield told("1 KiB beside them", measured["beside"], "ms")
    yield at_most("RSS of edge and agent meanwhile, above before", measured["memory"], 64, "MiB")
