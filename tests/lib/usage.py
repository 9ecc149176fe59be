"""What processes, named by their ids, have taken of the machine."""

import os
import re
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(ids):
    """Seconds that they have run, in user mode and in the kernel."""
    ticks = 0
    for id in ids:
        after_name = Path(f"/proc/{id}/stat").read_text().rpartition(")")[2].split()
        ticks += int(after_name[11]) + int(after_name[12])  # utime, stime
    return ticks / TICKS


def rss_kib(ids):
    """KiB that they have in memory."""
    status = "\n".join(Path(f"/proc/{id}/status").read_text() for id in ids)
    return sum(int(kib) for kib in re.findall(r"^VmRSS:\s+(\d+) kB$", status, re.M))
