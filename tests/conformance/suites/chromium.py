"""Chromium opens a page over HTTP/2 whose script uses fetch, EventSource and WebSocket; all must work, and over HTTP/2."""

import base64
import hashlib
import json
import queue
import struct
import subprocess
import sys
from pathlib import Path

import http2
import install
from processes import until

PAGE = Path(__file__).resolve().parents[1] / "chromium" / "page.html"
LIMIT = 120  # seconds for the browser's start and the page; it takes about 5
GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455, 1.3
TEXT = "Grüße, 世界 🚇"
EXPECTED = {
    "get": "hello",
    "post": TEXT,
    "large": True,
    "stream": "one,two",
    "events": [f"{number} event {number}" for number in range(5)],
    "socket": {
        "same": True,
        "messages": 104,
        "binary": 70_000,
        "protocol": "second",
        "code": 4321,
        "reason": "enough",
        "wasClean": True,
    },
}
# Of each, what the browser says of its protocol, and what Culvert says. (Browsers keep no timing of WebSockets.)
TIMED = {"/", "/text", "/echo", "/seen", "/events"}
LOGGED = TIMED | {"/socket"}


class Backend(http2.Ok):
    """The page, and what its script talks to; it speaks HTTP/1.1."""

    reports, seen = queue.SimpleQueue(), queue.SimpleQueue()

    def do_GET(self):
        match self.path:
            case "/":
                self.reply(PAGE.read_bytes(), "text/html")
            case "/text":
                self.reply(b"hello")
            case "/events":
                self.events()
            case "/socket":
                self.socket()
            case _:
                self.send_error(404)

    def do_POST(self):
        body = b"".join(self.chunks())
        match self.path:
            case "/echo":
                self.reply(body)
            case "/seen":
                self.reply(b"")
                self.seen.put(True)
            case "/report":
                self.reply(b"")
                self.reports.put(json.loads(body))
            case _:
                self.send_error(404)

    def chunks(self):
        if not self.headers.get("Transfer-Encoding"):
            yield self.rfile.read(int(self.headers.get("Content-Length") or 0))
            return
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def reply(self, body, kind="text/plain"):
        self.send_response(200)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def events(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        for number in range(5):
            self.wfile.write(f"id: {number}\ndata: event {number}\n\n".encode())
            if number < 4:
                self.seen.get(timeout=LIMIT)
        self.rfile.read(1)  # until the browser closes it

    def socket(self):
        """Echoes each frame as it came (RFC 6455)."""
        accept = hashlib.sha1(self.headers["Sec-WebSocket-Key"].encode() + GUID).digest()
        self.send_response(101)
        self.send_header("Upgrade", "websocket")
        self.send_header("Connection", "Upgrade")
        self.send_header("Sec-WebSocket-Accept", base64.b64encode(accept).decode())
        self.send_header("Sec-WebSocket-Protocol", "second")
        self.end_headers()
        self.close_connection = True
        while True:
            first, size = self.rfile.read(2)
            size &= 0x7F
            if size == 126:
                (size,) = struct.unpack("!H", self.rfile.read(2))
            elif size == 127:
                (size,) = struct.unpack("!Q", self.rfile.read(8))
            mask, data = self.rfile.read(4), self.rfile.read(size)
            masks = (mask * (size // 4 + 1))[:size]
            data = (int.from_bytes(data) ^ int.from_bytes(masks)).to_bytes(size)
            if size < 126:
                head = struct.pack("!BB", first, size)
            elif size < 1 << 16:
                head = struct.pack("!BBH", first, 126, size)
            else:
                head = struct.pack("!BBQ", first, 127, size)
            self.wfile.write(head + data)
            if first & 0x0F == 8:
                return


def run(processes, program):
    install.debian(chromium="chromium")
    culvert, chain, _ = http2.culvert(processes, program, http2.backend(Backend), log="json")
    version = subprocess.run(["chromium", "--version"], check=True, capture_output=True, text=True).stdout
    print(f"   {version.strip()}")
    processes.start("chromium", "chromium", *flags(processes.folder, chain), f"https://localhost:{port(culvert)}/")
    try:
        report = Backend.reports.get(timeout=LIMIT)
    except queue.Empty:
        sys.exit(f"the page did not report within {LIMIT} s; see {processes.folder}/chromium.log")
    # A line is written once all is over; the page's last request is the report.
    until("the access log", lambda: {"/report", "/socket"} <= {line["path"] for line in lines(culvert)})

    problems = []
    for name, expected in EXPECTED.items():
        seen = report["results"].get(name)
        print(f"   {name}: {'works' if seen == expected else seen}")
        problems += [] if seen == expected else [f"{name}: {seen} instead of {expected}"]
    problems += protocols("the browser", TIMED, "h2", report["protocols"])
    logged = [(line["path"], line["protocol"]) for line in lines(culvert)]
    problems += protocols("Culvert's log", LOGGED, "HTTP/2", logged)
    # Joined: 200 for the browser's extended CONNECT (RFC 8441), 101 of the backend.
    sockets = [(line["status"], line.get("backend_status")) for line in lines(culvert) if line["path"] == "/socket"]
    return problems + ([] if sockets == [(200, 101)] else [f"Culvert's log: statuses of the WebSocket {sockets}"])


def flags(folder, chain):
    """A browser of its own that trusts this certificate, and asks nobody else for anything."""
    key = subprocess.run(["openssl", "x509", "-in", chain, "-noout", "-pubkey"], check=True, capture_output=True).stdout
    der = ["openssl", "pkey", "-pubin", "-outform", "DER"]
    spki = hashlib.sha256(subprocess.run(der, check=True, input=key, capture_output=True).stdout).digest()
    return [
        "--headless=new",
        "--no-sandbox",  # which root has none of
        "--no-first-run",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        f"--user-data-dir={folder / 'profile'}",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
        f"--ignore-certificate-errors-spki-list={base64.b64encode(spki).decode()}",
    ]


def port(culvert):
    return culvert.https.rsplit(":", 1)[1]


def lines(culvert):
    """Culvert's access log, which is among its other lines."""
    whole = (line for line in culvert.edge.log.read_text().splitlines() if line.startswith("{") and line.endswith("}"))
    parsed = map(json.loads, whole)
    return [line for line in parsed if "protocol" in line and "path" in line]


def protocols(who, paths, expected, seen):
    """Problems: a path that is missing, or that was asked for by another protocol."""
    found = {path: {protocol for at, protocol in seen if at == path} for path in sorted(paths)}
    print(f"   {who}:", ", ".join(f"{path} {'+'.join(sorted(of)) or '-'}" for path, of in found.items()))
    return [f"{who}: {path} by {of or 'nothing'}" for path, of in found.items() if of != {expected}]
