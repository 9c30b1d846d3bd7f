"""Clients that send one request after another over a connection that stays open."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from dataclasses import dataclass, field

from benchmarks.load_app import EVENTS, ROWS_READ


class WrongAnswerError(RuntimeError):
    """A response is not what the request was to be answered with."""


@dataclass(frozen=True, slots=True)
class Load:
    """So many clients at once; what they ask for, and how long the server awaits something."""

    workload: str
    clients: int
    seconds: float
    rows: int
    tenants: int

    def answer(self, tenant: int) -> str:
        """Return the body of the response to a tenant."""
        last = self.rows - (self.rows - tenant + 1) % self.tenants
        ids = ",".join(str(last - n * self.tenants) for n in range(ROWS_READ))
        if self.workload == "events":
            return f"data: {ids}\n\n" * EVENTS
        return f"{ids};{ids}" if self.workload == "slow" else ids


@dataclass(slots=True)
class Seen:
    """What the clients have seen in the time that counts."""

    counts: bool = False
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, load: Load, tenant: int
) -> None:
    """Send a request, and read the response; raise WrongAnswerError for a wrong one."""
    target = f"/{load.workload}/?await={load.seconds}"
    writer.write(f"GET {target} HTTP/1.1\r\nHost: bench\r\nX-User: {tenant}\r\n\r\n".encode())
    status, *headers = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")
    names = dict(line.lower().split(b": ", 1) for line in headers if line)
    body = b""
    if length := names.get(b"content-length"):
        body = await reader.readexactly(int(length))
    else:
        while size := int(await reader.readline(), 16):
            body += (await reader.readexactly(size + 2))[:-2]
        await reader.readline()
    if not status.startswith(b"HTTP/1.1 200") or body.decode() != load.answer(tenant):
        raise WrongAnswerError(f"{status.decode()}: {body[:200]!r}")


async def client(socket: str, load: Load, seen: Seen, seed: int) -> None:
    """Ask until cancelled."""
    chance = random.Random(seed)
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        while True:
            start = time.perf_counter()
            try:
                await ask(reader, writer, load, chance.randint(1, load.tenants))
            except (WrongAnswerError, OSError, EOFError, ValueError) as error:
                seen.errors[f"{type(error).__name__}: {error}"] += 1
                return
            if seen.counts:
                seen.latencies.append(time.perf_counter() - start)
    finally:
        writer.close()
