"""Everything at once: pages, WebSockets, events, jobs, the admin and APIs, through two sessions."""

from __future__ import annotations

import asyncio
import os
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random

import httpx
import pytest

from example_asgi.servers import LOOPBACK, Child, PgBouncer
from tests.fix_example import EXAMPLE, Example, environment_of_example, served
from tests.fix_faults import wait_for
from tests.test_servers import clients, left_behind
from tests.visitors import LIMITS, VISIBLE, Visitor, together

OPERATIONS = int(os.environ.get("TENANTRY_OPERATIONS", "3000"))
CLIENTS_OF_EACH = 10
ROOT = Path(__file__).resolve().parent.parent
ADMIN_PAGES = ["/admin/", "/admin/notes/note/", "/admin/notes/note/?q=the", "/admin/notes/tag/"]


@dataclass
class MixedVisitor(Visitor):
    """One client, that also uses the admin, the APIs and jobs."""

    async def visit(self) -> None:
        mine = [self.administer, self.call_drf, self.call_ninja, self.work, self.work_and_leave]
        if self.random.random() < 0.4:
            page = self.random.choice(mine)
            self.pages[page.__name__] += 1
            await page()
        else:
            await super().visit()

    async def administer(self) -> None:
        answer = await self.http.get(self.random.choice(ADMIN_PAGES))
        assert answer.status_code == (200 if self.name else 302)
        if self.name:
            pk = self.random.randrange(1, 121)
            note = await self.http.get(f"/admin/notes/note/{pk}/change/")
            # One of another tenant does not exist: back to the start, with a message.
            assert note.status_code in (200, 302)
            self.rights[note.status_code] += 1

    async def call_drf(self) -> None:
        name = self.random.choice([self.name, "nobody of that name"])
        answer = await self.http.get("/drf/", headers={"X-Name": name} if name else {})
        assert answer.status_code == (200 if name and name == self.name else 401), answer.text
        if answer.status_code == 200:
            self.check_all(answer.text)

    async def call_ninja(self) -> None:
        answer = await self.http.get("/ninja/notes", headers={"X-Name": self.name or "nobody"})
        assert answer.status_code == (200 if self.name else 401), answer.text
        self.check(answer.text)

    async def work(self) -> None:
        kind = self.random.choice(["look", "chain", "fail"])
        answer = await self.http.get("/job/", params={"kind": kind})
        assert answer.status_code == 200
        assert answer.json()["state"] == ("FAILURE" if kind == "fail" else "SUCCESS"), answer.text
        if kind != "fail":
            self.check_all(answer.text)

    async def work_and_leave(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(0.001, 0.2)):
                self.check((await self.http.get(self.random.choice(["/job/", "/drf/"]))).text)


async def drive(url: str, name: str, seed: int, gate: asyncio.Semaphore, visits: int) -> Visitor:
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=LIMITS) as http:
        visitor = MixedVisitor(http, name, Random(seed))
        async with gate:
            await visitor.log_in()
        for _ in range(visits):
            await visitor.visit()
    return visitor


@pytest.fixture
def worker(example_pooler: PgBouncer, broker: str) -> Iterator[Child]:
    """Run a worker of four threads, which logs in through the same pooler."""
    options = ["--pool", "threads", "--concurrency", "4", "--without-gossip", "--without-mingle"]
    options += ["--loglevel", "INFO"]
    environment = environment_of_mixed(example_pooler, broker) | {"PGAPPNAME": "worker"}
    child = Child(
        [sys.executable, "-m", "celery", "-A", "tests.mixed.jobs", "worker", *options],
        example_pooler.directory / "worker.log",
        cwd=EXAMPLE,
        env=environment | {"TENANTRY_TEST_PROGRAM": "celery"},
    )
    try:
        child.wait_until(lambda: " ready." in child.log.read_text(), timeout=60)
        yield child
    finally:
        child.stop(grace=20)


@pytest.fixture
def mixed(example_pooler: PgBouncer, broker: str, worker: Child) -> Iterator[Example]:
    command = ["uvicorn", "project.asgi:application", "--lifespan", "on"]
    command += ["--host", LOOPBACK, "--port", "{port}"]
    more = environment_of_mixed(example_pooler, broker)
    with served(example_pooler, "mixed", command, more) as running:
        yield running


def environment_of_mixed(pooler: PgBouncer, broker: str) -> dict[str, str]:
    environment = environment_of_example(pooler)
    paths = [environment["PYTHONPATH"], str(ROOT), str(EXAMPLE)]
    return environment | {
        "DJANGO_SETTINGS_MODULE": "tests.mixed.settings",
        "PYTHONPATH": os.pathsep.join(paths),
        "TENANTRY_TEST_BROKER": broker,
    }


@pytest.mark.slow
async def test_nobody_sees_a_row_of_another_tenant_whatever_happens_at_once(
    mixed: Example, worker: Child, example_pooler: PgBouncer
) -> None:
    gate = asyncio.Semaphore(4)
    names = [name for name in VISIBLE for _ in range(CLIENTS_OF_EACH)]
    visits = -(-OPERATIONS // len(names))
    visitors = await together(
        drive(mixed.url, name, seed, gate, visits) for seed, name in enumerate(names)
    )
    pages = sum((visitor.pages for visitor in visitors), Counter[str]())
    assert sum(pages.values()) >= OPERATIONS
    assert len(pages) == 12
    for name, tenants in VISIBLE.items():
        own = [visitor for visitor in visitors if visitor.name == name]
        assert set(sum((visitor.seen for visitor in own), Counter[str]())) == tenants
        rights = sum((visitor.rights for visitor in own), Counter[int]())
        # A tenant's user finds some notes by number and others not; the admin finds them all.
        assert set(rights) == ({200, 302} if len(tenants) == 1 else {200} if tenants else set())
    # Jobs of clients that left may still run.
    wait_for(lambda: not example_pooler.admin("SHOW POOLS")[0]["cl_waiting"], 30)
    assert left_behind(mixed) <= {"", None, "false"}
    assert unexpected(mixed.log, "/boom/") == []
    assert unexpected(worker.log, "LookupError: asked for") == []
    mixed.server.stop(grace=20)
    worker.stop(grace=20)
    wait_for(lambda: clients(example_pooler, "mixed") == clients(example_pooler, "worker") == 0)


def unexpected(log: Path, allowed: str) -> list[str]:
    """Return the lines of a log about errors that nobody asked for."""
    bad = (" 500 ", "Error: ", "never awaited", "ResourceWarning", "Unrecoverable")
    return [
        line
        for line in log.read_text().splitlines()
        if any(word in line for word in bad) and allowed not in line and "boom, after" not in line
    ]
