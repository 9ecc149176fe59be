"""gRPC's interop cases over TLS: grpcio's client and server, and tonic's, each client against each server."""

import os
import subprocess
import sys

import install
from certificate import authority, tls_secret
from culvert import Culvert, object_of, tunnel_host
from processes import free_port, until

PEERS = install.ROOT / "tests" / "conformance" / "grpc"
CASES = 25
LIMIT = 600  # seconds for a client; it takes about 30


def run(processes, program):
    grpcio = {**os.environ, "PYTHONPATH": str(install.pypi("grpcio", "grpcio==1.85.1"))}
    tonic = install.cargo("grpc-peer", PEERS)
    servers = {"grpcio": ([sys.executable, PEERS / "server.py"], grpcio), "tonic": ([tonic, "server"], None)}
    clients = {"grpcio": ([sys.executable, PEERS / "client.py"], grpcio), "tonic": ([tonic, "client"], None)}
    problems = []
    for server, (command, environment) in servers.items():
        backend = processes.start(f"{server}-server", *command, env=environment)
        port = until(f"{server}'s server", lambda: backend.log.read_text().strip())
        culvert, ca = edge(processes, program, f"127.0.0.1:{port}")
        for client, (command, environment) in clients.items():
            command = [*map(str, command), culvert.https.rsplit(":", 1)[1], str(ca)]
            with open(processes.folder / f"{client}-{server}.log", "wb") as log:
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=log, timeout=LIMIT)
            problems += report(f"{client} to {server}", done.stdout.decode().splitlines())
        for process in (culvert.agent, culvert.edge, backend):
            processes.end(process)
    return problems


def edge(processes, program, target):
    """Culvert with this backend, and with hosts that cannot be reached; answers it and what its certificate is signed by."""
    grpc = {"protocol": "GRPC"}
    hosts = {name: f"{name}.localhost" for name in ("absent", "refused", "unknown")}
    ca, chain, key = authority(processes.folder, "localhost", *hosts.values())
    tls = {"secretRef": {"name": "localhost-tls"}, "redirect": False}
    objects = [
        tls_secret("localhost-tls", chain, key),
        tunnel_host("suite", "localhost", target, grpc, tls=tls),
        tunnel_host("refused", hosts["refused"], f"127.0.0.1:{free_port()}", grpc, tls=tls),
        # An agent that has no session.
        object_of("TunnelAgent", "absent", {"credentials": [{"secretRef": {"name": "lab-token"}}]}),
        tunnel_host("absent", hosts["absent"], target, {**grpc, "agents": [{"name": "absent"}]}, tls=tls),
    ]
    # For names that no object has.
    default = ["--default-cert", chain, "--default-key", key]
    return Culvert(processes, program, objects, default), ca


def report(who, lines):
    """Prints a client's results; answers what failed."""
    passed = [line.split(" ", 2)[1:] for line in lines if line.startswith("ok ")]
    failed = [line.split(" ", 1)[1] for line in lines if line.startswith("FAILED ")]
    print(f"   {who}: {len(passed)} of {CASES} cases")
    for case, detail in passed:
        if detail:
            print(f"      {case}: {detail}")
    told = len(passed) + len(failed)
    missing = [] if told == CASES else [f"{who}: the client told of {told} cases"]
    return [f"{who}: {line}" for line in failed] + missing
