"""Tokens are rotated, guessed at, and kept waiting by a thousand who say nothing: what a good agent notices of it."""

import secrets
import select
import threading
import time

from fleet import answers, logged
from hostile import Against, registration
from processes import until
from table import at_most, told
from visitors import Visitors

SILENT = 1000
GUESSING = 8  # seconds
GUESSERS = 20


def run(run):
    yield from rotated(run)
    yield from guessed(run)
    yield from silent(run)


def rotated(run):
    """One agent with each of two tokens; the second is taken back while visitors come."""
    fleet = run.fleet()
    edge = fleet.edge()
    stays = fleet.agent("stays", edge).connected()
    tunnel_agent, once = fleet.objects[1]["spec"], fleet.objects[1]["spec"]["credentials"]
    failed, ended = [], []
    for number in range(run.rounds(5)):
        token, name = secrets.token_urlsafe(), f"second-{number}"
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "type": "culvert.dev/agent-token"}
        fleet.objects = [*fleet.objects, {**secret, "stringData": {"token": token}}]
        tunnel_agent["credentials"] = [*once, {"secretRef": {"name": name}}]
        fleet.write()
        file = run.processes.folder / name
        file.write_text(token)
        goes = fleet.agent(f"goes-{number}", edge, token=file).connected()
        until("two agents", lambda: edge.agents() == 2)
        visitors = Visitors(edge.http)
        time.sleep(1)
        tunnel_agent["credentials"] = once
        fleet.write()
        begun = time.monotonic()
        until("the end of the second one", lambda: edge.agents() == 1)
        ended.append(time.monotonic() - begun)
        time.sleep(2)
        failed.append(sum(visit.failed for visit in visitors.stop()))
        run.processes.end(goes.process)
    kept = edge.agents() == 1 and not list(logged(stays.process, "lost a session"))
    yield at_most("a token is taken back: its sessions end after", ended, 2, "s")
    yield at_most("requests failed, 50 a second through both", failed, 0)
    yield at_most("sessions of the other token that ended", [0 if kept else 1], 0)
    for one in (stays, edge):
        run.processes.end(one.process)


def good(edge, fleet, number):
    """Seconds until an agent with the right token is let in: TCP, TLS and the answer."""
    begun = time.monotonic()
    Against(edge, fleet.token.read_text()).registered(number, agent="default/lab").close()
    return time.monotonic() - begun


def guessed(run):
    """Wrong tokens come as fast as they are answered, from the address of the good agent."""
    fleet = run.fleet()
    edge = fleet.edge()
    alone, beside, answered, shown, few = [good(edge, fleet, number) for number in range(5)], [], [], 0, 0
    for number in range(run.rounds(5)):
        over, times, tokens = threading.Event(), [], []
        threads = [threading.Thread(target=guess, args=(edge, over, times, tokens)) for _ in range(GUESSERS)]
        for thread in threads:
            thread.start()
        begun = time.monotonic()
        while time.monotonic() < begun + GUESSING:
            time.sleep(0.5)
            beside.append(good(edge, fleet, 100 * number + len(beside)))
        over.set()
        answered.append(len(times) / (time.monotonic() - begun))
        few += len(tokens) < GUESSERS or not times
        for thread in threads:
            thread.join()
        log = edge.process.log.read_text()
        shown += sum(token in log for token in tokens)
    told_why = any("token" in line and '"source":"127.0.0.1' in line for line in log.splitlines())
    yield told("a good agent is let in after, alone", alone, "s")
    yield at_most(f"while {GUESSERS} connections of its address guess tokens", beside, 0.2, "s")
    yield at_most("guesses answered a second", answered, 1.2)
    yield at_most("rounds without guesses, or answers to any", [few], 0)
    yield at_most("wrong tokens in the log", [shown], 0)
    yield at_most("logs that do not say why, and to whom", [0 if told_why else 1], 0)
    run.processes.end(edge.process)


def guess(edge, over, times, tokens):
    while not over.is_set():
        token = secrets.token_urlsafe()
        try:
            stream = Against(edge, token).tls()
            stream.settimeout(0.5)
            stream.sendall(registration(token, agent="default/lab"))
            tokens.append(token)
            while not over.is_set():
                try:
                    if stream.recv(4096):
                        times.append(time.monotonic())
                    break
                except TimeoutError:
                    pass
            stream.close()
        except OSError:
            time.sleep(0.05)


def silent(run):
    """A thousand sockets that say nothing."""
    fleet = run.fleet()
    edge = fleet.edge()
    agent = fleet.agent("agent", edge).connected()
    beside, closed, left = [], [], []
    for number in range(run.rounds(5)):
        answers(edge.http)
        poll, sockets = select.poll(), {}
        for _ in range(SILENT):
            one = Against(edge, "").tcp()
            sockets[one.fileno()] = one
            poll.register(one, select.POLLIN | select.POLLRDHUP)
        opened = time.monotonic()
        while sockets and time.monotonic() < opened + 20:
            beside.append(good(edge, fleet, 1000 * number + len(beside)))
            for file, _ in poll.poll(500):
                poll.unregister(file)
                sockets.pop(file).close()
                closed.append(time.monotonic() - opened)
        left.append(len(sockets))
    yield at_most(f"a good agent is let in beside {SILENT:,} silent sockets after", beside, 0.2, "s")
    yield at_most("the sockets are closed after", closed, 10, "s")
    yield at_most("sockets that were not", left, 0)
    for one in (agent, edge):
        run.processes.end(one.process)
