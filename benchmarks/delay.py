"""A network in between: a proxy that holds everything back, for a round trip of so many ms.

Runs as a process of its own, so that it takes nothing from the one that is measured. Each direction
is held back for half of the time; nothing is reordered, and what comes close together stays so.
"""

from __future__ import annotations

import argparse
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

LOOPBACK = "127.0.0.1"
# The system wakes a thread this much later than asked, in seconds; the rest is waited for awake.
LATE = 0.0002


class Direction:
    """Carry bytes from one socket to another, each chunk `delay` seconds after it came."""

    def __init__(self, source: socket.socket, target: socket.socket, delay: float) -> None:
        self.source = source
        self.target = target
        self.delay = delay
        self.chunks: queue.SimpleQueue[tuple[float, bytes]] = queue.SimpleQueue()
        for run in (self.read, self.write):
            threading.Thread(target=run, daemon=True).start()

    def read(self) -> None:
        data = b"."
        while data:
            try:
                data = self.source.recv(1 << 16)
            except OSError:
                data = b""
            self.chunks.put((time.perf_counter() + self.delay, data))

    def write(self) -> None:
        with suppress(OSError):
            while True:
                due, data = self.chunks.get()
                if (early := due - time.perf_counter() - LATE) > 0:
                    time.sleep(early)
                while time.perf_counter() < due:
                    pass
                if not data:
                    break
                self.target.sendall(data)
        for end in (self.source, self.target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def serve(listener: socket.socket, target: str, delay: float) -> None:
    """Accept connections, and forward each to the Unix socket `target`."""
    while True:
        client, _ = listener.accept()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server = socket.socket(socket.AF_UNIX)
        server.connect(target)
        Direction(client, server, delay)
        Direction(server, client, delay)


@contextmanager
def delayed(target: str, milliseconds: float) -> Iterator[int]:
    """Run a proxy in front of the Unix socket `target`; yield its port."""
    command = [sys.executable, __file__, target, str(milliseconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def main() -> None:
    """Print the port, and serve until killed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="path of a Unix socket")
    parser.add_argument("milliseconds", type=float, help="for a round trip")
    options = parser.parse_args()
    with closing(socket.create_server((LOOPBACK, 0))) as listener:
        print(listener.getsockname()[1], flush=True)
        serve(listener, options.target, options.milliseconds / 2000)


if __name__ == "__main__":
    main()
