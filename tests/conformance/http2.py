"""What the HTTP/2 suites share: Culvert on its TLS listener, and bare hyper beside it."""

import http.server
import subprocess
import threading

from certificate import certificate, tls_secret
from culvert import Culvert, tunnel_host
from processes import ROOT, until


class Ok(http.server.BaseHTTPRequestHandler):
    """Answers a few bytes, more than the suites' windows take at once, when it has the whole request."""

    protocol_version = "HTTP/1.1"
    body = b"all well"

    def answer(self):
        if self.headers.get("Transfer-Encoding"):
            while size := int(self.rfile.readline().split(b";")[0], 16):
                self.rfile.read(size + 2)
            while self.rfile.readline() not in (b"\r\n", b""):
                pass
        else:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(self.body)

    do_GET = do_HEAD = do_POST = do_PUT = do_OPTIONS = do_DELETE = answer

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1024  # a suite that runs all its cases at once makes so many connections

    def handle_error(self, *_):
        """A connection that a suite broke off is no news."""


def backend(handler):
    """A backend in this process; answers its address."""
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


def culvert(processes, program, target, log="off", **spec):
    """Culvert with `target` as https://localhost; answers it and the certificate."""
    chain, key = certificate(processes.folder, "localhost")
    tls = {"secretRef": {"name": "localhost-tls"}, "redirect": False}
    objects = [tls_secret("localhost-tls", chain, key), tunnel_host("suite", "localhost", target, tls=tls, **spec)]
    return Culvert(processes, program, objects, log=log), chain, key


def bare_hyper(processes, chain, key):
    """Bare hyper's addresses, with TLS and without."""
    subprocess.run(["cargo", "build", "--quiet", "--locked", "--example", "bare"], check=True, cwd=ROOT)
    hyper = processes.start("bare", ROOT / "target/debug/examples/bare", chain, key)
    return until("bare hyper", lambda: hyper.log.read_text().split())


def compare(culvert, hyper, known):
    """Problems: a case that bare hyper passes and Culvert does not, and that is not `known` to be stricter on purpose."""
    for who, failures in (("bare hyper", hyper), ("Culvert", culvert)):
        print(f"   {who}: {len(failures)} failures")
    for case in sorted(culvert):
        reason = f" ({known[case]})" if case in known else ""
        print(f"   {'both' if case in hyper else 'Culvert alone'}: {case}{reason}")
    return [f"{case}: bare hyper passes it" for case in sorted(culvert - hyper - known.keys())]
