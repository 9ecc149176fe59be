#!/usr/bin/env python3
"""WebSockets that stay open and talk now and then, and come back when they are sent away; and the backend that echoes them.

    chats.py echo ADDRESS    # prints the address that it is bound to
"""

import asyncio
import base64
import hashlib
import os
import random
import struct
import sys
import threading
import time

TEXT, CLOSE = 0x1, 0x8
GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
SAY_EVERY = 5  # seconds
PATIENCE = 15  # seconds that an answer may take


def frame(opcode, payload=b"", masked=True):
    mask = os.urandom(4) if masked else b""
    body = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload)) if masked else payload
    return bytes([0x80 | opcode, (0x80 if masked else 0) | len(payload)]) + mask + body


async def read_frame(reader):
    """The opcode and the payload of a frame; ours are all short."""
    head = await reader.readexactly(2)
    length, mask = head[1] & 0x7F, b""
    if length == 126:
        length = struct.unpack(">H", await reader.readexactly(2))[0]
    if head[1] & 0x80:
        mask = await reader.readexactly(4)
    payload = await reader.readexactly(length)
    if mask:
        payload = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    return head[0] & 0xF, payload


class Chats:
    """`count` WebSockets to `address`, from a thread of its own, until `stop`."""

    def __init__(self, address, host, count):
        self.address, self.host, self.count = address, host, count
        self.open, self.ends, self.refused, self.back = 0, [], [], []
        self.over, self.ready = threading.Event(), threading.Event()
        self.thread = threading.Thread(daemon=True, target=lambda: asyncio.run(self.run()))
        self.thread.start()
        self.ready.wait(timeout=60)

    def stop(self):
        """Ends those that are open; what they went through is in `ends`, `refused` and `back`."""
        self.over.set()
        self.thread.join()

    async def run(self):
        at_a_time = asyncio.Semaphore(32)
        tasks = [asyncio.create_task(self.chat(at_a_time)) for _ in range(self.count)]
        while not self.over.is_set():
            await asyncio.sleep(0.05)
        while tasks:
            # Again: a cancellation that comes with what `wait_for` waits for is lost (until Python 3.12).
            for task in tasks:
                task.cancel()
            _, tasks = await asyncio.wait(tasks, timeout=1)

    async def chat(self, at_a_time):
        left = None
        while True:
            writer = None
            try:
                if left is None:
                    async with at_a_time:
                        reader, writer = await asyncio.wait_for(self.connect(), PATIENCE)
                else:
                    reader, writer = await asyncio.wait_for(self.connect(), PATIENCE)
            except (OSError, EOFError, asyncio.TimeoutError) as error:
                self.refused.append((time.time(), repr(error)))
                await asyncio.sleep(0.1)
                continue
            if left is not None:
                self.back.append(time.monotonic() - left)
            self.open += 1
            if self.open == self.count:
                self.ready.set()
            try:
                how = await self.talk(reader, writer)
            except (OSError, EOFError) as error:
                how = repr(error)
            except asyncio.TimeoutError:
                how = "no answer"
            finally:
                self.open -= 1
                writer.close()
            left = time.monotonic()
            self.ends.append((time.time(), how))

    async def connect(self):
        host, port = self.address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            key = base64.b64encode(os.urandom(16)).decode()
            upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}"
            writer.write(f"GET /chat HTTP/1.1\r\nHost: {self.host}\r\n{upgrade}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            if b" 101 " not in head.split(b"\r\n")[0]:
                raise EOFError(head.split(b"\r\n")[0].decode())
        except BaseException:
            writer.close()
            raise
        return reader, writer

    async def talk(self, reader, writer):
        """Says something again and again; answers the code of the Close frame with which the other side ends it."""
        number, due = 0, time.monotonic() + random.uniform(0, SAY_EVERY)
        expected = None
        while True:
            now = time.monotonic()
            limit = expected[1] - now if expected else due - now
            try:
                opcode, payload = await asyncio.wait_for(read_frame(reader), max(0, limit))
            except asyncio.TimeoutError:
                if expected:
                    raise
                number += 1
                said = f"message {number}".encode()
                writer.write(frame(TEXT, said))
                expected, due = (said, time.monotonic() + PATIENCE), time.monotonic() + SAY_EVERY
                continue
            if opcode == CLOSE:
                writer.write(frame(CLOSE, payload[:2]))
                await writer.drain()
                return struct.unpack(">H", payload[:2])[0] if payload else 1005
            if opcode == TEXT:
                if not expected or payload != expected[0]:
                    raise EOFError("another text")
                expected = None


async def echo(reader, writer):
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        fields = dict(line.split(b": ", 1) for line in head.lower().split(b"\r\n")[1:] if b": " in line)
        key = next(line.split(b": ", 1)[1] for line in head.split(b"\r\n") if line.lower().startswith(b"sec-websocket-key"))
        assert fields[b"upgrade"] == b"websocket"
        accept = base64.b64encode(hashlib.sha1(key + GUID.encode()).digest()).decode()
        upgrade = f"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}"
        writer.write(f"HTTP/1.1 101 Switching Protocols\r\n{upgrade}\r\n\r\n".encode())
        while True:
            opcode, payload = await read_frame(reader)
            writer.write(frame(opcode, payload, masked=False))
            if opcode == CLOSE:
                await writer.drain()
                return
    except (OSError, EOFError, asyncio.IncompleteReadError):
        pass
    finally:
        writer.close()


async def serve(address):
    host, port = address.split(":")
    server = await asyncio.start_server(echo, host, int(port), backlog=4096)
    print("%s:%d" % server.sockets[0].getsockname()[:2], flush=True)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1:2] != ["echo"]:
        sys.exit(__doc__)
    asyncio.run(serve(sys.argv[2]))
