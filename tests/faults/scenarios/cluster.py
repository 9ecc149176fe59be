"""On a cluster: three replicas and two agents as pods are rolled out, scaled and killed; agents dial by DNS, and from behind NAT."""

import collections
import signal
import socket
import subprocess
import sys
import threading
import time

import kube
from chats import Chats
from fleet import HOST, kill
from processes import until
from replaced import download
from table import at_most, told
from visitors import Visitors

CHAT_HOST = "chat.faults.test"
REPLICAS, AGENTS = 3, 2
GOING_AWAY = 1001


class Load:
    """Everything that visitors do, through the Service, until `stop`."""

    def __init__(self, run, release):
        address = release.http
        self.chats = Chats(address, CHAT_HOST, 50 if run.quick else 500)
        # The rest of the machine's time at most: probes and kube-proxy must not starve, which is not what is tried here.
        wrk = ["chrt", "-i", "0", "wrk", "-t1", "-c16", "-d3600", "--timeout", "30s", "-H", f"Host: {HOST}", f"http://{address}/small"]
        self.wrk = run.processes.start("wrk", *wrk, stdout=subprocess.PIPE, text=True)
        self.visitors = Visitors(address)
        self.cut, self.over = [], threading.Event()
        self.downloads = [threading.Thread(daemon=True, target=self.download, args=(address,)) for _ in range(4)]
        for thread in self.downloads:
            thread.start()
            time.sleep(0.5)
        self.processes = run.processes
        time.sleep(2)

    def download(self, address):
        while not self.over.is_set():
            download(address, self.cut)

    def stop(self, seen, name):
        """Adds what they met to `seen[name]`."""
        time.sleep(2)
        self.over.set()
        visits = self.visitors.stop()
        self.wrk.send_signal(signal.SIGINT)
        report, _ = self.wrk.communicate(timeout=60)
        self.processes.started.remove(self.wrk)
        for thread in self.downloads:
            thread.join()
        self.chats.stop()
        chats = self.chats
        failed, answered = kube.numbers_of_wrk(report)
        of_visitors = [visit for visit in visits if visit.failed]
        others = [(when, how) for when, how in chats.ends if how != GOING_AWAY]
        for what, value in (
            ("failed", failed + len(of_visitors)),
            ("answered", answered + len(visits) - len(of_visitors)),
            ("cut", sum(self.cut)),
            ("whole", len(self.cut) - sum(self.cut)),
            ("ended", len(chats.ends)),
            ("otherwise", len(others)),
            ("refused", len(chats.refused)),
            ("back", max(chats.back, default=0.0)),
        ):
            seen[name][what].append(value)
        # What a goal missed was about.
        for when, what in [*others, *chats.refused][:10]:
            print(f"faults: {name}: a WebSocket at {stamp(when)}: {what}", file=sys.stderr, flush=True)
        now, wall = time.monotonic(), time.time()
        for visit in of_visitors[:10]:
            begun = stamp(wall - now + visit.begun)
            print(f"faults: {name}: a visitor at {begun}: status {visit.status} after {visit.seconds:.3f} s", file=sys.stderr, flush=True)
        if failed:
            print(f"faults: {name}: wrk: {report}", file=sys.stderr, flush=True)


def stamp(when):
    return time.strftime("%H:%M:%S", time.gmtime(when)) + f"{when % 1:.3f}"[1:]


def echo(run):
    command = [sys.executable, kube.ROOT / "tests/faults/chats.py", "echo", f"{kube.node()}:0"]
    return run.processes.start("chats", *command, stdout=subprocess.PIPE, text=True).stdout.readline().strip()


def run(run):
    kube.in_cluster()
    chats, target = echo(run), f"{kube.node()}:{run.target.rpartition(':')[2]}"
    release = kube.Release(REPLICAS)
    release.agent("lab")
    release.install_agents("lab", AGENTS, [target, chats])
    release.host("shop", HOST, target, "lab")
    release.host("chat", CHAT_HOST, chats, "lab")
    release.meets("lab", AGENTS)
    yield told("agents of the chart, by the bridge's DNS name: sessions with replicas", [len(release.sessions("lab"))])
    yield at_most("visitors through the Service who get another answer than 200", [wrong(release.http, HOST)], 0)
    yield from behind_nat(run, release)

    seen = collections.defaultdict(lambda: collections.defaultdict(list))
    chosen = {name: change for name, change in CHANGES.items() if not run.args.only or run.args.only in name}
    for _ in range(run.rounds(5, 1)):
        for name, change in chosen.items():
            load = Load(run, release)
            begun = time.monotonic()
            try:
                change(release)
            finally:
                took = time.monotonic() - begun
                load.stop(seen, name)
            seen[name]["took"].append(took)
            print(f"faults: {name}: {({what: values[-1] for what, values in seen[name].items()})}", file=sys.stderr, flush=True)
    for name in chosen:
        got = seen[name]
        yield told(f"{name}: seconds until the last old pod was gone", got["took"], "s")
        yield at_most(f"{name}: HTTP requests failed", got["failed"], 0)
        yield told("requests answered", got["answered"])
        yield at_most("downloads cut", got["cut"], 0)
        yield told("downloads whole", got["whole"])
        yield told("WebSockets ended", got["ended"])
        yield at_most("of those, otherwise than by 1001", got["otherwise"], 0)
        yield at_most("WebSockets refused when they came back", got["refused"], 0)
        yield at_most("the slowest of them was back after", got["back"], 2, "s")
    yield from killed(run, release)
    release.remove()


