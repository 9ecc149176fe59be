"""The tools that are compared: each with its processes, on free loopback ports, with configurations of its own."""

import os
import re
import secrets
import subprocess
import sys
import urllib.request
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "lib"))
import usage
from certificate import certificate
from culvert import Culvert, tunnel_host
from nginx import nginx
from processes import ROOT, Processes, free_port, until

WORK = ROOT / "target" / "bench"
RATHOLE_VERSION = "0.5.0"

WEB_HOST, WS_HOST = "web.bench.test", "ws.bench.test"
REPLY_BYTES = 1024
DOWNLOAD_BYTES = 256 << 20


def family(process):
    """The process and its children, as nginx's workers."""
    pids = [process.pid]
    for pid in pids:
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            pids += [int(child) for child in children.read_text().split()]
    return pids


def cpu_seconds(processes):
    return usage.cpu_seconds(id for process in processes for id in family(process))


def rss_kib(processes):
    return usage.rss_kib(id for process in processes for id in family(process))


def write_content():
    www = WORK / "www"
    www.mkdir(parents=True, exist_ok=True)
    (www / "small").write_text("x" * REPLY_BYTES)
    with open(www / "large", "wb") as large:
        large.truncate(DOWNLOAD_BYTES)


def nginx_hop(processes, name, web, ws):
    """An nginx that brings visitors to two addresses; answers (process, addresses for HTTP, WebSockets, HTTP over TLS)."""
    web_port, ws_port, tls_port = free_port(), free_port(), free_port()
    chain, key = certificate(WORK, WEB_HOST)
    forward = """
        proxy_http_version 1.1;
        proxy_set_header Host $host;
        proxy_set_header X-Forwarded-For $remote_addr;
        proxy_max_temp_file_size 0;"""
    upstreams = f"""
    upstream web {{ server {web}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h; }}
    upstream ws {{ server {ws}; }}
    server {{
        listen 127.0.0.1:{web_port} backlog=4096;
        listen 127.0.0.1:{tls_port} ssl http2 backlog=4096;
        ssl_certificate {chain};
        ssl_certificate_key {key};
        location / {{ proxy_pass http://web; {forward} proxy_set_header Connection ""; }}
    }}
    server {{
        listen 127.0.0.1:{ws_port} backlog=4096;
        location / {{
            proxy_pass http://ws; {forward}
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_read_timeout 1h;
        }}
    }}"""
    addresses = (f"127.0.0.1:{port}" for port in (web_port, ws_port, tls_port))
    return nginx(processes, name, upstreams), *addresses


class Tool:
    """One column of the table."""

    def __init__(self, name, processes, web, ws, web_tls=None):
        self.name, self.processes, self.web, self.ws, self.web_tls = name, processes, web, ws, web_tls
        until(f"an answer through {name}", lambda: fetch(web, "/small") == REPLY_BYTES)


def fetch(address, path):
    request = urllib.request.Request(f"http://{address}{path}", headers={"Host": WEB_HOST})
    with urllib.request.urlopen(request, timeout=5) as answer:
        return len(answer.read())


def start_nginx(processes, programs, web, ws):
    front, *addresses = nginx_hop(processes, "nginx-hop", web, ws)
    return Tool("nginx hop", [front], *addresses)


def start_rathole(processes, programs, web, ws, noise):
    name = "rathole-noise" if noise else "rathole"
    port, web_port, ws_port = free_port(), free_port(), free_port()
    transport = {"server": "", "client": ""}
    if noise:
        generated = subprocess.run([programs["rathole"], "--genkey"], check=True, capture_output=True, text=True)
        private, public = re.findall(r"^[A-Za-z0-9+/]{43}=$", generated.stdout, re.M)
        for side, key in (("server", f"local_private_key = {private!r}"), ("client", f"remote_public_key = {public!r}")):
            transport[side] = f"[{side}.transport]\ntype = 'noise'\n[{side}.transport.noise]\n{key}\n"
    sides = {
        "server": f"bind_addr = '127.0.0.1:{port}'",
        "client": f"remote_addr = '127.0.0.1:{port}'",
    }
    services = {
        "server": {"web": f"bind_addr = '127.0.0.1:{web_port}'", "ws": f"bind_addr = '127.0.0.1:{ws_port}'"},
        "client": {"web": f"local_addr = '{web}'", "ws": f"local_addr = '{ws}'"},
    }
    token, running = secrets.token_urlsafe(), []
    for side, address in sides.items():
        config = WORK / f"{name}-{side}.toml"
        config.touch(mode=0o600)
        config.write_text(
            f"[{side}]\n{address}\ndefault_token = '{token}'\n{transport[side]}"
            + "".join(f"[{side}.services.{service}]\n{where}\n" for service, where in services[side].items())
        )
        quiet = {**os.environ, "RUST_LOG": "warn"}
        running.append(processes.start(f"{name}-{side}", programs["rathole"], f"--{side}", config, env=quiet))
    front, *addresses = nginx_hop(processes, f"{name}-front", f"127.0.0.1:{web_port}", f"127.0.0.1:{ws_port}")
    return Tool("rathole, noise" if noise else "rathole, plaintext", [*running, front], *addresses)


def start_culvert(processes, programs, web, ws):
    hosts = [tunnel_host("web", WEB_HOST, web), tunnel_host("ws", WS_HOST, ws)]
    chain, key = certificate(WORK, WEB_HOST)
    flags = ["--default-cert", chain, "--default-key", key]
    culvert = Culvert(processes, programs["culvert"], hosts, flags=flags)
    return Tool("Culvert", [culvert.edge, culvert.agent], culvert.http, culvert.http, culvert.https)
