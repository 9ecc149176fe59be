#!/usr/bin/env python3
"""A relay in user space that holds every byte for a while, in both directions: a long way on one machine.

    line.py TARGET SECONDS    # prints the address at which TARGET is that far away
"""

import asyncio
import collections
import socket
import sys
import time

TARGET, ONE_WAY = sys.argv[1], float(sys.argv[2])
AHEAD = 4 << 20  # bytes that one direction holds without asking its sender to wait


async def connection(reader, writer):
    host, port = TARGET.split(":")
    await asyncio.sleep(2 * ONE_WAY)  # the handshake of TCP
    try:
        far_reader, far_writer = await asyncio.open_connection(host, int(port), limit=AHEAD)
    except OSError:
        return writer.close()
    for one in (writer, far_writer):
        one.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    await asyncio.gather(way(reader, far_writer), way(far_reader, writer), return_exceptions=True)


async def way(reader, writer):
    waiting, some = collections.deque(), asyncio.Event()

    async def send():
        while True:
            while not waiting:
                some.clear()
                await some.wait()
            due, piece = waiting.popleft()
            await asyncio.sleep(due - time.monotonic())
            if not piece:
                return
            writer.write(piece)
            await writer.drain()

    sender = asyncio.create_task(send())
    try:
        piece = b"some"
        while piece:
            piece = await reader.read(1 << 20)
            waiting.append((time.monotonic() + ONE_WAY, piece))
            some.set()
        await sender
    finally:
        sender.cancel()
        writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=AHEAD)
    print("127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
