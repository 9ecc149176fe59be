"""tinyproxy and squid, each with a password: all tests of the agent, in WebSockets through them.

The tests are those of tests/agent.rs, as tests/agent_behind_proxy.rs repeats them; the program is cargo's own for tests.
Afterwards the log of the proxy must have the tunnels, so that they did go through it. Last, an agent process with a wrong
password says what the proxy said.
"""

import os
import pwd
import re
import shutil
import socket
import subprocess

import install
from culvert import Culvert
from processes import ROOT, free_port, until

USER, PASSWORD = "me", "p@ss:word"
URL = "http://me:p%40ss%3aword@127.0.0.1:{port}"


def run(processes, program):
    install.debian(tinyproxy="tinyproxy-bin", squid="squid", htpasswd="apache2-utils")
    build = ["cargo", "test", "--locked", "--test", "agent_behind_proxy", "--no-run"]
    subprocess.run(build, check=True, cwd=ROOT)
    problems = []
    for name, start in (("tinyproxy", tinyproxy), ("squid", squid)):
        port, log = start(processes)
        until(name, lambda: socket.create_connection(("127.0.0.1", port), timeout=1).close() or True)
        said = tests(port)
        for line in re.findall(r"^test result: .*$", said.stdout, re.M):
            print(f"   {name}: {line}")
        if said.returncode:
            problems.append(f"{name}: {said.stdout[-3000:]}")
        tunnels = len(re.findall(r"CONNECT", log.read_text(errors="replace"))) if log.exists() else 0
        print(f"   {name}: {tunnels} lines about CONNECT in its log")
        if tunnels < 10:
            problems.append(f"{name}: the tunnels did not go through it")
        problems += wrong_password(processes, program, name, port)
    return problems


def tests(port):
    command = ["cargo", "test", "--locked", "--test", "agent_behind_proxy"]
    environment = {**os.environ, "CULVERT_TEST_PROXY": URL.format(port=port)}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600)


def wrong_password(processes, program, name, port):
    """What the agent's log says must name the proxy, its answer and the remedy, and must not have the password."""
    culvert = Culvert(processes, program, [])
    processes.end(culvert.agent)
    folder = processes.folder / "culvert"
    command = [program, "agent", "--edge", f"https://{culvert.bridge}", "--agent", "default/lab", "--edge-fingerprint"]
    pin = re.search(r"--edge-fingerprint (\S+)", culvert.edge.log.read_text())[1].rstrip('";')
    command += [pin, "--token-file", folder / "token"]
    proxy = f"http://{USER}:not-the-one@127.0.0.1:{port}"
    agent = processes.start(f"{name}-wrong", *command, env={**os.environ, "CULVERT_PROXY": proxy, "NO_PROXY": ""})
    expected = re.compile(r"the proxy 127\.0\.0\.1:\d+ answered (407|401) .*: .*--proxy")
    line = until("the agent's refusal", lambda: expected.search(agent.log.read_text()))
    print(f"   {name}: {line[0]}")
    said = agent.log.read_text()
    processes.end(agent)
    processes.end(culvert.edge)
    return [f"{name}: the password is in the log"] if "not-the-one" in said else []


def tinyproxy(processes):
    port, log = free_port(), processes.folder / "tinyproxy.log"
    log.unlink(missing_ok=True)
    file = processes.folder / "tinyproxy.conf"
    # Its file knows no quotes: the password is one without what it would take for a comment or a space.
    lines = [
        f"Port {port}", "Listen 127.0.0.1", "Timeout 600", "MaxClients 500", "Allow 127.0.0.1", "LogLevel Connect",
        f"BasicAuth {USER} {PASSWORD}",
    ]
    file.write_text("\n".join(lines) + "\n")
    return port, processes.start("tinyproxy", "tinyproxy", "-d", "-c", file).log


def squid(processes):
    port, folder = free_port(), processes.folder / "squid"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    subprocess.run(["htpasswd", "-bc", folder / "users", USER, PASSWORD], check=True, capture_output=True)
    log = folder / "access.log"
    lines = [
        f"http_port 127.0.0.1:{port}",
        f"auth_param basic program /usr/lib/squid/basic_ncsa_auth {folder / 'users'}",
        "auth_param basic realm test",
        "acl known proxy_auth REQUIRED",
        "http_access allow known",
        "http_access deny all",
        f"access_log stdio:{log}",
        f"cache_log {folder / 'cache.log'}",
        f"pid_filename {folder / 'squid.pid'}",
        f"coredump_dir {folder}",
        "cache deny all",
        "shutdown_lifetime 1 seconds",
        "max_filedescriptors 4096",
    ]
    (folder / "squid.conf").write_text("\n".join(lines) + "\n")
    if os.geteuid() == 0:
        # It leaves root for the user of its package, who has to write here.
        owner = pwd.getpwnam("proxy")
        for path in [folder, *folder.iterdir()]:
            os.chown(path, owner.pw_uid, owner.pw_gid)
        for parent in folder.parents:
            if not os.stat(parent).st_mode & 0o001:
                raise SystemExit(f"squid's user cannot enter {parent}")
    processes.start("squid", "squid", "-N", "-f", folder / "squid.conf")
    return port, log
