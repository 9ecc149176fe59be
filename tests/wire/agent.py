#!/usr/bin/env python3
"""An agent written from docs/protocol.md alone, with nothing but the standard library.

It is a test tool: what it needed to know and did not find on that page is a defect of the page. It holds one session,
without health checks. Lines on standard output say what it does; SIGTERM makes it leave.
"""

import argparse
import asyncio
import hashlib
import json
import secrets
import signal
import ssl
import struct
import time
from urllib.parse import urlsplit

OPEN, OPENED, REFUSED, DATA, CREDIT, END, RESET, PING, PONG, NOTE = range(1, 11)
MUST_UNDERSTAND = 0x80
FIRST_CREDIT, CREDIT_MAX, PIECE = 262_144, 16 << 20, 16_376
LIMITS = {OPEN: 4096, DATA: PIECE, REFUSED: 1026, OPENED: 0, END: 0, CREDIT: 4, RESET: 2, PING: 8, PONG: 8}
NOT_ALLOWED, REFUSED_BY_TARGET, UNREACHABLE, TIMEOUT, DRAINING = 1, 2, 3, 4, 6
BACKEND_RESET = 2


class ProtocolError(Exception):
    """The edge's bytes break the rules of the page."""


class Refusal(Exception):
    """The edge answered the registration with something other than 101."""

    def __init__(self, status, headers, body):
        super().__init__(f"{status}: {body.strip()}")
        self.status, self.headers = status, headers


def say(*words):
    print(*words, flush=True)


def public_key(certificate):
    """The SubjectPublicKeyInfo of a certificate in DER (RFC 5280, section 4.1): the seventh element of what is signed."""

    def element(at):  # where the content begins, and where it ends
        length, begin = certificate[at + 1], at + 2
        if length & 0x80:
            begin += length & 0x7F
            length = int.from_bytes(certificate[at + 2 : begin], "big")
        return begin, begin + length

    at = element(element(0)[0])[0]
    for _ in range(5 + (certificate[at] == 0xA0)):  # the version may be missing; serial, algorithm, issuer, dates, subject
        at = element(at)[1]
    return certificate[at : element(at)[1]]


async def register(options, instance):
    """Dials the edge, makes sure that it is the one, and registers; answers the two directions of the session."""
    edge = urlsplit(options.edge)
    context = ssl.create_default_context(cafile=options.edge_ca)
    if options.edge_fingerprint:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    reader, writer = await asyncio.wait_for(asyncio.open_connection(edge.hostname, edge.port, ssl=context), 10)
    try:
        if options.edge_fingerprint:
            certificate = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
            print_of = hashlib.sha256(public_key(certificate)).hexdigest()
            if options.edge_fingerprint != f"sha256:{print_of}":
                raise ConnectionError(f"the edge's key is sha256:{print_of}")
        with open(options.token_file, encoding="ascii") as file:
            token = file.read().strip()
        head = {
            "Host": edge.netloc,
            "Connection": "Upgrade",
            "Upgrade": "culvert/1",
            "Authorization": f"Bearer {token}",
            "Culvert-Agent": options.agent,
            "Culvert-Instance": instance,
            "Culvert-Version": "0.0.0-python",
            "Culvert-Slots": "1",
        }
        lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
        writer.write(f"GET /v1/tunnel HTTP/1.1\r\n{lines}\r\n".encode())
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 15)
        first, *lines = answer.decode("latin-1").rstrip().split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        status = int(first.split()[1])
        if status != 101:
            body = await asyncio.wait_for(reader.read(1024), 2)
            raise Refusal(status, headers, body.decode("utf-8", "replace"))
        if headers.get("upgrade") != "culvert/1":
            raise ConnectionError("what answered speaks no culvert/1")
        if not headers.get("culvert-replica") or headers.get("culvert-slot") != "0":
            raise ConnectionError("what answered is no edge: it does not say who it is, or gave no slot that was wanted")
        return reader, writer, headers["culvert-replica"]
    except BaseException:
        writer.transport.abort()
        raise


class Link:
    def __init__(self, number):
        self.number = number
        self.credit = self.allowed = FIRST_CREDIT  # what the agent, and what the edge may still send
        self.more = asyncio.Event()  # credit has come
        self.received = asyncio.Queue()  # pieces for the target, None at the end
        self.opened = self.end_sent = self.end_received = False
        self.task = None


