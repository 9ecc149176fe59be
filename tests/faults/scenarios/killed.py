"""An agent is killed, alone and beside another; one of two edges is killed behind a balancer that retries, and one of two peers."""

import time

from fleet import answers, backend, get, kill
from processes import until
from table import at_most, told
from visitors import Visitors


def run(run):
    yield from alone(run)
    yield from beside_another(run)
    yield from one_of_two_edges(run)
    yield from one_of_two_peers(run)


def alone(run):
    fleet = run.fleet()
    edge = fleet.edge()
    agent = fleet.agent("agent", edge).connected()
    first, slowest, back, odd, early = [], [], [], [], []
    for _ in range(run.rounds(20, 5)):
        answers(edge.http)
        kill(agent.process)
        killed = time.monotonic()
        told_by = None
        for number in range(20):
            begun = time.monotonic()
            status, retry_after, _ = get(edge.http)
            well_formed = status == 503 and retry_after
            if begun - killed > 0.05:
                slowest.append(1000 * (time.monotonic() - begun))
                odd.append(0 if well_formed else 1)
            else:
                early.append(0 if well_formed else 1)
            if well_formed and told_by is None:
                told_by = 1000 * (time.monotonic() - killed)
            time.sleep(0.01)
        first.append(told_by)
        begun = time.monotonic()
        agent.start()
        back.append(answers(edge.http) - begun)
    yield at_most("agent killed, alone: first 503 after the kill", first, 50, "ms")
    yield at_most("each 503 after that", slowest, 50, "ms")
    yield at_most("of those begun 50 ms after the kill, no 503 with Retry-After", [sum(odd)], 0)
    yield told("the same, of those begun before: 502, since they were in flight", [sum(early)])
    yield at_most("agent started again → 200", back, 0.1, "s")
    run.processes.end_all()


def beside_another(run):
    run.target = backend(run.processes)
    fleet = run.fleet()
    edge = fleet.edge()
    agents = [fleet.agent(f"agent-{number}", edge).connected() for number in range(2)]
    late, early = [], []
    for number in range(run.rounds(20, 5)):
        victim = agents[number % 2]
        visitors = Visitors(edge.http, rate=200)
        time.sleep(0.5)
        kill(victim.process)
        killed = time.monotonic()
        time.sleep(0.5)
        visits = visitors.stop()
        early.append(sum(visit.failed for visit in visits if visit.begun <= killed + 0.05))
        late.append(sum(visit.failed for visit in visits if visit.begun > killed + 0.05))
        victim.start().connected()
    yield at_most("one of two agents killed, 200 requests/s: failed of those begun 50 ms later", late, 0)
    yield told("failed of those before", early)
    run.processes.end_all()


def one_of_two_edges(run):
    run.target = backend(run.processes)
    fleet = run.fleet()
    edges = [fleet.edge(f"edge-{number}") for number in range(2)]
    for number, edge in enumerate(edges):
        fleet.agent(f"agent-{number}", edge).connected()
    failed = edges_killed(run, edges)
    yield at_most("one of two edges killed, each with an agent of its own, 50 requests/s: failed", failed, 0)
    run.processes.end_all()


def one_of_two_peers(run):
    """Both have sessions with one agent, which is told of both by either."""
    run.target = backend(run.processes)
    fleet = run.fleet()
    edges = fleet.peers("a", "b")
    fleet.agent("agent", edges[0])
    for edge in edges:
        until(f"the agent at {edge.name}", lambda: edge.agents() == 1)
    failed = edges_killed(run, edges, lambda edge: until("the agent", lambda: edge.agents() == 1))
    yield at_most("one of two peers killed, with one agent for both, 50 requests/s: failed", failed, 0)


def edges_killed(run, edges, settled=lambda edge: None):
    failed = []
    for number in range(run.rounds(20, 5)):
        victim = edges[number % 2]
        visitors = Visitors(*(edge.http for edge in edges), retries=True)
        time.sleep(0.5)
        kill(victim.process)
        time.sleep(0.5)
        victim.start()
        answers(victim.http)
        failed.append(sum(visit.failed for visit in visitors.stop()))
        settled(victim)
    return failed
