"""An edge and its agents in a cluster, installed by their charts; and agents outside of it, behind a NAT of their own."""

import base64
import functools
import json
import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

from culvert import object_of, tunnel_host
from processes import ROOT

EDGE, TENANT = "culvert-system", "faults"  # namespaces
WAIT = 180  # seconds for what a cluster does


def run(*command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"faults: {' '.join(map(str, command))}: {done.stderr.strip()}")
    return done.stdout


def kubectl(*command, **options):
    return run("kubectl", *command, **options)


def seen(*command):
    """What kubectl gets, as an object. An API server without a processor to run on is asked again."""
    for _ in range(5):
        done = subprocess.run(["kubectl", *command, "-o", "json"], capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(done.stdout)
        time.sleep(1)
    sys.exit(f"faults: kubectl {' '.join(command)}: {done.stderr.strip()}")


def get(kind, name, namespace):
    return seen("-n", namespace, "get", kind, name)


def apply(*objects):
    kubectl("apply", "-f", "-", input="\n---\n".join(map(json.dumps, objects)))


def awaited(what, probe, timeout=WAIT, every=0.2):
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if answer := probe():
            return answer
        time.sleep(every)
    sys.exit(f"faults: {what}: not within {timeout} s")


@functools.cache
def node():
    """Where pods reach what runs on the node."""
    addresses = seen("get", "nodes")["items"][0]["status"]["addresses"]
    return next(address["address"] for address in addresses if address["type"] == "InternalIP")


class Release:
    """The chart `culvert` with this many replicas; what an earlier run left goes first."""

    def __init__(self, replicas, *values):
        self.remove()
        self.carried = None
        kubectl("create", "namespace", TENANT)
        values = [f"replicas={replicas}", "log.access=off", *(f"{of}.service.type=NodePort" for of in ("http", "bridge")), *values]
        # A brace is a list's in Helm, where it is not escaped.
        sets = [word for value in values for word in ("--set-string" if "{" in value else "--set", value.replace("{", r"\{"))]
        chart = ["culvert", ROOT / "charts/culvert", "-n", EDGE, "--create-namespace"]
        run("helm", "install", *chart, *sets, "--wait", "--timeout", f"{WAIT}s")
        http, bridge = (get("service", f"culvert-{name}", EDGE)["spec"] for name in ("http", "bridge"))
        self.http = f"{http['clusterIP']}:80"
        self.bridge = f"https://{bridge['clusterIP']}:7443"
        self.node_port = f"https://{node()}:{bridge['ports'][0]['nodePort']}"
        self.dns_name = f"https://culvert-bridge.{EDGE}.svc:7443"
        certificate = base64.b64decode(get("secret", "culvert-bridge", EDGE)["data"]["tls.crt"])
        key = subprocess.run(["openssl", "x509", "-noout", "-pubkey"], input=certificate, capture_output=True, check=True)
        key = subprocess.run(["openssl", "pkey", "-pubin", "-outform", "DER"], input=key.stdout, capture_output=True, check=True)
        digest = subprocess.run(["openssl", "dgst", "-sha256", "-r"], input=key.stdout, capture_output=True, check=True)
        self.pin = f"sha256:{digest.stdout[:64].decode()}"

    def remove(self):
        for name, namespace in (("agents", TENANT), ("culvert", EDGE)):
            run("helm", "uninstall", name, "-n", namespace, "--ignore-not-found", "--wait")
        kubectl("delete", "namespace", TENANT, "--ignore-not-found")

    def pods(self, label="app.kubernetes.io/name=culvert", namespace=EDGE):
        return seen("-n", namespace, "get", "pods", "-l", label)["items"]

    def only(self, count, **which):
        """Waits until so many pods are ready, and no others are left."""
        def settled():
            pods = self.pods(**which)
            ready = lambda pod: any(c["type"] == "Ready" and c["status"] == "True" for c in pod["status"].get("conditions", []))
            return len(pods) == count and all(map(ready, pods))

        awaited(f"{count} pods", settled)

    def scale(self, replicas):
        kubectl("-n", EDGE, "scale", "deployment/culvert", f"--replicas={replicas}")
        self.only(replicas)
        if self.carried:
            self.meets(*self.carried)

    def agent(self, name, **spec):
        """A TunnelAgent with a token, which is returned."""
        return self.agents([name], **spec)[name]

    def agents(self, names, **spec):
        """Their tokens."""
        tokens = {name: secrets.token_urlsafe() for name in names}
        kind = {"apiVersion": "v1", "kind": "Secret", "type": "culvert.dev/agent-token"}
        objects = []
        for name, token in tokens.items():
            metadata = {"name": f"{name}-token", "namespace": TENANT}
            credentials = [{"secretRef": {"name": f"{name}-token"}}]
            agent = object_of("TunnelAgent", name, {"credentials": credentials, **spec})
            agent["metadata"]["namespace"] = TENANT
            objects += [{**kind, "metadata": metadata, "stringData": {"token": token}}, agent]
        apply(*objects)
        return tokens

    def host(self, name, hostname, target, agent):
        host = tunnel_host(name, hostname, target, {"agents": [{"name": agent}]})
        host["metadata"]["namespace"] = TENANT
        apply(host)
        kubectl("-n", TENANT, "wait", "--for=condition=Ready", f"tunnelhost/{name}", f"--timeout={WAIT}s")

    def install_agents(self, agent, replicas, allow):
        """The chart `culvert-agent`, which dials the bridge by its name in the cluster's DNS."""
        self.carried = agent, replicas
        values = [f"edge={{{self.dns_name}}}", f"agent={TENANT}/{agent}", f"token.secret={agent}-token"]
        values += [f"trust.fingerprints={{{self.pin}}}", f"allow={{{','.join(allow)}}}", f"replicas={replicas}"]
        sets = [word for value in values for word in ("--set", value)]
        run("helm", "install", "agents", ROOT / "charts/culvert-agent", "-n", TENANT, *sets, "--wait", "--timeout", f"{WAIT}s")

    def sessions(self, agent):
        """Which processes have a session with which replicas, with the addresses that they come from."""
        status = get("tunnelagent", agent, TENANT).get("status", {})
        return {(session["instance"], session["replica"]): session["remoteAddress"] for session in status.get("sessions", [])}

    def meets(self, agent, instances):
        """Waits until so many processes have a session with each replica that runs, and no others are left."""
        def met():
            replicas = {pod["metadata"]["name"] for pod in self.pods() if "deletionTimestamp" not in pod["metadata"]}
            sessions = self.sessions(agent)
            processes = {instance for instance, _ in sessions}
            whole = {(process, replica) for process in processes for replica in replicas}
            return len(processes) == instances and set(sessions) == whole

        awaited(f"{instances} processes of {agent} at every replica", met)


class Behind:
    """A network with private addresses, the same in each, that reaches the node only by a router that hides it (masquerading)."""

    def __init__(self, number):
        self.inner, self.router = (f"faults-{number}-{part}-{secrets.token_hex(2)}" for part in ("lan", "nat"))
        self.address, self.outside = "192.168.77.2", f"10.201.{number}.2"
        up = f"fn{secrets.token_hex(3)}"
        lan, wan, gateway = f"ip -n {self.inner}", f"ip -n {self.router}", f"10.201.{number}.1"
        for command in (
            f"ip netns add {self.inner}",
            f"ip netns add {self.router}",
            f"ip link add {up} type veth peer name wan netns {self.router}",
            f"ip addr add {gateway}/30 dev {up}",
            f"ip link set {up} up",
            f"{wan} link add lan type veth peer name eth0 netns {self.inner}",
            f"{wan} addr add {self.outside}/30 dev wan",
            f"{wan} addr add 192.168.77.1/24 dev lan",
            f"{wan} link set lo up",
            f"{wan} link set wan up",
            f"{wan} link set lan up",
            f"{wan} route add default via {gateway}",
            f"ip netns exec {self.router} sysctl -qw net.ipv4.ip_forward=1",
            f"ip netns exec {self.router} iptables -t nat -A POSTROUTING -o wan -j MASQUERADE",
            # As of any router: nobody outside opens a connection to the inside.
            f"ip netns exec {self.router} iptables -P FORWARD DROP",
            f"ip netns exec {self.router} iptables -A FORWARD -i lan -o wan -j ACCEPT",
            f"ip netns exec {self.router} iptables -A FORWARD -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT",
            f"{lan} addr add {self.address}/24 dev eth0",
            f"{lan} link set lo up",
            f"{lan} link set eth0 up",
            f"{lan} route add default via 192.168.77.1",
        ):
            run(*command.split())

    def enter(self):
        return ["ip", "netns", "exec", self.inner]

    def remove(self):
        for name in (self.inner, self.router):
            subprocess.run(["ip", "netns", "del", name], check=False)


def process_of(pod):
    """The id, on this machine, of the process that was started with this pod's name."""
    wanted = f"POD_NAME={pod}".encode()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                return int(entry.name)
        except OSError:
            pass
    sys.exit(f"faults: no process runs as {pod}")


def in_cluster():
    if os.geteuid() or not os.environ.get("KUBECONFIG"):
        sys.exit("faults: this one runs in the cluster's network: tests/cluster/cluster exec tests/faults/run SCENARIO")


def numbers_of_wrk(report):
    """Failed requests and answered ones, as wrk tells them."""
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", report)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", report)
    answered = re.search(r"(\d+) requests in", report)
    failed = sum(map(int, errors.groups())) if errors else 0
    return failed + (int(refused[1]) if refused else 0), int(answered[1]) if answered else 0