class Session:
    def __init__(self, options, reader, writer):
        self.options, self.reader, self.writer = options, reader, writer
        self.links, self.highest = {}, 0
        self.drained = asyncio.Event()  # the edge leaves
        self.leaving = False
        self.heard = time.monotonic()
        self.waiting_since = self.early = None  # data was sent and nothing came since; a PING was sent for that

    def send(self, kind, link=0, payload=b"", flags=0):
        self.writer.write(struct.pack(">BBHI", kind, flags, len(payload), link) + payload)
        if kind == DATA and self.waiting_since is None:
            self.waiting_since = time.monotonic()

    async def run(self):
        watch = asyncio.create_task(self.watch())
        if self.options.novelties:  # what a later agent might say, and every edge has to skip
            self.send(0x70, 0, b"a frame of an unknown type")
            self.send(0x71, 12345, b"and one with a link")
            self.send(NOTE, 0, json.dumps({"kind": "novelty", "list": [1]}).encode())
            self.send(NOTE, 0, json.dumps({"kind": "health", "reports": [], "novelty": True}).encode(), flags=0x55)
        try:
            while True:
                kind, flags, length, link = struct.unpack(">BBHI", await self.reader.readexactly(8))
                if length > LIMITS.get(kind, 16_384):
                    raise ProtocolError(f"a frame of type {kind} with {length} bytes")
                payload = await self.reader.readexactly(length)
                self.heard, self.waiting_since, self.early = time.monotonic(), None, None
                self.receive(kind, flags, link, payload)
        except asyncio.IncompleteReadError:
            pass  # the end of a session has no farewell
        finally:
            watch.cancel()
            for link in list(self.links.values()):
                link.task.cancel()
            self.writer.close()

    async def watch(self):
        pinged = 0
        while True:
            now = time.monotonic()
            if now - self.heard > 10 or (self.early and now - self.early > 3):
                self.writer.transport.abort()
                return
            waits = self.waiting_since is not None and self.early is None and now - self.waiting_since >= 1
            if waits or now - pinged >= 5:
                self.send(PING, 0, secrets.token_bytes(8))
                pinged, self.early = now, now if waits else self.early
            await asyncio.sleep(1)

    def receive(self, kind, flags, number, payload):
        if (OPEN <= kind <= RESET and not number) or (PING <= kind <= NOTE and number):
            raise ProtocolError(f"a frame of type {kind} for link {number}")
        if kind == PING:
            self.send(PONG, 0, payload)
        elif kind == NOTE:
            note = json.loads(payload)
            say("note", note["kind"])
            if note["kind"] == "drain":
                self.drained.set()
        elif kind == OPEN:
            self.open(number, payload)
        elif DATA <= kind <= RESET:
            if number > self.highest:
                raise ProtocolError(f"link {number} was never opened")
            if link := self.links.get(number):  # else this crossed what closed it
                self.of_link(kind, link, payload)
        elif kind in (OPENED, REFUSED) or (kind != PONG and flags & MUST_UNDERSTAND):
            raise ProtocolError(f"a frame of type {kind} from an edge")

    def of_link(self, kind, link, payload):
        if kind in (DATA, END) and link.end_received:
            raise ProtocolError(f"data of link {link.number} after its end")
        if kind == DATA:
            link.allowed -= len(payload)
            if link.allowed < 0 or not payload:
                raise ProtocolError(f"link {link.number} has no such credit")
            link.received.put_nowait(payload)
        elif kind == END:
            link.end_received = True
            link.received.put_nowait(None)
        elif kind == CREDIT:
            link.credit += struct.unpack(">I", payload)[0]
            if link.credit > CREDIT_MAX:
                raise ProtocolError(f"link {link.number} has too much credit")
            link.more.set()
        else:
            say("reset", link.number, struct.unpack(">H", payload)[0])
            self.links.pop(link.number)
            link.task.cancel()

    def open(self, number, payload):
        if number <= self.highest:
            raise ProtocolError(f"link {number} is opened after {self.highest}")
        self.highest, fields, at = number, {}, 0
        while at < len(payload):
            field, length = struct.unpack_from(">BH", payload, at)
            fields[field] = payload[at + 3 : at + 3 + length]
            at += 3 + length
        link = self.links[number] = Link(number)
        link.task = asyncio.create_task(self.serve(link, fields[1].decode()))

    def refuse(self, link, code, why):
        self.links.pop(link.number)
        self.send(REFUSED, link.number, struct.pack(">H", code) + why.encode()[:1024])

    async def serve(self, link, target):
        if self.leaving:
            return self.refuse(link, DRAINING, "the agent is leaving")
        if target not in self.options.allow:
            return self.refuse(link, NOT_ALLOWED, f"{target} is not in --allow")
        host, _, port = target.rpartition(":")
        try:
            dial = asyncio.open_connection(host.strip("[]"), int(port))
            reader, writer = await asyncio.wait_for(dial, 5)
        except asyncio.TimeoutError:
            return self.refuse(link, TIMEOUT, f"{target} does not answer")
        except ConnectionRefusedError:
            return self.refuse(link, REFUSED_BY_TARGET, f"{target} refuses connections")
        except OSError as error:
            return self.refuse(link, UNREACHABLE, f"{target}: {error}")
        self.send(OPENED, link.number)
        up, down = asyncio.create_task(self.up(link, writer)), asyncio.create_task(self.down(link, reader))
        try:
            await asyncio.gather(up, down)
            writer.close()
        except OSError:
            if self.links.pop(link.number, None):
                self.send(RESET, link.number, struct.pack(">H", BACKEND_RESET))
        finally:
            up.cancel()
            down.cancel()
            if self.links.pop(link.number, None) is None:
                writer.transport.abort()  # so that the target notices

    async def up(self, link, writer):
        """From the edge to the target; what the target has taken is what the edge may send again."""
        taken = 0
        while (piece := await link.received.get()) is not None:
            writer.write(piece)
            await writer.drain()
            taken += len(piece)
            if taken >= FIRST_CREDIT // 4 and not link.end_received:
                link.allowed += taken
                self.send(CREDIT, link.number, struct.pack(">I", taken))
                taken = 0
        writer.write_eof()

    async def down(self, link, reader):
        """From the target to the edge, as far as there is credit."""
        while True:
            while link.credit == 0:
                link.more.clear()
                await link.more.wait()
            piece = await reader.read(min(PIECE, link.credit))
            if not piece:
                break
            link.credit -= len(piece)
            self.send(DATA, link.number, piece)
            await self.writer.drain()
        self.send(END, link.number)

    async def leave(self, running, seconds):
        """Says so, and lets the edge end the session; what it does not end in time is ended here."""
        self.leaving = True
        say("leaving")
        self.send(NOTE, 0, json.dumps({"kind": "drain", "seconds": seconds}).encode())
        deadline = time.monotonic() + seconds
        empty_since = None
        while time.monotonic() < deadline and not running.done():
            empty_since = None if self.links else empty_since or time.monotonic()
            if empty_since and time.monotonic() - empty_since > 3:
                break
            await asyncio.sleep(0.05)
        self.writer.close()


