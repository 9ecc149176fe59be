"""On a cluster: the edge is scaled 5 → 2 → 5 under 200 agents, which dial each replica's address, or one balancer.

An agent holds two sessions with each replica, and a dial fills any that the replica lacks to which it leads. So a balancer that leads
anywhere at random takes on the average (the coupon collector's problem with two of each) 1.38 dials for each session with two
replicas, and 2.68 for each with the three more that follow: (1.38 * 4 + 2.68 * 6) / 10 = 2.16 for both.
"""

import collections
import concurrent.futures
import re
import sys
import time

import kube
from fleet import fetch
from table import at_most, told
from usage import cpu_seconds, rss_kib

AGENTS = 200
SLOTS = 2  # sessions of an agent with each replica, as many as it holds by default
MOST, FEWEST = 5, 2
MESHED = 10  # seconds until each agent is to have met each replica
IDLE = 30  # seconds over which idle agents and replicas are watched
WAYS = {"addresses": ("bridge.advertise={ip}:7443", 1), "one balancer": ("bridge.advertise=", 3)}


class Agent:
    """A process on the node, with a TunnelAgent of its own."""

    def __init__(self, run, release, number, name, token):
        file = run.processes.folder / f"{name}.token"
        file.write_text(token)
        # An address each, where no other's outgoing connection has the port.
        self.admin = f"127.77.0.{number + 1}:9091"
        dial = ["--edge", release.bridge, "--edge-fingerprint", release.pin, "--agent", f"{kube.TENANT}/{name}"]
        options = ["--token-file", file, "--admin", self.admin, "--status-socket", "off"]
        self.process = run.processes.start(name, run.programs["culvert"], "agent", *dial, *options)

    def look(self):
        """How many sessions it has with each replica, and how many dials it made."""
        text = fetch(self.admin, "/metrics", timeout=30).decode()
        tunnels = re.findall(r'^culvert_agent_tunnels\{replica="([^"]+)",[^}]*\} (\d+)$', text, re.M)
        met = collections.Counter()
        for replica, count in tunnels:  # by each transport
            met[replica] += int(count)
        dials = re.findall(r'^culvert_agent_dials_total\{result="\w+"\} (\d+)$', text, re.M)
        return dict(met), sum(map(int, dials))


class Agents:
    def __init__(self, run, release, count):
        names = [f"agent-{number}" for number in range(count)]
        tokens = release.agents(names)
        self.release, self.missing = release, []
        self.all = [Agent(run, release, number, *each) for number, each in enumerate(tokens.items())]

    def looks(self):
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            return list(pool.map(Agent.look, self.all))

    def dials(self):
        return sum(dials for _, dials in self.looks())

    def meshed(self):
        """Waits until each has all its sessions with exactly the replicas that run."""
        whole_mesh = {pod["metadata"]["name"]: SLOTS for pod in self.release.pods()}

        def whole():
            try:
                self.missing = [(agent, met, dials) for agent, (met, dials) in zip(self.all, self.looks()) if met != whole_mesh]
            except OSError:  # one that has just been started
                return False
            return not self.missing

        try:
            kube.awaited("a full mesh", whole)
        except SystemExit:
            for agent, met, dials in self.missing:
                print(f"faults: {agent.process.log.stem} at {agent.admin}: has {met} after {dials} dials", file=sys.stderr)
            raise

    def scale(self, replicas):
        """Answers in what time after the last change of a pod each agent had met all, and with how many dials."""
        before = self.dials()
        self.release.scale(replicas)
        begun = time.monotonic()
        self.meshed()
        return time.monotonic() - begun, self.dials() - before

    def ids(self):
        return [agent.process.pid for agent in self.all]

    def end(self, processes):
        for agent in self.all:
            processes.end(agent.process)


def run(run):
    kube.in_cluster()
    count = 20 if run.quick else AGENTS
    for way, (value, most) in WAYS.items():
        release = kube.Release(FEWEST, value)
        yield from scaled(run, release, count, way, most)
        release.remove()


def scaled(run, release, count, way, most):
    edges = lambda: [kube.process_of(pod["metadata"]["name"]) for pod in release.pods()]
    memory = lambda ids: rss_kib(ids) / len(ids)
    before = memory(edges())
    agents = Agents(run, release, count)
    agents.meshed()
    time.sleep(MESHED)
    edge = (memory(edges()) - before) / count
    of_few = memory(agents.ids())
    agents.scale(MOST)
    first = [agents.dials() / (count * SLOTS * MOST)]
    time.sleep(MESHED)
    own = (memory(agents.ids()) - of_few) / (MOST - FEWEST)
    both = edges(), agents.ids()
    begun = [cpu_seconds(ids) for ids in both]
    time.sleep(IDLE)
    used = [cpu_seconds(ids) - since for ids, since in zip(both, begun)]

    down, up, took = [], [], []
    for _ in range(run.rounds(5, 1)):
        down.append(agents.scale(FEWEST)[1])
        seconds, dials = agents.scale(MOST)
        took.append(seconds)
        up.append(dials / (count * SLOTS * (MOST - FEWEST)))
    per = 1e6 / IDLE / (count * SLOTS * MOST)
    yield at_most(f"{way}: dials for each session of {count} agents with {FEWEST}, then {MOST} replicas", first, most)
    yield at_most(f"{MOST} → {FEWEST}: dials, where none is needed", down, 0)
    yield at_most(f"{FEWEST} → {MOST}: dials for each that is needed", up, most)
    yield at_most("until all agents had met all, from when the pods were there", took, MESHED, "s")
    yield at_most("an idle agent in a replica's memory", [edge], 100, "KiB")
    yield at_most("an idle replica in an agent's memory", [own], 100, "KiB")
    yield told("processor time of the replicas for each idle session, and of all else that they do, millionths of one", [used[0] * per])
    yield told("processor time of the agents for each idle session, and of all else, millionths of one", [used[1] * per])
    agents.end(run.processes)
