"""The servers on one half of the processors, and who asks them on the other half.

Left to itself, Linux runs two processes that wait for each other on one processor or on two, as it
happens. On one, nothing has to be woken up, so that a round trip takes less than half of the time,
and a candidate keeps what it has met for as long as it runs. Here they are apart, as on two
machines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


def halves() -> tuple[set[int], set[int]] | None:
    """Return the processors of servers and those of clients; None where they cannot be chosen."""
    if sys.platform != "linux":
        return None
    every = sorted(os.sched_getaffinity(0))
    middle = len(every) // 2
    return (set(every[middle:]), set(every[:middle])) if middle else None


@contextmanager
def apart() -> Iterator[Callable[[], None]]:
    """Start what is started in the block on the servers' half, until what is yielded is called."""
    if (both := halves()) is None:
        yield lambda: None
        return
    servers, clients = both
    os.sched_setaffinity(0, servers)
    try:
        yield lambda: os.sched_setaffinity(0, clients)
    finally:
        os.sched_setaffinity(0, servers | clients)


def placement() -> str:
    """Return in words where servers and clients run."""
    return "apart" if sys.platform == "linux" and (os.cpu_count() or 1) > 1 else "as they happen"
