#!/usr/bin/env python3
"""Writes seeds for the fuzzers into fuzz/corpus: the transcript of docs/protocol.md, and one input for each thing that a
target knows."""

import re
import struct
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECK = (
    b'{"id":7,"namespace":"web","target":"127.0.0.1:8080","interval":10000,"timeout":2000,"unhealthyAfter":3,"healthyAfter":2,'
    b'"http":{"path":"/healthz","host":"app.lan","expected":[[200,399]],"tls":"app.lan"}}'
)
NOTES = (
    b'{"kind":"welcome","replica":"edge-0","version":"0.1.0","replicas":[{"id":"edge-0","address":"10.0.0.1:7443"}]}',
    b'{"kind":"replicas","replicas":[{"id":"edge-0"},{"id":"edge-1","address":"[::1]:7443"}]}',
    b'{"kind":"agents","held":["web/lab"],"gone":["web/other"]}',
    b'{"kind":"drain","seconds":25}',
    b'{"kind":"checks","start":[' + CHECK + b'],"stop":[1,2]}',
    b'{"kind":"health","reports":[{"id":7},{"id":8,"problem":{"reason":"refused","text":"no"}}]}',
    b'{"kind":"novelty","list":[1,null,{"a":"\\u00e9"}]}',
)
FIELDS = {1: b"127.0.0.1:8080", 2: b"web/shop", 3: bytes([203, 0, 113, 7, 195, 80]), 4: b"r-1", 5: b"00-1-2-01", 6: b"web/lab"}
REQUEST = (
    b"GET /v1/tunnel HTTP/1.1\r\nHost: edge\r\nConnection: Upgrade\r\n%sAuthorization: Bearer 0123456789abcdef\r\n"
    b"Culvert-Agent: web/lab\r\nCulvert-Instance: 0a\r\nCulvert-Version: 1\r\nCulvert-Slots: 3\r\nCulvert-Met: a,b=0+2\r\n\r\n"
)
SOCKET = b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: culvert.1\r\n"
SWITCHING = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: culvert/1\r\nCulvert-Replica: edge-0\r\nCulvert-Slot: 0\r\n\r\n\x08"
BUSY = b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 5\r\nCulvert-Protocol: culvert/1\r\nContent-Length: 4\r\n\r\nwait"
TEXTS = (
    b"127.0.0.1:8080", b"web=*.svc.local:80-90", b"unix:/run/app.sock", b"[fd00::/8]:*", b"10.0.0.0/8:443", b"7.0.0.0.:80",
    b"sha256:" + b"ab" * 32, b"http://user:pass%40@proxy.lan:3128", b"PROXY TCP4 192.0.2.1 192.0.2.2 4000 443\r\n",
    b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(range(12)), b"PROXY UNKNOWN\r\n", b".lan,10.0.0.0/8,[::1]:80,*",
)


def frame(kind, link, payload):
    return struct.pack(">BBHI", kind, 0, len(payload), link) + payload


def message(opcode, payload, masked):
    """A frame of a WebSocket."""
    length = bytes([len(payload) | masked << 7]) if len(payload) < 126 else struct.pack(">BH", 126 | masked << 7, len(payload))
    return bytes([0x80 | opcode]) + length + (bytes(4) if masked else b"") + payload


def transcript():
    text = (ROOT / "docs/protocol.md").read_text().split("```hex\n")[1].split("```")[0]
    sides, side = {">": b"", "<": b""}, None
    for line in text.splitlines():
        side = line[0] if line[0] in sides else side
        sides[side] += bytes.fromhex(re.match(r"(?:[0-9a-f]{2} ?)+", line[2:].strip())[0])
    return sides


def seeds():
    sides = transcript()
    yield "machine", b"\x01\xff" + sides[">"]
    yield "machine", b"\x00\xff" + sides["<"]
    yield "machine", b"\x01\x01" + sides[">"]
    opening = b"".join(struct.pack(">BH", kind, len(value)) + value for kind, value in FIELDS.items())
    yield "notes", b"\x00" + opening
    for note in NOTES:
        yield "notes", b"\x01" + note
        yield "machine", b"\x00\x10" + frame(10, 0, note)
    yield "registration", b"\x00\x00" + REQUEST % b"Upgrade: culvert/2, culvert/1\r\n"
    yield "registration", b"\x01\x00" + REQUEST % SOCKET
    for answer in (SWITCHING, BUSY):
        yield "registration", b"\x02\x07" + answer
    for masked in (0, 1):
        stream = b"".join(message(kind, b"abc", masked) for kind in (2, 9, 10)) + message(2, bytes(200), masked)
        yield "websocket", bytes([1 - masked, 9, 5]) + stream + message(8, b"\x03\xe8", masked)
    for text in TEXTS:
        yield "text", text
    yield "wire", bytes(range(256)) * 4


for number, (target, seed) in enumerate(seeds()):
    folder = ROOT / "fuzz/corpus" / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"seed-{number}").write_bytes(seed)
