"""Hostile peers on both sides of the tunnel: what they leave behind in memory and log, and whether others are served on."""

import hashlib
import json
import select
import socket
import ssl
import struct
import subprocess
import threading
import time

from certificate import certificate
from culvert import tunnel_host
from fleet import answers, get, rss_kib
from processes import until
from table import at_least, at_most, told

PEERS, EDGES = 2000, 500
LINKED = "linked.faults.test"  # a host of which every request goes to a hostile agent
REMOVED = "removed-0123456789abcdef"  # a token that was right once
OPEN, OPENED, REFUSED, DATA, CREDIT, END, RESET, PING, PONG, NOTE = range(1, 11)


def frame(kind, link=0, payload=b"", flags=0):
    return struct.pack(">BBHI", kind, flags, len(payload), link) + payload


def opening(target, host="default/shop"):
    fields = ((1, target.encode()), (2, host.encode()))
    return b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in fields)


def registration(token, agent="default/bad", upgrade="culvert/1", instance="0a"):
    return (
        f"GET /v1/tunnel HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nCulvert-Agent: {agent}\r\n"
        f"Authorization: Bearer {token}\r\nCulvert-Instance: {instance}\r\nCulvert-Version: 0\r\nCulvert-Slots: 1\r\n\r\n"
    ).encode()


def blind():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Against:
    """A peer of an edge: what it sends after TCP, after TLS, or after it has registered."""

    def __init__(self, edge, token):
        self.edge = edge
        self.host, port = edge.bridge.split(":")
        self.port, self.token, self.context = int(port), token, blind()
        # One entry for each who was let in, and for each who was asked for a link.
        self.tried, self.let_in, self.asked = [], [], []

    def tcp(self):
        return socket.create_connection((self.host, self.port), timeout=10)

    def tls(self):
        return self.context.wrap_socket(self.tcp())

    def registered(self, number, **identity):
        self.tried.append(number)
        stream = self.tls()
        stream.sendall(registration(self.token, **{"instance": f"{number + 1:x}", **identity}))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(1)
        if b" 101 " not in answer:
            raise ConnectionError(answer)
        self.let_in.append(number)
        return stream


def finish(stream, seconds=2):
    """Reads to the end, as far as that comes soon."""
    stream.settimeout(seconds)
    try:
        while stream.recv(1 << 16):
            pass
    except OSError:
        pass
    stream.close()


def said(stream, *pieces):
    try:
        for piece in pieces:
            stream.sendall(piece)
    except OSError:
        pass
    finish(stream)


def half_closed(stream):
    stream.sendall(frame(NOTE, 0, b'{"kind":"drain"}')[:10])
    try:
        stream.unwrap()
    except OSError:
        pass
    stream.close()


def stays(stream, *pieces):
    """Stays until the edge has had enough of it; what it does not read is whatever comes."""
    for piece in pieces:
        stream.sendall(piece)
    poll = select.poll()
    poll.register(stream.fileno(), select.POLLRDHUP | select.POLLHUP | select.POLLERR)
    if not poll.poll(30_000):
        raise Stayed
    stream.close()


class Stayed(Exception):
    """The edge has let a peer stay that it should not."""


def half_closed_and_stays(stream):
    stream.sendall(frame(NOTE, 0, b"{}")[:6])
    socket.socket.shutdown(stream, socket.SHUT_WR)  # of TCP, without a word of TLS
    stays(stream)


def links(peer, pieces, upload=0):
    """Registers as the agent of a host, lets a visitor come, and answers the link that is opened for it with these frames."""
    stream = peer.registered(0xB, agent="default/linked")
    host, port = peer.edge.http.split(":")
    with stream, socket.create_connection((host, int(port)), timeout=10) as visitor:
        visitor.sendall(f"POST / HTTP/1.1\r\nHost: {LINKED}\r\nContent-Length: {upload}\r\n\r\n".encode() + bytes(min(upload, 1 << 18)))
        while True:
            kind, _, length, link = struct.unpack(">BBHI", exactly(stream, 8))
            exactly(stream, length)
            if kind == OPEN:
                peer.asked.append(link)
                break
        said(stream, *[piece(link) for piece in pieces])