async def main(options):
    instance, leaving, sessions = secrets.token_hex(8), asyncio.Event(), {}
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    wanted, pause = asyncio.create_task(leaving.wait()), 0.05
    while not leaving.is_set():
        try:
            reader, writer, replica = await register(options, instance)
        except (OSError, Refusal, asyncio.TimeoutError, asyncio.IncompleteReadError) as error:
            say("failed", error)
            pause = min(pause * 2, 60)
            if isinstance(error, Refusal) and error.status == 503:
                pause = min(pause, 1)
            if isinstance(error, Refusal) and error.status == 429:
                pause = int(error.headers.get("retry-after", "1"))
            await asyncio.wait([wanted], timeout=pause)
            continue
        session = Session(options, reader, writer)
        running = asyncio.create_task(session.run())
        sessions[running] = session
        running.add_done_callback(lambda task: say("ended", task.exception() or "as it should"))
        running.add_done_callback(sessions.pop)
        say("registered", replica)
        pause = 0.05
        drained = asyncio.create_task(session.drained.wait())
        await asyncio.wait([running, drained, wanted], return_when=asyncio.FIRST_COMPLETED)
        drained.cancel()
    await asyncio.gather(*(session.leave(running, options.leave_within) for running, session in sessions.items()))
    say("left")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edge", required=True, help="https://HOST:PORT")
    parser.add_argument("--edge-ca", help="a file of certificates that the edge's has to be signed by")
    parser.add_argument("--edge-fingerprint", help="sha256: and the hexadecimal digest of the edge's public key")
    parser.add_argument("--agent", required=True, help="NAMESPACE/NAME")
    parser.add_argument("--token-file", required=True)
    parser.add_argument("--allow", action="append", default=[], help="HOST:PORT")
    parser.add_argument("--leave-within", type=int, default=10, help="seconds that links may go on after SIGTERM")
    parser.add_argument("--novelties", action="store_true", help="also send what the edge cannot know")
    asyncio.run(main(parser.parse_args()))
