"""Visitors who come at a steady rate, each with a connection of its own, and remember how it went."""

import asyncio
import re
import threading
import time
from dataclasses import dataclass

from fleet import HOST


@dataclass
class Visit:
    begun: float  # by the monotonic clock
    seconds: float
    status: int  # 0: no whole answer
    retry_after: bool = False

    @property
    def failed(self):
        return self.status != 200


class Visitors:
    """`rate` requests a second to these addresses in turn, from a thread of its own, until `stop`, which answers the visits.

    With `retries`, a visitor whom one address gives no answer asks the others, as a balancer does."""

    def __init__(self, *addresses, rate=50, path="/small", retries=False, timeout=30):
        self.addresses, self.rate, self.path, self.retries, self.timeout = addresses, rate, path, retries, timeout
        self.visits, self.over = [], threading.Event()
        self.thread = threading.Thread(daemon=True, target=lambda: asyncio.run(self.run()))
        self.thread.start()

    def stop(self):
        self.over.set()
        self.thread.join()
        return self.visits

    async def run(self):
        tasks, number, start = set(), 0, time.monotonic()
        while not self.over.is_set():
            task = asyncio.create_task(self.visit(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
            await asyncio.sleep(max(0, start + number / self.rate - time.monotonic()))
        if tasks:
            await asyncio.wait(tasks)

    async def visit(self, number):
        begun = time.monotonic()
        status, retry_after = 0, False
        for attempt in range(len(self.addresses) if self.retries else 1):
            address = self.addresses[(number + attempt) % len(self.addresses)]
            try:
                status, retry_after = await asyncio.wait_for(self.request(address), self.timeout)
                break
            except (OSError, EOFError, asyncio.TimeoutError):
                pass
        self.visits.append(Visit(begun, time.monotonic() - begun, status, retry_after))

    async def request(self, address):
        host, port = address.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(f"GET {self.path} HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
            answer = await reader.read(-1)
        finally:
            writer.close()
        head, _, body = answer.partition(b"\r\n\r\n")
        status = re.match(rb"HTTP/1.1 (\d{3}) ", head)
        length = re.search(rb"(?i)\r\ncontent-length: (\d+)", head)
        if not status or not length or int(length[1]) != len(body):
            raise EOFError
        return int(status[1]), b"\r\nretry-after:" in head.lower()
