"""A proxy in front of PostgreSQL that writes down what goes over the wire."""

from __future__ import annotations

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field

import pytest

from example_asgi.servers import Postgres

SSL_REQUEST, GSS_REQUEST, CANCEL_REQUEST = 80877103, 80877104, 80877102


@dataclass
class Wire:
    """What one proxy saw since :meth:`clear`: the client's messages, and the server's answers."""

    port: int = 0
    messages: list[tuple[str, bytes]] = field(default_factory=list)
    round_trips: int = 0
    # The major version that the server is made to announce, such as b"14".
    announced: bytes = b""
    # Whether what a Sync ends is passed on with it, so that the server says nothing before it.
    waits_for_sync: bool = False

    def clear(self) -> None:
        """Forget what was seen."""
        self.messages.clear()
        self.round_trips = 0

    @property
    def kinds(self) -> str:
        """The types of the client's messages in order, such as "QQ" for two simple queries."""
        return "".join(kind for kind, _ in self.messages)

    @property
    def queries(self) -> list[str]:
        """The SQL of simple Query (Q) and Parse (P) messages."""
        texts = []
        for kind, body in self.messages:
            if kind == "Q":
                texts.append(body[:-1].decode())
            elif kind == "P":
                texts.append(body.split(b"\0")[1].decode())
        return texts


class Messages:
    """Cut a byte stream into protocol messages."""

    def __init__(self, *, untyped: int = 0) -> None:
        self.buffer = b""
        self.untyped = untyped

    def feed(self, data: bytes) -> Iterator[tuple[str, bytes]]:
        self.buffer += data
        while True:
            offset = 0 if self.untyped else 1
            if len(self.buffer) < offset + 4:
                return
            (length,) = struct.unpack_from("!I", self.buffer, offset)
            if len(self.buffer) < offset + length:
                return
            kind = "startup" if self.untyped else chr(self.buffer[0])
            body = self.buffer[offset + 4 : offset + length]
            self.buffer = self.buffer[offset + length :]
            if self.untyped:
                (code,) = struct.unpack_from("!I", body)
                if code not in (SSL_REQUEST, GSS_REQUEST):
                    self.untyped = 0
            yield kind, body


@contextmanager
def forwarding(source: socket.socket, target: socket.socket) -> Iterator[None]:
    """Close the socket that is read, and wake who reads the other."""
    with closing(source), suppress(OSError):
        try:
            yield
        finally:
            target.shutdown(socket.SHUT_RDWR)


def record_client(wire: Wire, client: socket.socket, server: socket.socket) -> None:
    messages = Messages(untyped=1)
    kind, waiting = "startup", b""
    with forwarding(client, server):
        while data := client.recv(65536):
            for kind, body in messages.feed(data):
                if kind not in ("startup", "p"):
                    wire.messages.append((kind, body))
            waiting += data
            if not (wire.waits_for_sync and (kind in "PBDE" or messages.buffer)):
                server.sendall(waiting)
                waiting = b""


def record_server(wire: Wire, client: socket.socket, server: socket.socket) -> None:
    messages = Messages()
    ready_before = False
    with forwarding(server, client):
        while data := server.recv(65536):
            for kind, _ in messages.feed(data):
                # The first ReadyForQuery ends the connection's start.
                wire.round_trips += kind == "Z" and ready_before
                ready_before = ready_before or kind == "Z"
            if wire.announced:
                data = re.sub(rb"(?<=server_version\0)\d\d", wire.announced, data)
            client.sendall(data)


def accept(wire: Wire, listener: socket.socket, postgres: Postgres) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            # Or an answer in two parts waits 40 ms for the client's acknowledgement of the first.
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            server.connect(f"{postgres.host}/.s.PGSQL.{postgres.port}")
            for target in (record_client, record_server):
                threading.Thread(target=target, args=(wire, client, server), daemon=True).start()


@contextmanager
def recording(postgres: Postgres) -> Iterator[Wire]:
    """Open a recording proxy in front of a server."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        wire = Wire(port=listener.getsockname()[1])
        threading.Thread(target=accept, args=(wire, listener, postgres), daemon=True).start()
        yield wire
        # Closing alone does not wake accept().
        listener.shutdown(socket.SHUT_RDWR)


@pytest.fixture(scope="session")
def proxy(postgres: Postgres) -> Iterator[Wire]:
    """Return the recording proxy that the database alias "wire" goes through."""
    with recording(postgres) as wire:
        yield wire
