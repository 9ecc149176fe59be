"""What the suites share: processes that end with their run, and an edge with an agent in front of a backend."""

import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / "target" / "conformance"
PATIENCE = 20  # seconds until something that was started must answer


class Processes:
    """Everything a run started; ended by id, whatever happens."""

    def __init__(self):
        self.started = []
        WORK.mkdir(parents=True, exist_ok=True)

    def start(self, name, *command):
        log = open(WORK / f"{name}.log", "wb")
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process.log = Path(log.name)
        self.started.append(process)
        return process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.started):
            process.terminate()
        for process in reversed(self.started):
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def until(what, happens):
    """Waits until something is there, and answers it."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if found := happens():
            return found
        time.sleep(0.05)
    sys.exit(f"conformance: {what} did not come up; see {WORK}")


def require(programs):
    """Installs what Debian has: a dictionary of programs and their packages."""
    missing = [package for program, package in programs.items() if not shutil.which(program)]
    if missing:
        if os.geteuid() != 0:
            sys.exit(f"conformance: {' and '.join(missing)} missing; install them, or run this as root")
        apt = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=True, env=apt)
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        subprocess.run(install, check=True, env=apt, stdout=subprocess.DEVNULL)


def build_culvert():
    """The program to test: CULVERT names one, or cargo builds it without optimization."""
    if given := os.environ.get("CULVERT"):
        return Path(given).resolve()
    subprocess.run(["cargo", "build", "--locked", "--bin", "culvert"], check=True, cwd=ROOT)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "culvert"


def start_culvert(processes, culvert, host, target):
    """An edge that serves `host` from `target` through an agent; answers its address for visitors."""
    folder = WORK / "culvert"
    manifests = folder / "manifests"
    shutil.rmtree(folder, ignore_errors=True)
    manifests.mkdir(parents=True, mode=0o700)
    token = secrets.token_urlsafe()
    group = "culvert.dev/v1alpha1"
    objects = [
        {
            "kind": "Secret",
            "apiVersion": "v1",
            "metadata": {"name": "token"},
            "type": "culvert.dev/agent-token",
            "stringData": {"token": token},
        },
        {
            "kind": "TunnelAgent",
            "apiVersion": group,
            "metadata": {"name": "lab"},
            "spec": {"credentials": [{"secretRef": {"name": "token"}}]},
        },
        {
            "kind": "TunnelHost",
            "apiVersion": group,
            "metadata": {"name": "odd"},
            "spec": {
                "hostnames": [host],
                "routes": [{"backend": {"agents": [{"name": "lab"}], "targets": [{"address": target}]}}],
            },
        },
    ]
    (manifests / "objects.yaml").write_text("\n---\n".join(map(json.dumps, objects)))
    (folder / "token").write_text(token)
    any_port = [word for name in ("http", "bridge", "admin") for word in (f"--{name}", "127.0.0.1:0")]
    state = ["--state", folder / "state", "--log-format", "json"]
    edge = processes.start("culvert-edge", culvert, "serve", "--manifests", manifests, *any_port, *state)
    pin = until("the edge", lambda: re.search(r"--edge-fingerprint (sha256:[0-9A-Za-z+/=_-]+)", edge.log.read_text()))
    bound = {name: re.search(rf'"{name}":"([0-9.]+:\d+)"', edge.log.read_text())[1] for name in ("http", "bridge")}
    dial = ["--edge", f"https://{bound['bridge']}", "--edge-fingerprint", pin[1], "--agent", "default/lab"]
    agent = processes.start(
        "culvert-agent", culvert, "agent", *dial, "--token-file", folder / "token", "--allow", target
    )
    until("the agent", lambda: "connected" in agent.log.read_text() or "session" in agent.log.read_text())
    return bound["http"]
