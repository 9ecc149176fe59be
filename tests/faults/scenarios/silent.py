"""An agent falls silent: frozen (SIGSTOP), or with all packets of its network dropped; alone, and beside another."""

import os
import secrets
import signal
import subprocess
import sys
import time

from fleet import answers
from namespace import Namespace
from processes import until
from table import at_most, told
from visitors import Visitors

NOTICED = 10  # seconds that an edge may take


def run(run):
    yield from frozen(run, alone=True)
    yield from frozen(run, alone=False)
    if os.geteuid() == 0:
        yield from cut_off(run)
    else:
        print("faults: without root there is no network namespace, and nothing that drops packets", file=sys.stderr)


class Freeze:
    """The agent process stands still."""

    def __init__(self, agent):
        self.agent = agent

    def begin(self):
        self.agent.process.send_signal(signal.SIGSTOP)

    def end(self):
        self.agent.process.send_signal(signal.SIGCONT)


class Cut(Namespace):
    """A network of its own for an agent, whose packets can be made to vanish in both directions without either side being told."""

    def __init__(self):
        super().__init__()
        subnet = f"10.{200 + secrets.randbelow(50)}.{secrets.randbelow(250)}"
        self.edge_address, self.agent_address = f"{subnet}.1", f"{subnet}.2"
        self.make(
            f"ip link add {self.near} type veth peer name {self.far} netns {self.name}",
            f"ip addr add {self.edge_address}/30 dev {self.near}",
            f"ip link set {self.near} up",
            f"ip -n {self.name} addr add {self.agent_address}/30 dev {self.far}",
            f"ip -n {self.name} link set {self.far} up",
        )

    def begin(self):
        # To an address that nobody has on that wire, nothing arrives, and nobody is told.
        nobody = "lladdr 02:00:00:00:00:99 nud permanent"
        subprocess.run(f"ip neigh replace {self.agent_address} {nobody} dev {self.near}".split(), check=True)
        subprocess.run(f"ip -n {self.name} neigh replace {self.edge_address} {nobody} dev {self.far}".split(), check=True)

    def end(self):
        subprocess.run(f"ip neigh del {self.agent_address} dev {self.near}".split(), check=True)
        subprocess.run(f"ip -n {self.name} neigh del {self.edge_address} dev {self.far}".split(), check=True)


def rounds(run, edge, silence, agents, alone):
    """Makes the first agent silent again and again while visitors come."""
    answered, noticed, healed, failed = [], [], [], []
    for number in range(run.rounds(10)):
        answers(edge.http)
        time.sleep(6)  # what was lost at once again would be dialled more slowly
        visitors = Visitors(edge.http, rate=20)
        time.sleep(0.5)
        silence.begin()
        begun = time.monotonic()
        until("the end of the silent sessions", lambda: edge.agents() <= agents - 1)
        noticed.append(time.monotonic() - begun)
        time.sleep(max(0, begun + 5 - time.monotonic()))
        silence.end()
        ended = time.monotonic()
        if alone:
            healed.append(answers(edge.http) - ended)
        else:
            until("both agents", lambda: edge.agents() >= agents)
            healed.append(time.monotonic() - ended)
        visits = visitors.stop()
        answered.append(max(visit.seconds for visit in visits))
        failed.append(sum(visit.failed for visit in visits))
        if any(visit.status == 0 for visit in visits):
            answered[-1] = float("inf")
    return answered, noticed, healed, failed


def rows(name, measured, alone):
    answered, noticed, healed, failed = measured
    yield at_most(f"{name}: noticed", noticed, NOTICED, "s")
    yield at_most("the longest wait of a visitor, each answered or moved", answered, NOTICED, "s")
    yield at_most("healed → 200" if alone else "healed → session", healed, 1, "s")
    yield told("failed (there is nobody else)", failed) if alone else at_most("failed", failed, 0)


def frozen(run, alone):
    fleet = run.fleet()
    edge = fleet.edge()
    agents = [fleet.agent(f"agent-{number}", edge).connected() for number in range(1 if alone else 2)]
    measured = rounds(run, edge, Freeze(agents[0]), len(agents), alone)
    yield from rows("the only agent frozen" if alone else "one of two agents frozen", measured, alone)
    for process in (*agents, edge):
        run.processes.end(process.process)


def cut_off(run):
    namespace = Cut()
    try:
        fleet = run.fleet()
        edge = fleet.edge(listen="0.0.0.0")
        port = run.target.rpartition(":")[2]
        fleet.objects[-1]["spec"]["routes"][0]["backend"]["targets"] = [{"address": f"{namespace.edge_address}:{port}"}]
        fleet.write()
        edge.http, edge.admin = (f"127.0.0.1:{address.rpartition(':')[2]}" for address in (edge.http, edge.admin))
        edge.bridge = f"{namespace.edge_address}:{edge.bridge.rpartition(':')[2]}"
        agent = fleet.agent("agent", edge, prefix=namespace.enter()).connected()
        measured = rounds(run, edge, namespace, 1, alone=True)
        yield from rows("packets of the only agent dropped", measured, alone=True)
        for process in (agent, edge):
            run.processes.end(process.process)
    finally:
        namespace.remove()