def restart_edge(release):
    kube.kubectl("-n", kube.EDGE, "rollout", "restart", "deployment/culvert")
    kube.kubectl("-n", kube.EDGE, "rollout", "status", "deployment/culvert", f"--timeout={kube.WAIT}s")
    release.only(REPLICAS)
    release.meets("lab", AGENTS)


def restart_agents(release):
    kube.kubectl("-n", kube.TENANT, "rollout", "restart", "deployment/agents-culvert-agent")
    kube.kubectl("-n", kube.TENANT, "rollout", "status", "deployment/agents-culvert-agent", f"--timeout={kube.WAIT}s")
    release.only(AGENTS, label="app.kubernetes.io/instance=agents", namespace=kube.TENANT)
    release.meets("lab", AGENTS)


def scale(release):
    for replicas in (5, 2, REPLICAS):
        begun = time.monotonic()
        release.scale(replicas)
        print(f"faults: {replicas} replicas after {time.monotonic() - begun:.1f} s", file=sys.stderr, flush=True)


CHANGES = {"rollout of the edge": restart_edge, "rollout of the agents": restart_agents, "scale 3 → 5 → 2 → 3": scale}


def killed(run, release):
    """SIGKILL for the process in one pod: kube-proxy and the restart back-off are the cluster's, so there is no goal."""
    failed, ended, ready = [], [], []
    for number in range(run.rounds(5, 1)):
        pod = release.pods()[number % REPLICAS]
        restarts = pod["status"]["containerStatuses"][0]["restartCount"]
        process = kube.process_of(pod["metadata"]["name"])
        visitors, chats = Visitors(release.http), Chats(release.http, CHAT_HOST, 50)
        time.sleep(2)
        subprocess.run(["kill", "-9", str(process)], check=True)
        begun = time.monotonic()

        def back():
            now = next(p for p in release.pods() if p["metadata"]["name"] == pod["metadata"]["name"])
            status = now["status"]["containerStatuses"][0]
            return status["restartCount"] > restarts and status["ready"]

        kube.awaited("the pod is ready again", back)
        ready.append(time.monotonic() - begun)
        release.meets("lab", AGENTS)
        time.sleep(2)
        failed.append(sum(visit.failed for visit in visitors.stop()))
        chats.stop()
        ended.append(len(chats.ends))
    yield told("process of an edge pod killed, 50 requests/s: failed", failed)
    yield told("of 50 WebSockets, ended with it", ended)
    yield told("until the pod was ready again", ready, "s")


def behind_nat(run, release):
    """Two networks with the same private addresses, each with an agent and a backend that nobody outside reaches."""
    networks, ways = [], {"by node port": release.node_port}
    pod = next(pod for pod in release.pods())
    ways["by a pod's address"] = f"https://{pod['status']['podIP']}:7443"
    try:
        for number, (how, edge) in enumerate(ways.items()):
            network = kube.Behind(number)
            networks.append(network)
            name, hostname = f"nat-{number}", f"nat-{number}.faults.test"
            token = run.processes.folder / f"{name}.token"
            token.write_text(release.agent(name))
            page = run.processes.folder / name
            page.mkdir(exist_ok=True)
            (page / "small").write_text(f"from {name}")
            serve = [sys.executable, "-m", "http.server", "8080", "--bind", network.address, "--directory", page]
            backend = run.processes.start(f"{name}-backend", *network.enter(), *serve)
            dial = ["--edge", edge, "--edge-fingerprint", release.pin, "--agent", f"{kube.TENANT}/{name}", "--token-file", token]
            allow = ["--allow", f"{network.address}:8080"]
            agent = run.processes.start(name, *network.enter(), run.programs["culvert"], "agent", *dial, *allow)
            release.host(name, hostname, f"{network.address}:8080", name)
            kube.awaited(f"the sessions of {name}", lambda: release.sessions(name))
            until(f"a page from {name}", lambda: wrong(release.http, hostname, f"from {name}".encode()) == 0)
            addresses = {address.rpartition(":")[0] for address in release.sessions(name).values()}
            yield at_most(f"agent behind NAT, {how}: of 20 visitors, other answers than its page", [
                sum(wrong(release.http, hostname, f"from {name}".encode()) for _ in range(20))
            ], 0)
            yield told(f"sessions, seen from {', '.join(sorted(addresses))}", [len(release.sessions(name))])
            for process in (agent, backend):
                kill(process)
                run.processes.started.remove(process)
            kube.kubectl("-n", kube.TENANT, "delete", "tunnelhost", name)
            kube.kubectl("-n", kube.TENANT, "delete", "tunnelagent", name)
    finally:
        for network in networks:
            network.remove()


def wrong(address, hostname, page=None):
    """0 where the answer is 200, with this page where one is given; else 1."""
    host, port = address.split(":")
    try:
        with socket.create_connection((host, int(port)), timeout=15) as connection:
            connection.sendall(f"GET /small HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while piece := connection.recv(1 << 16):
                answer += piece
    except OSError:
        return 1
    return 0 if answer.startswith(b"HTTP/1.1 200 ") and (page is None or answer.endswith(b"\r\n\r\n" + page)) else 1