def exactly(stream, length):
    data = b""
    while len(data) < length:
        if not (more := stream.recv(length - len(data))):
            raise ConnectionError("the edge has hung up")
        data += more
    return data


opened = lambda link: frame(OPENED, link)
HEAD = b"HTTP/1.1 200 OK\r\nX-Endless: " + b"x" * 4000

# Each kind of peer of an edge: a name, and what it does.
KINDS = {
    "bytes that are no TLS": lambda peer, n: said(peer.tcp(), b"GET / HTTP/1.0\r\n\r\n" * 20),
    "TLS and then nothing of HTTP": lambda peer, n: said(peer.tls(), bytes(range(256)) * 20),
    "a head without an end": lambda peer, n: said(peer.tls(), b"GET /v1/tunnel HTTP/1.1\r\n" + b"X: " + b"y" * 60000),
    "half a registration, and nothing more": lambda peer, n: stays(peer.tls(), registration(peer.token)[:60]),
    "a wrong token": lambda peer, n: said(peer.tls(), registration("wrong-0123456789abcdef")),
    "a removed token": lambda peer, n: said(peer.tls(), registration(REMOVED)),
    "another agent's name": lambda peer, n: said(peer.tls(), registration(peer.token, agent="default/lab")),
    "an older protocol": lambda peer, n: said(peer.tls(), registration(peer.token, upgrade="culvert/0")),
    "a newer protocol": lambda peer, n: said(peer.tls(), registration(peer.token, upgrade="culvert/9")),
    "a frame that must be understood": lambda peer, n: said(peer.registered(n), frame(0x77, flags=0x80)),
    "OPEN from an agent": lambda peer, n: said(peer.registered(n), frame(OPEN, 1, opening("127.0.0.1:1"))),
    "100,000 links from an agent": lambda peer, n: said(
        peer.registered(n), b"".join(frame(OPEN, link, opening("127.0.0.1:1")) for link in range(1, 1000)) * 100),
    "data for a link that never was": lambda peer, n: said(peer.registered(n), frame(DATA, 7, b"x")),
    "a note that is no JSON": lambda peer, n: said(peer.registered(n), frame(NOTE, 0, b"{")),
    "a frame too large": lambda peer, n: said(peer.registered(n), struct.pack(">BBHI", DATA, 0, 65535, 1)),
    "pings whose answers are not read": lambda peer, n: stays(peer.registered(n), frame(PING, 0, bytes(8)) * 5000),
    "notes without end": lambda peer, n: said(peer.registered(n), frame(NOTE, 0, b'{"kind":"drain"}') * 500),
    "frames byte by byte": lambda peer, n: said(peer.registered(n), *[bytes([b]) for b in frame(PING, 0, bytes(8)) * 4]),
    "half a frame, and its end": lambda peer, n: half_closed(peer.registered(n)),
    "half a frame, a half-closed connection, and there it stays": lambda peer, n: half_closed_and_stays(peer.registered(n)),
    "pings are eaten in between": lambda peer, n: stays(peer.registered(n)),
    "a handshake, and away": lambda peer, n: peer.registered(n).close(),
}

# What answers a link. These take turns, since all of them register as the same agent.
LINKS = {
    "a byte a frame": lambda peer: links(peer, [opened, *[lambda link, b=bytes([b]): frame(DATA, link, b) for b in HEAD]]),
    "data before the link is open": lambda peer: links(peer, [lambda link: frame(DATA, link, HEAD)]),
    "data beyond credit": lambda peer: links(peer, [opened, *[lambda link: frame(DATA, link, bytes(16000))] * 40]),
    "credit without bounds": lambda peer: links(peer, [opened, lambda link: frame(CREDIT, link, b"\xff" * 4) * 3]),
    "an upload that is never read": lambda peer: links(peer, [opened], upload=1 << 24),
    "an end without a word": lambda peer: links(peer, [opened, lambda link: frame(END, link)]),
    "resets and refusals at once": lambda peer: links(peer, [
        lambda link: frame(REFUSED, link, b"\0\1" + b"no " * 300), lambda link: frame(RESET, link, b"\0\1") * 100]),
}


