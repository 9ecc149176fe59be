"""The only edge is restarted at once, or is away for a while and comes back to many agents."""

import signal
import time

from fleet import answers, logged
from processes import until
from table import at_most, median_at_most, told
from visitors import Visitors

AGENTS = 200


def run(run):
    for how in (signal.SIGTERM, signal.SIGKILL):
        yield from at_once(run, how)
    yield from away(run, 5 if run.quick else 30, 40 if run.quick else AGENTS, run.rounds(5, 1))
    if run.long:
        yield from away(run, 600, AGENTS, 1)


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
    fleet = run.fleet()
    edge = fleet.edge()
    agents = [fleet.agent(f"agent-{number}", edge) for number in range(count)]
    until("all agents", lambda: edge.sessions() >= count)
    late, dials, worst = [], [], []
    for _ in range(rounds):
        edge.process.send_signal(signal.SIGKILL)
        edge.process.wait()
        time.sleep(seconds)
        edge.start()
        until("all agents", lambda: edge.sessions() >= count)
        start = opened(edge)
        times = sorted(time - start for time in logged(edge.process, "agent connected"))[:count]
        late += times
        worst.append(times[-1])
        series = "culvert_agent_connects_total"
        total = sum(edge.metric(f'{series}{{result="{result}"}}') for result in ("accepted", "already_met", "malformed", "leaving"))
        rejected = sum(edge.metric(f'culvert_bridge_rejected_total{{reason="{reason}"}}') for reason in ("timeout", "tls", "http"))
        dials.append((total + rejected) / len(times))
    name = f"edge away {seconds} s, {count} agents"
    yield median_at_most(f"{name}: back after the listener opened", late, 0.5, "s")
    yield at_most("the last of them", worst, 1, "s")
    yield at_most("dials for each that was needed", dials, 2)
    for agent in agents:
        run.processes.end(agent.process)
    run.processes.end(edge.process)
