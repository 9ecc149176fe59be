"""h2load: 100 streams on each of 10 TLS connections, and not one request may fail."""

import re
import subprocess

import http2
import install
from nginx import nginx
from processes import free_port

REQUESTS = 100_000


def run(processes, program):
    install.debian(h2load="nghttp2-client", nginx="nginx-light")
    port = free_port()
    nginx(processes, "backend", f"server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 ok; }} }}")
    culvert, _, _ = http2.culvert(processes, program, f"127.0.0.1:{port}")
    target = f"https://localhost:{culvert.https.rsplit(':', 1)[1]}/"
    command = ["h2load", "-n", str(REQUESTS), "-c", "10", "-m", "100", "-t", "1", target]
    said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=300).stdout
    for line in re.findall(r"^(?:finished in|requests:|status codes:|Application protocol:).*$", said, re.M):
        print(f"   {line}")
    problems = []
    counts = re.search(r"requests: \d+ total, .* (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    if not counts or counts.groups() != (str(REQUESTS), "0", "0", "0"):
        problems.append("some requests failed")
    if f"status codes: {REQUESTS} 2xx" not in said:
        problems.append("some answers were no 200")
    if "Application protocol: h2" not in said:
        problems.append("it was not HTTP/2")
    return problems