def lines(process, since):
    return len(process.log.read_text().splitlines()) - since


def settle(*processes):
    time.sleep(7)  # sessions give memory back every five seconds
    return rss_kib(*processes)


def run(run):
    yield from against_edge(run)
    yield from against_agents(run)


def against_edge(run):
    fleet = run.fleet()
    token = "hostile-0123456789abcdef"
    # The hostile ones have agents' names of their own, and a valid token: what they do then is no matter of passwords.
    for name in ("bad", "linked"):
        secret = json.loads(json.dumps(fleet.objects[0]))
        secret["metadata"]["name"], secret["stringData"]["token"] = f"{name}-token", token
        other = json.loads(json.dumps(fleet.objects[1]))
        other["metadata"]["name"], other["spec"]["credentials"] = name, [{"secretRef": {"name": f"{name}-token"}}]
        fleet.objects += [secret, other]
    fleet.objects.append(tunnel_host("linked", LINKED, "127.0.0.1:1", backend={"agents": [{"name": "linked"}]}))
    fleet.write()
    edge = fleet.edge()
    agent = fleet.agent("agent", edge).connected()
    answers(edge.http)
    peer = Against(edge, token)
    removed(fleet, peer)
    count = 5 if run.quick else PEERS // (len(KINDS) + len(LINKS)) + 1
    # Once around first: what is allocated on first use is nobody's.
    attack(peer, 2)
    before, logged_before = settle(edge.process), lines(edge.process, 0)
    slow, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            begun = time.monotonic()
            try:
                served = get(edge.http)[0] == 200
            except OSError:
                served = False
            slow.append(1000 * (time.monotonic() - begun) if served else float("inf"))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    done, stayed = attack(peer, count)
    stop.set()
    watcher.join()
    said_lines = lines(edge.process, logged_before)
    slow.sort()
    yield at_most(f"{done:,} hostile peers of an edge: RSS above before", [(settle(edge.process) - before) / 1024], 10, "MiB")
    # What was not let in has not attacked.
    yield at_least("of those with a valid token, let in", [100 * len(peer.let_in) / len(peer.tried)], 90, "%")
    yield at_least("of those that wait for a link, asked for one", [100 * len(peer.asked) / ((count + 2) * len(LINKS))], 90, "%")
    yield at_most("lines in its log", [said_lines], 50)
    yield at_most("those that were still there after 30 s", [stayed], 0)
    yield at_most("visitors of a good agent meanwhile: 99 of 100 answered within", [slow[int(len(slow) * 0.99)]], 1000, "ms")
    for process in (agent, edge):
        run.processes.end(process.process)


def removed(fleet, peer):
    """A token that was right is removed; what was registered with it is ended."""
    secret = next(o for o in fleet.objects if o["metadata"]["name"] == "bad-token")
    right, secret["stringData"]["token"] = secret["stringData"]["token"], REMOVED
    fleet.write()
    session = until("the old token", lambda: Against(peer.edge, REMOVED).registered(0))
    secret["stringData"]["token"] = right
    fleet.write()
    finish(session, 10)
    until("the new token", lambda: peer.registered(0)).close()


def attack(peer, count):
    """Each kind so many times, all side by side; how many there were, and how many of them the edge has let stay."""
    done, stayed, broken = [], [], []

    def several(kind):
        for number in range(count):
            attempt(kind, number)

    def attempt(kind, number):
        try:
            kind(peer, number)
        except Stayed:
            stayed.append(kind)
        except OSError:
            pass  # the edge is free to hang up
        except Exception as error:  # in a thread nobody else would see it
            broken.append(repr(error))
        done.append(kind)

    def in_turn():
        for number in range(count):
            for kind in LINKS.values():
                attempt(lambda peer, number, kind=kind: kind(peer), number)

    # Those that stay do so for 10 s each: they come together.
    patient = [kind for name, kind in KINDS.items() if any(word in name for word in ("stays", "eaten", "nothing more", "not read"))]
    threads = [threading.Thread(target=several, args=(kind,)) for kind in KINDS.values() if kind not in patient]
    threads += [threading.Thread(target=attempt, args=(kind, n)) for kind in patient for n in range(count)]
    threads.append(threading.Thread(target=in_turn))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if broken:
        raise SystemExit(f"faults: {len(broken)} hostile peers broke: {broken[0]}")
    return len(done), len(stayed)


