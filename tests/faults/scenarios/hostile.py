"""Hostile peers on both sides of the tunnel: what they leave behind in memory and log, and whether others are served on."""

import hashlib
import json
import socket
import ssl
import struct
import subprocess
import threading
import time

from certificate import certificate
from fleet import answers, get, rss_kib
from table import at_most, told

PEERS = 2000
OPEN, OPENED, REFUSED, DATA, CREDIT, END, RESET, PING, PONG, NOTE = range(1, 11)


def frame(kind, link=0, payload=b"", flags=0):
    return struct.pack(">BBHI", kind, flags, len(payload), link) + payload


def opening(target, host="default/shop"):
    fields = ((1, target.encode()), (2, host.encode()))
    return b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in fields)


def registration(token, agent="default/lab", upgrade="culvert/1", instance="0a"):
    return (
        f"GET /v1/tunnel HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\nUpgrade: {upgrade}\r\nCulvert-Agent: {agent}\r\n"
        f"Authorization: Bearer {token}\r\nCulvert-Instance: {instance}\r\nCulvert-Version: 0\r\nCulvert-Slot: 0\r\n\r\n"
    ).encode()


def blind():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


class Against:
    """A peer of an edge: what it sends after TCP, after TLS, or after it has registered."""

    def __init__(self, edge, token):
        self.host, port = edge.bridge.split(":")
        self.port, self.token, self.context = int(port), token, blind()

    def tcp(self):
        return socket.create_connection((self.host, self.port), timeout=10)

    def tls(self):
        return self.context.wrap_socket(self.tcp())

    def registered(self, number):
        stream = self.tls()
        stream.sendall(registration(self.token, instance=f"{number + 1:x}"))
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += stream.recv(1)
        if b" 101 " not in answer:
            raise ConnectionError(answer)
        return stream


def finish(stream):
    """Reads to the end, as far as that comes soon."""
    stream.settimeout(2)
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


# Each kind of peer of an edge: a name, and what it does.
KINDS = {
    "bytes that are no TLS": lambda peer, n: said(peer.tcp(), b"GET / HTTP/1.0\r\n\r\n" * 20),
    "TLS and then nothing of HTTP": lambda peer, n: said(peer.tls(), bytes(range(256)) * 20),
    "a head without an end": lambda peer, n: said(peer.tls(), b"GET /v1/tunnel HTTP/1.1\r\n" + b"X: " + b"y" * 60000),
    "a wrong token": lambda peer, n: said(peer.tls(), registration("wrong-0123456789abcdef")),
    "another agent's name": lambda peer, n: said(peer.tls(), registration(peer.token, agent="default/other")),
    "another protocol": lambda peer, n: said(peer.tls(), registration(peer.token, upgrade="culvert/9")),
    "half a registration": lambda peer, n: said(peer.tls(), registration(peer.token)[:60]),
    "a frame that must be understood": lambda peer, n: said(peer.registered(n), frame(0x77, flags=0x80)),
    "OPEN from an agent": lambda peer, n: said(peer.registered(n), frame(OPEN, 1, opening("127.0.0.1:1"))),
    "data for a link that never was": lambda peer, n: said(peer.registered(n), frame(DATA, 7, b"x")),
    "a note that is no JSON": lambda peer, n: said(peer.registered(n), frame(NOTE, 0, b"{")),
    "a frame too large": lambda peer, n: said(peer.registered(n), struct.pack(">BBHI", DATA, 0, 65535, 1)),
    "pings whose answers are not read": lambda peer, n: said(peer.registered(n), frame(PING, 0, bytes(8)) * 5000),
    "notes without end": lambda peer, n: said(peer.registered(n), frame(NOTE, 0, b'{"kind":"drain"}') * 500),
    "frames byte by byte": lambda peer, n: said(peer.registered(n), *[bytes([b]) for b in frame(PING, 0, bytes(8)) * 4]),
    "half a frame, and its end": lambda peer, n: half_closed(peer.registered(n)),
    "a handshake, and away": lambda peer, n: peer.registered(n).close(),
}


def half_closed(stream):
    stream.sendall(frame(NOTE, 0, b'{"kind":"drain"}')[:10])
    try:
        stream.unwrap()
    except OSError:
        pass
    stream.close()


def lines(process, since):
    return len(process.log.read_text().splitlines()) - since


def settle(*processes):
    time.sleep(7)  # sessions give memory back every five seconds
    return rss_kib(*processes)


def run(run):
    yield from against_edge(run)
    yield from against_agent(run)


