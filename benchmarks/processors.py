"""The servers on one half of the processors, and who asks them on the other half.

Left to itself, Linux runs two processes that wait for each other on one processor or on two, as it
happens. On one, nothing has to be woken up, so that a round trip takes less than half of the time,
and a candidate keeps what it has met for as long as it runs. Here they are apart, as on two
machines.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class Apart:
    """The halves of the processors; both are empty where they cannot be chosen."""

    def __init__(self, servers: set[int], clients: set[int]) -> None:
        self.servers = servers
        self.clients = clients

    @property
    def placement(self) -> str:
        """Where servers and clients run, in words."""
        return "apart" if self.clients else "as they happen"

    def leave(self) -> None:
        """Go on as a client of what was started."""
        run_on(self.clients)

    @contextmanager
    def as_client(self) -> Iterator[None]:
        """Start what is started in the block on the clients' half, and come back."""
        run_on(self.clients)
        try:
            yield
        finally:
            run_on(self.servers)


@contextmanager
def apart() -> Iterator[Apart]:
    """Start what is started in the block on the servers' half, until it is left."""
    found = halves()
    run_on(found.servers)
    try:
        yield found
    finally:
        run_on(found.servers | found.clients)


def halves() -> Apart:
    """Return the processors of servers and those of clients."""
    if sys.platform != "linux":
        return Apart(set(), set())
    every = sorted(os.sched_getaffinity(0))
    middle = len(every) // 2
    return Apart(set(every[middle:]), set(every[:middle])) if middle else Apart(set(), set())


def run_on(chosen: set[int]) -> None:
    """Let this thread, and what it starts, run on some processors; on any if there are none."""
    if sys.platform == "linux" and chosen:
        os.sched_setaffinity(0, chosen)
