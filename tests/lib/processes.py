"""Processes that a run starts, on free loopback ports, ended whatever happens."""

import socket
import subprocess
import sys
import time
import urllib.error
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 20  # seconds until something that was started must answer


class Processes:
    """Everything this run started; ended by id, whatever happens. Each has a log in `folder`."""

    def __init__(self, folder):
        self.folder, self.started = folder, []

    def start(self, name, *command, **options):
        log = open(self.folder / f"{name}.log", "wb")
        options = {"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log} | options
        process = subprocess.Popen([str(word) for word in command], **options)
        process.log = Path(log.name)
        self.started.append(process)
        return process

    def end(self, process):
        self.started.remove(process)
        for how in (process.terminate, process.kill):
            how()
            try:
                return process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                pass

    def end_all(self):
        for process in reversed(self.started[:]):
            self.end(process)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def until(what, probe, patience=PATIENCE):
    """Waits for a probe's answer; what does not come names itself."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        try:
            if answer := probe():
                return answer
        except (OSError, urllib.error.URLError):
            pass
        time.sleep(0.05)
    sys.exit(f"{what} did not come within {patience} s; see the logs")
