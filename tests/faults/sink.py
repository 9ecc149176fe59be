#!/usr/bin/env python3
"""A backend that answers an upload once it has all of it, and keeps nothing: nginx would have to store it first.

    sink.py    # prints its address
"""

import asyncio
import re


async def connection(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            left = int(re.search(rb"(?i)\r\ncontent-length: (\d+)", head)[1])
            while left:
                left -= len(await reader.read(min(left, 1 << 20))) or left
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        writer.close()


async def main():
    server = await asyncio.start_server(connection, "127.0.0.1", 0, limit=1 << 20)
    print("127.0.0.1:%d" % server.sockets[0].getsockname()[1], flush=True)
    async with server:
        await server.serve_forever()


asyncio.run(main())
