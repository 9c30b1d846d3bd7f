"""A TCP path that can be cut, or go deaf: what a network does to connections."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

# Closing a socket with this sends RST instead of FIN.
RESET = struct.pack("ii", 1, 0)
# What is sent into a deaf path soon finds no buffer any more.
BUFFER = 1 << 16


@dataclass(eq=False)
class Link:
    """One connection that is forwarded, by a thread for each direction."""

    client: socket.socket
    server: socket.socket
    running: int = 2
    ended: bool = False

    def end(self) -> None:
        """Wake both threads; the last one to end closes the sockets."""
        self.ended = True
        with suppress(OSError):
            self.server.shutdown(socket.SHUT_RDWR)
        # Nothing is sent by this: closing says how the client hears of it.
        with suppress(OSError):
            self.client.shutdown(socket.SHUT_RD)


class Cut:
    """Forward TCP connections to `target`: a host and a port, or the path of a Unix socket."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self.target = target
        self.listener = socket.socket()
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER)
        self.listener.bind(("127.0.0.1", 0))
        self.listener.listen(128)
        self.host, self.port = self.listener.getsockname()
        self.links: set[Link] = set()
        self.changed = threading.Condition()
        self.hears = True
        # The connections that a deaf path has kept something from.
        self.unheard: set[Link] = set()
        self.acceptor = threading.Thread(target=self.accept, daemon=True)
        self.acceptor.start()

    def accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                try:
                    link = Link(client, self.connect())
                except OSError:  # PgBouncer is down.
                    client.close()
                    continue
                with self.changed:
                    self.links.add(link)
                for pair in ((link.client, link.server), (link.server, link.client)):
                    threading.Thread(target=self.forward, args=(link, *pair), daemon=True).start()

    def connect(self) -> socket.socket:
        if isinstance(self.target, tuple):
            return socket.create_connection(self.target)
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.target)
        return server

    def forward(self, link: Link, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while self.hearing(link) and (data := source.recv(BUFFER)) and self.hearing(link):
                target.sendall(data)
        with self.changed:
            link.end()
            link.running -= 1
            if not link.running:
                link.client.close()
                link.server.close()
                self.links.discard(link)
                self.changed.notify_all()

    def hearing(self, link: Link) -> bool:
        """Wait while the path is deaf; return whether `link` is still there after that."""
        with self.changed:
            if not self.hears:
                self.unheard.add(link)
                self.changed.notify_all()
            self.changed.wait_for(lambda: self.hears or link.ended)
            return not link.ended

    def cut(self) -> None:
        """Reset every connection; those that come later work."""
        with self.changed:
            for link in self.links:
                with suppress(OSError):
                    link.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                link.end()
            self.hears = True
            self.changed.notify_all()
            self.wait_until_closed(set(self.links))

    def deafen(self, count: int = 0) -> None:
        """Forward nothing from now on, and close nothing, until the path is cut.

        Return once `count` connections wait for what does not come.
        """
        with self.changed:
            self.hears = False
            self.unheard.clear()
            assert self.changed.wait_for(lambda: len(self.unheard) >= count, 10)

    def wait_until_closed(self, links: set[Link]) -> None:
        """Wait until `links` are closed, by whomever."""
        with self.changed:
            assert self.changed.wait_for(lambda: not links & self.links, 10)

    def stop(self) -> None:
        """End everything."""
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.acceptor.join(10)
        self.cut()
        self.listener.close()


@contextmanager
def path_to(target: tuple[str, int] | str) -> Iterator[Cut]:
    """Open a path for the length of a block."""
    path = Cut(target)
    try:
        yield path
    finally:
        path.stop()
