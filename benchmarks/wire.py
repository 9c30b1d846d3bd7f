"""A proxy that counts what a server answers: statements, and the ends of round trips."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from .delay import LOOPBACK

# CommandComplete and EmptyQueryResponse end a statement, ReadyForQuery ends a round trip.
STATEMENTS, ROUND_TRIPS = b"CI", b"Z"


class Wire:
    """What went through a proxy, on connections that are not encrypted."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.kinds: Counter[int] = Counter()
        self.listener = socket.create_server((LOOPBACK, 0))
        self.port: int = self.listener.getsockname()[1]

    def count(self) -> dict[str, int]:
        """Return what was counted since the last time."""
        kinds, self.kinds = self.kinds, Counter()
        return {
            "statements": sum(kinds[kind] for kind in STATEMENTS),
            "round_trips": sum(kinds[kind] for kind in ROUND_TRIPS),
        }

    def serve(self) -> None:
        """Accept connections until the listener is closed."""
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.target)
                for run in (self.forward, self.watch):
                    threading.Thread(target=run, args=(client, server), daemon=True).start()

    def forward(self, client: socket.socket, server: socket.socket) -> None:
        """Carry what the client sends."""
        with suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def watch(self, client: socket.socket, server: socket.socket) -> None:
        """Carry what the server answers, and count it before the client has it."""
        buffer = b""
        with suppress(OSError):
            while data := server.recv(1 << 16):
                buffer += data
                while len(buffer) >= 5:
                    (length,) = struct.unpack_from("!I", buffer, 1)
                    if len(buffer) <= length:
                        break
                    self.kinds[buffer[0]] += 1
                    buffer = buffer[length + 1 :]
                client.sendall(data)


@contextmanager
def counting(target: str) -> Iterator[Wire]:
    """Run a proxy in front of the Unix socket `target`."""
    wire = Wire(target)
    threading.Thread(target=wire.serve, daemon=True).start()
    try:
        yield wire
    finally:
        with suppress(OSError):
            # Closing alone does not wake accept().
            wire.listener.shutdown(socket.SHUT_RDWR)
        wire.listener.close()