def welcome(replica="bad"):
    return frame(NOTE, 0, json.dumps({"kind": "welcome", "replica": replica, "version": "0", "replicas": []}).encode())


# Against an agent: what a hostile edge says once the agent has registered.
def edges(target):
    opens = lambda count, where: b"".join(frame(OPEN, link, opening(where)) for link in range(1, count + 1))
    hello = welcome()
    yield "100,000 links to where it may not go", hello + opens(100_000, "127.0.0.1:1")
    yield "2,000 links to a backend, and nothing more", hello + opens(2000, target)
    yield "a byte a frame", hello + frame(OPEN, 1, opening(target)) + frame(DATA, 1, b"G") * 100_000
    yield "data beyond credit", hello + frame(OPEN, 1, opening(target)) + frame(DATA, 1, bytes(16000)) * 30
    yield "a frame that must be understood", hello + frame(0x77, flags=0x80)
    yield "a link twice", hello + frame(OPEN, 1, opening(target)) * 2
    yield "credit without bounds", hello + frame(OPEN, 1, opening(target)) + frame(CREDIT, 1, b"\xff" * 4) * 3
    yield "pings without end", hello + frame(PING, 0, bytes(8)) * 100_000
    yield "notes without end", hello * 500
    yield "a large download that is never read", hello + frame(OPEN, 1, opening(target)) + frame(
        DATA, 1, b"GET /large HTTP/1.0\r\n\r\n") + frame(CREDIT, 1, struct.pack(">I", 8 << 20))
    yield "ends at once, and stays", hello + frame(OPEN, 1, opening(target)) + frame(END, 1)
    yield "no frame at all", b"HTTP/1.1 500 no\r\n" * 1000


def answer(status, *headers, body="no"):
    head = "".join(f"{header}\r\n" for header in headers)
    return f"HTTP/1.1 {status}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


# What does not let an agent in at all: it asks less and less often, so each has an agent of its own. The word is what the agent
# has to say about it.
OURS = "Culvert-Protocol: culvert/1"
ANSWERS = {
    "a wrong token": (answer("401 Unauthorized", OURS), "401"),
    "a newer edge": (answer("426 Upgrade Required", OURS, "Upgrade: culvert/9"), "upgrade the agent"),
    "too many processes": (answer("429 Too Many Requests", OURS, "Retry-After: 1"), "429"),
    "a page": (answer("200 OK", body="<html>" * 100_000), ""),
    "a 101 to something else": (b"HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: chat\r\n\r\n", ""),
    "a head without an end": (b"HTTP/1.1 101 OK\r\nX: " + b"x" * 1_000_000, ""),
    "a 101, and silence": (b"HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: culvert/1\r\nCulvert-Replica: a\r\nCulvert-Slot: 0\r\n\r\n", ""),
}


class Hostile:
    """A listener that hands each connection to `serve`, in a thread of its own."""

    def __init__(self, serve):
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.bridge = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.serve, self.served = serve, 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.one, args=(connection, self.served), daemon=True).start()

    def one(self, connection, number):
        try:
            with connection:
                connection.settimeout(15)
                self.serve(connection, number)
        except OSError:
            pass  # the agent is free to hang up
        self.served += 1

    def close(self):
        self.listener.close()


def asked(stream):
    """The head of a request."""
    head = b""
    while b"\r\n\r\n" not in head:
        if not (more := stream.recv(4096)):
            raise ConnectionError("no request")
        head += more
    return head


