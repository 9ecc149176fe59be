#!/usr/bin/env python3
"""A wire between two networks, in user space: each IP packet arrives after a while, and some never.

    wire.py NEAR FAR SECONDS LOSS    # makes two tun devices of these names, says "up", and carries what is sent into them

LOSS is the share of packets that are lost, as in 0.001. Needs root.
"""

import collections
import fcntl
import os
import random
import select
import struct
import sys
import time

NEAR, FAR, ONE_WAY, LOSS = sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4])
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
BURST = 64  # packets that are read before others are sent
HELD = 50_000  # packets; what comes when so many are under way is lost


def tun(name):
    file = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(file, TUNSETIFF, struct.pack("16sH", name.encode(), IFF_TUN | IFF_NO_PI))
    return file


def carry(near, far):
    poll = select.poll()
    others, held = {near: far, far: near}, {near: collections.deque(), far: collections.deque()}
    for file in others:
        poll.register(file, select.POLLIN)
    while True:
        now = time.monotonic()
        for file, packets in held.items():
            while packets and packets[0][0] <= now:
                send(file, packets.popleft()[1])
        due = min((packets[0][0] for packets in held.values() if packets), default=None)
        for file, _ in poll.poll(None if due is None else max(0.0, 1000 * (due - time.monotonic()))):
            receive(file, held[others[file]])


def receive(file, packets):
    try:
        for _ in range(BURST):
            packet = os.read(file, 1 << 16)
            if len(packets) < HELD and random.random() >= LOSS:
                packets.append((time.monotonic() + ONE_WAY, packet))
    except OSError:
        pass  # no more for now


def send(file, packet):
    try:
        os.write(file, packet)
    except OSError:
        pass  # a device that is not up takes none


ends = tun(NEAR), tun(FAR)
print("up", flush=True)
carry(*ends)
