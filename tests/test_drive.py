"""The example under load: many clients, two server sessions, and no row of another tenant."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import httpx
import psycopg
import pytest

from tests.fix_example import SESSIONS, Example

CLIENTS_OF_EACH = 13
REQUESTS_OF_EACH = 80
PASSWORD = "demo"
TENANTS = {"acme", "globex", "initech"}
VISIBLE = {
    "alice": {"acme"},
    "bob": {"globex"},
    "carol": {"initech"},
    "root": TENANTS,
    "": set[str](),
}
OF_HTML = re.compile(r'data-tenant="([^"]*)"')
OF_CSV = re.compile(r",(?!tenant)([a-z]+)\r$", re.MULTILINE)
OF_JSON = re.compile(r'"tenant": "([^"]*)"')
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')
SEEN = "SELECT current_setting('rls.current_tenant', true), nullif(current_setting('role'), 'none')"


def tenants_in(body: str) -> set[str]:
    return {tenant for pattern in (OF_HTML, OF_CSV, OF_JSON) for tenant in pattern.findall(body)}


@dataclass
class Visitor:
    """One client, logged in as `name` or anonymous, that looks at every page at random."""

    http: httpx.AsyncClient
    name: str
    random: Random
    seen: Counter[str] = field(default_factory=Counter)
    pages: Counter[str] = field(default_factory=Counter)

    async def log_in(self) -> None:
        if self.name:
            page = await self.http.get("/login/")
            answer = await self.post("/login/", page, username=self.name, password=PASSWORD)
            assert answer.status_code == 302

    async def post(self, path: str, page: httpx.Response, **data: str) -> httpx.Response:
        token = TOKEN.search(page.text)
        assert token
        return await self.http.post(path, data={"csrfmiddlewaretoken": token[1], **data})

    async def visit(self) -> None:
        page = self.random.choice(
            [self.look, self.look, self.look, self.fail, self.leave, self.read_half, self.write]
        )
        self.pages[page.__name__] += 1
        await page()

    async def look(self) -> None:
        path, allowed = self.random.choice(
            [
                ("/", 200),
                ("/?page=2", 200),
                ("/?q=the", 200),
                ("/report/", 200),
                ("/slow/?s=0.02", 200),
                ("/export/", 200),
                ("/api/notes/", 200),
                ("/everything/", 200 if self.name == "root" else 403),
                (f"/notes/{self.random.randrange(1, 121)}/", None),
            ]
        )
        answer = await self.http.get(path)
        assert answer.status_code == allowed or (allowed is None and answer.status_code != 500)
        self.check(answer.text)
        if path in ("/report/", "/slow/?s=0.02", "/export/", "/api/notes/"):
            # What is allowed is there as well: a page without rows would pass any check. The list
            # shows the newest only, which need not be of every tenant.
            assert tenants_in(answer.text) == VISIBLE[self.name]

    def check(self, body: str) -> None:
        found = tenants_in(body)
        assert found <= VISIBLE[self.name], (self.name, found)
        self.seen.update(found)

    async def fail(self) -> None:
        assert (await self.http.get("/boom/")).status_code == 500

    async def leave(self) -> None:
        path = self.random.choice(["/slow/?s=0.5", "/export/", "/", "/report/"])
        with suppress(TimeoutError):
            async with asyncio.timeout(self.random.uniform(0.001, 0.3)):
                self.check((await self.http.get(path)).text)

    async def read_half(self) -> None:
        async with self.http.stream("GET", "/export/") as answer:
            async for part in answer.aiter_text():
                self.check(part.rpartition("\n")[0] + "\n")
                break

    async def write(self) -> None:
        page = await self.http.get("/notes/new/")
        if self.name not in ("alice", "bob", "carol"):
            assert page.status_code == (403 if self.name else 302)
            return
        answer = await self.post("/notes/new/", page, title="driven", body="by a test")
        assert answer.status_code == 302
        self.check((await self.http.get(answer.headers["location"])).text)


async def drive(url: str, name: str, seed: int, gate: asyncio.Semaphore) -> Visitor:
    limits = httpx.Limits(max_connections=4)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as http:
        visitor = Visitor(http, name, Random(seed))
        async with gate:
            await visitor.log_in()
        for _ in range(REQUESTS_OF_EACH):
            await visitor.visit()
    return visitor


def probe(example: Example) -> list[tuple[str | None, str | None]]:
    """Return the GUCs of every server session of the pool."""
    clients = [psycopg.connect(example.dsn()) for _ in range(SESSIONS)]
    try:
        # Open transactions, so that each client has a session of its own.
        return [row for client in clients for row in client.execute(SEEN).fetchall()]
    finally:
        for client in clients:
            client.close()


def pollute(example: Example, tenant: str) -> None:
    """Leave a session-level tenant on every server session, as a foreign client may."""
    clients = [psycopg.connect(example.dsn()) for _ in range(SESSIONS)]
    for client in clients:
        client.execute("SELECT set_config('rls.current_tenant', %s, false)", [tenant])
    for client in clients:
        client.commit()
        client.close()


@pytest.mark.parametrize("polluted", [False, True], ids=["clean", "polluted"])
async def test_nobody_sees_a_row_of_another_tenant(example: Example, polluted: bool) -> None:
    if polluted:
        pollute(example, "2")
    # Logging in costs a slow hash; more at once only makes everybody wait.
    gate = asyncio.Semaphore(4)
    names = [name for name in VISIBLE for _ in range(CLIENTS_OF_EACH)]
    if polluted:
        names = names[::5]
    visitors = await asyncio.gather(
        *(drive(example.url, name, seed, gate) for seed, name in enumerate(names))
    )
    pages = sum((visitor.pages for visitor in visitors), Counter[str]())
    assert sum(pages.values()) == len(names) * REQUESTS_OF_EACH
    assert len(pages) == 5
    for name, tenants in VISIBLE.items():
        seen = sum((v.seen for v in visitors if v.name == name), Counter[str]())
        assert set(seen) == tenants
    if not polluted:
        assert sum(pages.values()) >= 5000
        assert {value for row in probe(example) for value in row} <= {"", None, "false"}
    else:
        # What the foreign client left is still there, and nobody has inherited it.
        assert {tenant for tenant, _ in probe(example)} == {"2"}
        pollute(example, "")
    unexpected = [
        line
        for line in example.log.read_text().splitlines()
        if " 500 " in line and "/boom/" not in line
    ]
    assert unexpected == []
