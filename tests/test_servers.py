"""The example under every server: the same drive, and an end that cuts off nobody."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from dataclasses import dataclass

import httpx
import psycopg
import pytest

from example_asgi.servers import LOOPBACK, PgBouncer
from tests.fix_example import SESSIONS, Example, served
from tests.fix_faults import wait_for
from tests.visitors import VISIBLE, drive, tenants_in, together

CLIENTS_OF_EACH = 3
VISITS_OF_EACH = 9
STREAMS = 6
AT = f"{LOOPBACK}:{{port}}"
ASGI, WSGI = "project.asgi:application", "project.wsgi:application"
SEEN = "SELECT current_setting('rls.current_tenant', true), nullif(current_setting('role'), 'none')"


@dataclass(frozen=True)
class Server:
    """How a server is started, and what it can do."""

    command: list[str]
    sockets: bool = True
    # Whether it lets requests finish when it is told to end.
    graceful: bool = True
    # What it logs for each worker that is there, and for each that has ended, if SIGHUP makes it
    # start two workers anew.
    workers: tuple[str, str] | None = None


TO = ["--host", LOOPBACK, "--port", "{port}"]
TWO = ["--workers", "2"]
SERVERS = {
    "uvicorn": Server(["uvicorn", ASGI, *TO]),
    "uvicorn-2": Server(
        ["uvicorn", ASGI, *TO, *TWO],
        workers=("Application startup complete", "Finished server process"),
    ),
    "daphne": Server(["daphne", "-b", LOOPBACK, "-p", "{port}", ASGI], graceful=False),
    # Its other worker is ended when the first one has ended.
    "hypercorn": Server(["hypercorn", ASGI, "--bind", AT, *TWO], graceful=False),
    "granian": Server(
        ["granian", "--interface", "asgi", *TO, *TWO, "--workers-kill-timeout", "20", ASGI],
        workers=("Started worker-", "Stopped old worker-"),
    ),
    "gunicorn": Server(
        ["gunicorn", WSGI, "--bind", AT, *TWO, "--threads", "8"],
        sockets=False,
        workers=("Booting worker", "Worker exiting"),
    ),
    "gunicorn-asgi": Server(
        ["gunicorn", ASGI, "--bind", AT, *TWO, "--worker-class", "asgi"],
        workers=("Booting worker", "Worker exiting"),
    ),
}


def clients(pooler: PgBouncer, name: str) -> int:
    """Return how many connections a server has to the pooler."""
    return sum(client["application_name"] == name for client in pooler.admin("SHOW CLIENTS"))


def left_behind(example: Example) -> set[str | None]:
    """Return what is set on the server sessions of the pool."""
    connections = [psycopg.connect(example.dsn()) for _ in range(SESSIONS)]
    try:
        # Open transactions, so that each client has a session of its own.
        rows = [row for each in connections for row in each.execute(SEEN).fetchall()]
    finally:
        for each in connections:
            each.close()
    return {value for row in rows for value in row}


async def driven(example: Example, server: Server) -> None:
    gate = asyncio.Semaphore(4)
    names = [name for name in VISIBLE for _ in range(CLIENTS_OF_EACH)]
    visitors = await together(
        drive(example.url, name, seed, gate, VISITS_OF_EACH, sockets=server.sockets)
        for seed, name in enumerate(names)
    )
    for name, tenants in VISIBLE.items():
        seen = sum((visitor.seen for visitor in visitors if visitor.name == name), Counter[str]())
        assert set(seen) == tenants
    assert left_behind(example) <= {"", None, "false"}


async def told_while_it_streams(example: Example, number: signal.Signals) -> list[int]:
    """Send a signal while streams are read; return how many events each has got in the end."""
    started = asyncio.Barrier(STREAMS + 1)

    async def listen(http: httpx.AsyncClient) -> int:
        got = 0
        async with http.stream("GET", "/events/") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    assert tenants_in(line) == set()
                    got += 1
                    if got == 1:
                        await started.wait()
        return got

    async with httpx.AsyncClient(base_url=example.url, timeout=30) as http:
        listeners = [asyncio.create_task(listen(http)) for _ in range(STREAMS)]
        async with asyncio.timeout(30):
            await started.wait()
        example.server.process.send_signal(number)
        return await asyncio.gather(*listeners)


@pytest.mark.parametrize("name", SERVERS)
async def test_under_every_server_nobody_sees_a_row_of_another_tenant(
    name: str, example_pooler: PgBouncer
) -> None:
    server = SERVERS[name]
    with served(example_pooler, name, server.command) as example:
        log = example.log.read_text
        await driven(example, server)
        if server.workers:
            assert await told_while_it_streams(example, signal.SIGHUP) == [10] * STREAMS
            # The old ones as well: Granian's reset what is queued for them when they end.
            started, ended = server.workers
            wait_for(lambda: log().count(started) == 4 and log().count(ended) == 2, 60)
            await driven(example, server)
        if server.graceful:
            assert await told_while_it_streams(example, signal.SIGTERM) == [10] * STREAMS
        else:
            example.server.process.terminate()
        example.server.process.wait(20)
        wait_for(lambda: clients(example_pooler, name) == 0)
        assert left_behind(example) <= {"", None, "false"}
        unexpected = [
            line
            for line in log().splitlines()
            if (" 500 " in line and "/boom/" not in line) or "never" in line
        ]
        assert unexpected == []