def against_edge(run):
    fleet = run.fleet()
    edge = fleet.edge()
    agent = fleet.agent("agent", edge).connected()
    answers(edge.http)
    # The hostile ones have an agent's name of their own, and its valid token: what they do is no matter of passwords.
    token = "hostile-0123456789abcdef"
    secret = json.loads(json.dumps(fleet.objects[0]))
    secret["metadata"]["name"], secret["stringData"]["token"] = "bad-token", token
    other = json.loads(json.dumps(fleet.objects[1]))
    other["metadata"]["name"], other["spec"]["credentials"] = "bad", [{"secretRef": {"name": "bad-token"}}]
    fleet.objects[2:2] = [secret, other]
    fleet.write()
    peer = Against(edge, token)
    globals()["registration"].__defaults__ = ("default/bad", *registration.__defaults__[1:])
    until_registered(peer)
    count = 20 if run.quick else PEERS // len(KINDS) + 1
    # Once around first: what is allocated on first use is nobody's.
    attack(peer, 3)
    before, logged_before = settle(edge.process), lines(edge.process, 0)
    slow, stop = [], threading.Event()

    def watch():
        while not stop.is_set():
            begun = time.monotonic()
            status = get(edge.http)[0]
            slow.append(1000 * (time.monotonic() - begun) if status == 200 else float("inf"))
            time.sleep(0.05)

    watcher = threading.Thread(target=watch)
    watcher.start()
    attack(peer, count)
    stop.set()
    watcher.join()
    total = count * len(KINDS)
    said = lines(edge.process, logged_before)
    slow.sort()
    yield at_most(f"{total:,} hostile peers of an edge: RSS above before", [(settle(edge.process) - before) / 1024], 10, "MiB")
    yield at_most("lines in its log", [said], 50)
    yield at_most("visitors meanwhile: 99 of 100 answered within", [slow[int(len(slow) * 0.99)]], 1000, "ms")
    for process in (agent, edge):
        run.processes.end(process.process)


def until_registered(peer):
    for _ in range(200):
        try:
            return peer.registered(0).close()
        except OSError:
            time.sleep(0.05)


def attack(peer, count):
    """Each kind so many times, some side by side."""

    def some(kinds):
        for kind in kinds:
            for number in range(count):
                try:
                    KINDS[kind](peer, number)
                except OSError:
                    pass  # the edge is free to hang up

    names = list(KINDS)
    threads = [threading.Thread(target=some, args=(names[start::6],)) for start in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# Against an agent: what a hostile edge says once the agent has registered. All in one session, where the agent lives on.
def edges(target):
    welcome = json.dumps({"kind": "welcome", "replica": "bad", "version": "0", "replicas": []}).encode()
    hello = frame(NOTE, 0, welcome)
    opens = lambda count, where: b"".join(frame(OPEN, link, opening(where)) for link in range(1, count + 1))
    yield "100,000 links to where it may not go", hello + opens(100_000, "127.0.0.1:1")
    yield "2,000 links to a backend, and nothing more", hello + opens(2000, target)
    yield "a byte a frame", hello + frame(OPEN, 1, opening(target)) + frame(DATA, 1, b"G") * 100_000
    yield "data beyond credit", hello + frame(OPEN, 1, opening(target)) + frame(DATA, 1, bytes(16000)) * 30
    yield "a frame that must be understood", hello + frame(0x77, flags=0x80)
    yield "a link twice", hello + frame(OPEN, 1, opening(target)) * 2
    yield "credit without bounds", hello + frame(OPEN, 1, opening(target)) + frame(CREDIT, 1, b"\xff" * 4) * 3
    yield "pings without end", hello + frame(PING, 0, bytes(8)) * 100_000
    yield "notes without end", hello * 500
    yield "no frame at all", b"HTTP/1.1 500 no\r\n" * 1000


def against_agent(run):
    folder = run.processes.folder
    chain, key = certificate(folder, "hostile.test")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    fleet = run.fleet()
    agent = None
    attacks = list(edges(run.target))
    pin = fingerprint(chain)
    fleet.pin = pin

    class Bridge:
        bridge = f"127.0.0.1:{listener.getsockname()[1]}"

    agent = fleet.agent("victim", Bridge, allow=run.target.rpartition(":")[2])
    # One of each first: what is allocated on first use is nobody's.
    sessions = []
    for name, bytes_ in attacks:
        session(listener, context, bytes_)
    before, logged_before = settle(agent.process), lines(agent.process, 0)
    begun = time.monotonic()
    while time.monotonic() - begun < (15 if run.quick else 120):
        for name, bytes_ in attacks:
            sessions.append(name)
            session(listener, context, bytes_)
    took = time.monotonic() - begun
    yield told("hostile edges that an agent dialled one after the other", [len(sessions)])
    yield at_most("RSS of the agent above before", [(settle(agent.process) - before) / 1024], 10, "MiB")
    yield at_most("lines in its log, per 50 of them", [lines(agent.process, logged_before) * 50 / len(sessions)], 50)
    listener.close()
    run.processes.end(agent.process)


def session(listener, context, attack):
    listener.settimeout(30)
    tcp, _ = listener.accept()
    try:
        tcp.settimeout(5)
        stream = context.wrap_socket(tcp, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            head += stream.recv(4096)
        stream.sendall(b"HTTP/1.1 101 OK\r\nConnection: Upgrade\r\nUpgrade: culvert/1\r\nCulvert-Replica: bad\r\n\r\n")
        # It reads nothing: what the agent answers is its own to bound.
        stream.sendall(attack)
        time.sleep(0.2)
    except OSError:
        pass  # the agent is free to hang up
    finally:
        tcp.close()


def fingerprint(chain):
    key = subprocess.run(["openssl", "x509", "-in", chain, "-pubkey", "-noout"], check=True, capture_output=True).stdout
    der = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key, check=True, capture_output=True).stdout
    return f"sha256:{hashlib.sha256(der).hexdigest()}"
