"""Edges and agents as processes that a scenario may kill, stop and start again; and the backend behind them."""

import datetime
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "lib"))
import usage
from culvert import object_of, tunnel_host
from nginx import nginx
from processes import ROOT, free_port, until

HOST = "shop.faults.test"
SMALL_BYTES, LARGE_BYTES = 1024, 1 << 30
SLOW_BYTES, SLOW_RATE = 4 << 20, 512 << 10  # a download of eight seconds
CONNECTIONS = 2  # of an agent with each replica: the default of `culvert agent`


def backend(processes):
    """An nginx with a small file, a large one, and one that takes its time; answers its address."""
    www = processes.folder / "www"
    www.mkdir(exist_ok=True)
    (www / "small").write_text("x" * SMALL_BYTES)
    for name, size in (("large", LARGE_BYTES), ("slow", SLOW_BYTES)):
        with open(www / name, "wb") as file:
            file.truncate(size)
    port = free_port()
    # On all addresses: agents in namespaces of their own have another way here than those outside.
    nginx(processes, "backend", f"""server {{
        listen 0.0.0.0:{port} backlog=4096; root {www};
        location /slow {{ limit_rate {SLOW_RATE}; }}
    }}""")
    address = f"127.0.0.1:{port}"
    until("the backend", lambda: urllib.request.urlopen(f"http://{address}/small", timeout=5).read())
    return address


class Edge:
    """An edge of a folder; it keeps its addresses and its certificate over restarts."""

    def __init__(self, fleet, name, listen="127.0.0.1", flags=(), start=True):
        self.fleet, self.name, self.flags = fleet, name, flags
        self.http, self.https, self.bridge, self.admin, self.mesh = (f"{listen}:{free_port()}" for _ in range(5))
        self.runs = 0
        if start:
            self.start()
            self.ready()

    def start(self):
        self.runs += 1
        addresses = ("http", "https", "bridge", "admin")
        listen = [word for name in addresses for word in (f"--{name}", getattr(self, name))]
        objects = ["--manifests", self.fleet.manifests, "--state", self.fleet.state, "--access-log=off"]
        command = [self.fleet.program, "--log-format", "json", "serve", *objects, *listen, *self.flags]
        self.process = self.fleet.processes.start(f"{self.name}-{self.runs}", *command)
        return self

    def ready(self):
        until(self.name, lambda: fetch(self.admin, "/readyz") is not None)
        if not self.fleet.pin:
            pattern = r"--edge-fingerprint (sha256:[0-9A-Za-z+/=_-]+)"
            self.fleet.pin = until("the fingerprint", lambda: re.search(pattern, self.process.log.read_text()))[1]

    def metric(self, series):
        for line in fetch(self.admin, "/metrics").decode().splitlines():
            if line.startswith(series + " "):
                return float(line.rpartition(" ")[2])
        return 0.0

    def agents(self):
        """How many agents have all their sessions with it; a half is one that lacks one."""
        return self.metric('culvert_agent_sessions{agent="lab",namespace="default"}') / CONNECTIONS


class Agent:
    """An agent process; `edges` are bridge addresses."""

    def __init__(self, fleet, name, edges, allow="*", prefix=(), token=None):
        self.fleet, self.name, self.edges, self.prefix, self.runs = fleet, name, edges, prefix, 0
        self.allow, self.token = allow, token or fleet.token
        self.start()

    def start(self):
        self.runs += 1
        edges = ",".join(f"https://{edge}" for edge in self.edges)
        dial = ["--edge", edges, "--edge-fingerprint", self.fleet.pin, "--agent", "default/lab"]
        command = [self.fleet.program, "--log-format", "json", "agent", *dial, "--token-file", self.token]
        command += ["--allow", f"0.0.0.0/0:{self.allow}"]
        self.process = self.fleet.processes.start(f"{self.name}-{self.runs}", *self.prefix, *command)
        return self

    def connected(self):
        until(f"{self.name}'s session", lambda: b"connected to the edge" in self.process.log.read_bytes())
        return self


class Fleet:
    """The objects, the certificate and the token that all edges and agents of a scenario share."""

    def __init__(self, processes, program, target):
        self.processes, self.program = processes, program
        self.id = secrets.token_hex(4)
        folder = processes.folder / f"fleet-{self.id}"
        self.manifests, self.state, self.token = folder / "manifests", folder / "state", folder / "token"
        self.manifests.mkdir(parents=True, mode=0o700)
        token, self.pin = secrets.token_urlsafe(), None
        self.token.write_text(token)
        metadata = {"name": "lab-token"}
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "culvert.dev/agent-token"}
        secret["stringData"] = {"token": token}
        credentials = [{"secretRef": {"name": "lab-token"}}]
        agent = object_of("TunnelAgent", "lab", {"credentials": credentials, "limits": {"connections": 100000}})
        self.objects = [secret, agent, tunnel_host("shop", HOST, target)]
        self.write()

    def write(self):
        new = self.manifests / ".objects.new"
        new.write_text("\n---\n".join(map(json.dumps, self.objects)))
        new.rename(self.manifests / "objects.yaml")

    def add(self, name, host, target):
        """One more TunnelHost."""
        self.objects.append(tunnel_host(name, host, target))
        self.write()

    def edge(self, name="edge", **options):
        return Edge(self, name, **options)

    def peers(self, *names):
        """Edges that know of each other and forward to each other."""
        key = self.state.with_name("mesh.key")
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, capture_output=True)
        edges = [Edge(self, name, start=False) for name in names]
        for edge in edges:
            others = ",".join(f"{other.name}={other.bridge}/{other.mesh.rpartition(':')[2]}" for other in edges if other is not edge)
            edge.flags = ["--replica", edge.name, "--advertise", edge.bridge, "--peers", others]
            edge.flags += ["--mesh", edge.mesh, "--mesh-key", key]
        for edge in edges:
            edge.start()
            edge.ready()
        return edges

    def agent(self, name, *edges, **options):
        return Agent(self, name, [edge.bridge for edge in edges], **options)


def fetch(address, path, timeout=5):
    with urllib.request.urlopen(f"http://{address}{path}", timeout=timeout) as answer:
        return answer.read()


def get(address, path="/small", timeout=15):
    """One request on a connection of its own; answers the status, what `Retry-After` says, and the body's length."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port)), timeout=timeout) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    status = re.match(rb"HTTP/1.1 (\d{3}) ", head)
    if not status:
        raise ConnectionError("no answer")
    length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
    if length and int(length[1]) != len(body):
        raise ConnectionError("a body that was cut")
    return int(status[1]), b"\r\nretry-after:" in head.lower(), len(body)


def answers(address, timeout=20, every=0.002):
    """Waits for the first 200, and answers when it came."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            if get(address, timeout=1)[0] == 200:
                return time.monotonic()
        except OSError:
            pass
        time.sleep(every)
    sys.exit(f"faults: {address} did not answer 200 within {timeout} s")


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.wait()


def rss_kib(*processes):
    return usage.rss_kib(process.pid for process in processes)


def lines(process, message):
    """The lines of a JSON log that have this message, each behind its time in seconds since the epoch."""
    for line in process.log.read_text().splitlines():
        if message in line and line.startswith("{"):
            said = json.loads(line)
            yield datetime.datetime.fromisoformat(said["timestamp"].replace("Z", "+00:00")).timestamp(), said


def logged(process, message):
    """Their times alone."""
    return (time for time, _ in lines(process, message))