def against_agents(run):
    chain, key = certificate(run.processes.folder, "hostile.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    fleet = run.fleet()
    fleet.pin = fingerprint(chain)
    attacks = list(edges(run.target))
    benign = threading.Event()
    served = []

    def hostile(connection, number):
        stream = context.wrap_socket(connection, server_side=True)
        asked(stream)
        stream.sendall(b"HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: culvert/1\r\nCulvert-Replica: bad\r\nCulvert-Slot: 0\r\n\r\n")
        if benign.is_set():
            served.append(serves(stream, run.target))
            return
        # It reads nothing: what the agent answers is its own to bound.
        stream.sendall(attacks[number % len(attacks)][1])
        time.sleep(0.2)

    def answering(bytes_):
        def serve(connection, number):
            stream = context.wrap_socket(connection, server_side=True)
            asked(stream)
            stream.sendall(bytes_)
            finish(stream, 12)

        return serve

    def proxy(connection, number):
        asked(connection)
        connection.sendall(answer("407 Proxy Authentication Required", 'Proxy-Authenticate: Basic realm="x"'))

    allow = run.target.rpartition(":")[2]
    bridge = Hostile(hostile)
    victims = [fleet.agent(f"victim-{number}", bridge, allow=allow) for number in range(1 if run.quick else 6)]
    refusing = {name: Hostile(answering(bytes_)) for name, (bytes_, _) in ANSWERS.items()}
    refused = {name: fleet.agent(f"refused-{n}", edge, allow=allow) for n, (name, edge) in enumerate(refusing.items())}
    gate = Hostile(proxy)
    options = {"prefix": ("env", f"HTTPS_PROXY=http://{gate.bridge}", "NO_PROXY=")}
    refused["a proxy that answers 407"] = fleet.agent("refused-407", gate, allow=allow, **options)
    everyone = [*victims, *refused.values()]
    # One of each first: what is allocated on first use is nobody's.
    until("a round of attacks", lambda: bridge.served >= 2 * len(attacks) * len(victims), 60)
    before = {agent.name: settle(agent.process) if agent is everyone[0] else rss_kib(agent.process) for agent in everyone}
    logged_before, first = {agent.name: lines(agent.process, 0) for agent in victims}, bridge.served
    until("the attacks", lambda: bridge.served - first >= (30 if run.quick else EDGES), 600)
    count, said_lines = bridge.served - first, [lines(agent.process, logged_before[agent.name]) for agent in victims]
    benign.set()
    until("agents that serve again", lambda: len(served) >= len(victims), 30)
    time.sleep(7)
    yield told("hostile edges that agents dialled", [count])
    grown = [(rss_kib(agent.process) - before[agent.name]) / 1024 for agent in everyone]
    yield at_most("RSS of an agent above before", grown, 10, "MiB")
    yield at_most("lines in its log", said_lines, 50)
    yield at_most("an edge that is none: served again within", served, 2, "s")
    yield at_most("lines in the log of one that is not let in", [lines(agent.process, 0) for agent in refused.values()], 50)
    words = {**{name: word for name, (_, word) in ANSWERS.items()}, "a proxy that answers 407": "407"}
    silent = [name for name, agent in refused.items() if words[name] not in agent.process.log.read_text()]
    yield at_most(f"of them, without the reason in it {' '.join(silent)}".strip(), [len(silent)], 0)
    for listener in (bridge, gate, *refusing.values()):
        listener.close()
    for agent in everyone:
        run.processes.end(agent.process)


def serves(stream, target):
    """Opens a link as a good edge does; how long its answer took."""
    begun = time.monotonic()
    stream.sendall(welcome() + frame(OPEN, 1, opening(target)) + frame(DATA, 1, b"GET /small HTTP/1.0\r\n\r\n"))
    while time.monotonic() - begun < 10:
        kind, _, length, link = struct.unpack(">BBHI", exactly(stream, 8))
        payload = exactly(stream, length)
        if kind == PING:
            stream.sendall(frame(PONG, 0, payload))
        if kind == DATA and payload.startswith(b"HTTP/1.1 200"):
            return time.monotonic() - begun
    return float("inf")


def fingerprint(chain):
    key = subprocess.run(["openssl", "x509", "-in", chain, "-pubkey", "-noout"], check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key, check=True, capture_output=True).stdout
    return f"sha256:{hashlib.sha256(der).hexdigest()}"
