"""Requests that all arrive at once, and a look at the server's connections meanwhile."""

from __future__ import annotations

import asyncio
import json
import random
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.core.handlers.asgi import ASGIHandler

from benchmarks.slow_views import ROWS_READ

INTERVAL = 0.05
# Seconds that requests and pools have for a connection: they are to be slow rather than to fail.
PATIENCE = 120
CONNECTIONS = """
SELECT application_name, count(*), count(*) FILTER (WHERE state <> 'idle') FROM pg_stat_activity
WHERE backend_type = 'client backend' GROUP BY application_name
"""


class Sampler(threading.Thread):
    """Count the server's connections of each application_name, every 50 ms.

    `most` has how many were open, `in_use` how many were in a statement or a transaction at each
    sample.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__(daemon=True)
        self.dsn = dsn
        self.now: dict[str, int] = {}
        self.most: Counter[str] = Counter()
        self.in_use: defaultdict[str, list[int]] = defaultdict(list)
        self.ended = threading.Event()

    def run(self) -> None:
        """Count until told to end."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            while not self.ended.wait(INTERVAL):
                rows = connection.execute(CONNECTIONS).fetchall()
                self.now = {name: count for name, count, _ in rows}
                for name, count, in_use in rows:
                    self.most[name] = max(self.most[name], count)
                    self.in_use[name].append(in_use)

    def wait_for(self, name: str, count: int) -> None:
        """Wait until `name` has `count` connections; raise TimeoutError if it never has."""
        deadline = time.monotonic() + PATIENCE
        while self.now.get(name, 0) < count:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{name} has not {count} connections: {self.now}")
            time.sleep(INTERVAL)


@contextmanager
def sampling(dsn: str) -> Iterator[Sampler]:
    """Sample inside the block."""
    sampler = Sampler(dsn)
    sampler.start()
    try:
        yield sampler
    finally:
        sampler.ended.set()
        sampler.join()


async def burst(
    handler: ASGIHandler, prefix: str, *, requests: int, tenants: int, seconds: float
) -> tuple[float, Counter[str]]:
    """Send all `requests` at once; return the seconds that they took, and the errors."""
    chance = random.Random(requests)
    chosen = [chance.randint(1, tenants) for _ in range(requests)]
    start = time.perf_counter()
    errors = await asyncio.gather(
        *(error_of(handler, f"{prefix}/{tenant}/", tenant, seconds) for tenant in chosen)
    )
    return time.perf_counter() - start, Counter(filter(None, errors))


async def error_of(handler: ASGIHandler, path: str, tenant: int, seconds: float) -> str:
    """Send a request; return what is wrong with its response, if anything is."""
    try:
        status, body = await get(handler, path, f"await={seconds}")
    except Exception as error:  # noqa: BLE001 - it is counted
        return f"{type(error).__name__}: {error}"
    answer = json.loads(body)
    if status != 200:
        return f"{status}: {answer['error']}"
    if answer["reads"] != [[tenant] * ROWS_READ] * 2:
        return "the wrong notes"
    return ""


async def get(handler: ASGIHandler, path: str, query: str) -> tuple[int, bytes]:
    """Call Django as an ASGI server does; return status and body of the response."""
    incoming = [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if not incoming:
            # The client does not hang up; Django cancels this when it has responded.
            await asyncio.get_running_loop().create_future()
        return incoming.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(b"host", b"localhost"), (b"accept", b"application/json")],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 8000),
    }
    application: Any = handler
    await application(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])
