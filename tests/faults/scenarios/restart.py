"""The only edge is restarted at once, or is away for a while and comes back to many agents."""

import signal
import time

from fleet import CONNECTIONS, answers, kill, lines, logged
from processes import until
from table import at_most, median_at_most, told
from visitors import Visitors

AGENTS = 200


def run(run):
    for how in (signal.SIGTERM, signal.SIGKILL):
        yield from at_once(run, how)
    yield from away(run, 5 if run.quick else 30, 40 if run.quick else AGENTS, run.rounds(5, 1))
    if run.long:
        yield from long_away(run, 600, AGENTS, run.rounds(5))


def opened(edge):
    return next(logged(edge.process, '"listening"'))


def at_once(run, how):
    fleet = run.fleet()
    edge = fleet.edge()
    agent = fleet.agent("agent", edge).connected()
    failed, back, outage = [], [], []
    for _ in range(run.rounds(10, 3)):
        answers(edge.http)
        visitors = Visitors(edge.http)
        time.sleep(1)
        begun = time.monotonic()
        edge.process.send_signal(how)
        edge.process.wait(timeout=60)
        edge.start()
        outage.append(answers(edge.http) - begun)
        time.sleep(0.5)
        failed.append(sum(visit.failed for visit in visitors.stop()))
        connected = until("the agent", lambda: list(logged(edge.process, "agent connected")))
        back.append(min(connected) - opened(edge))
        time.sleep(5)  # what was lost at once again would be dialled more slowly
    name = f"edge restarted by {how.name}"
    yield at_most(f"{name}, 50 requests/s: failed", failed, 6)
    yield at_most("agent back after the listener opened", back, 0.1, "s")
    yield told("from the signal to the next 200", outage, "s")
    run.processes.end(agent.process)
    run.processes.end(edge.process)


def away(run, seconds, count, rounds):
    """One edge that goes and comes back so often."""
    edge, agents = settled(run, count)
    measured = []
    for _ in range(rounds):
        kill(edge.process)
        time.sleep(seconds)
        measured.append(come_back(edge, count))
    yield from figures(seconds, count, measured)
    end(run, edge, agents)


def long_away(run, seconds, count, edges):
    """So many edges, each with agents of its own, that are away at the same time and come back one after the other."""
    fleets = [settled(run, count) for _ in range(edges)]
    gone = []
    for edge, _ in fleets:
        kill(edge.process)
        gone.append(time.monotonic())
        time.sleep(10)
    measured = []
    for (edge, agents), since in zip(fleets, gone):
        time.sleep(max(0, since + seconds - time.monotonic()))
        measured.append(come_back(edge, count))
        end(run, edge, agents)
    yield from figures(seconds, count, measured)


def settled(run, count):
    fleet = run.fleet()
    edge = fleet.edge(f"edge-{fleet.id}")
    agents = [fleet.agent(f"agent-{fleet.id}-{number}", edge) for number in range(count)]
    until("all agents", lambda: edge.agents() >= count)
    return edge, agents


def come_back(edge, count):
    """Starts the edge again; answers when each agent was back, in order, and how often they dialled for it."""
    edge.start()
    until("all agents", lambda: edge.agents() >= count)
    start = opened(edge)
    first = {}  # of each agent's sessions
    for at, line in lines(edge.process, "agent connected"):
        first.setdefault(line["instance"], at - start)
    times = sorted(first.values())
    series = "culvert_agent_connects_total"
    total = sum(edge.metric(f'{series}{{result="{result}"}}') for result in ("accepted", "already_met", "malformed", "leaving"))
    rejected = sum(edge.metric(f'culvert_bridge_rejected_total{{reason="{reason}"}}') for reason in ("timeout", "tls", "http"))
    return times, (total + rejected) / (CONNECTIONS * count)


def figures(seconds, count, measured):
    name = f"edge away {seconds} s, {count} agents"
    yield median_at_most(f"{name}: back after the listener opened", [each for times, _ in measured for each in times], 0.5, "s")
    yield at_most("the last of them", [times[-1] for times, _ in measured], 1, "s")
    yield at_most("dials for each that was needed", [dials for _, dials in measured], 2)


def end(run, edge, agents):
    for agent in agents:
        run.processes.end(agent.process)
    run.processes.end(edge.process)
