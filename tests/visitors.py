"""Visitors of the example, who look at every page at random and notice what is not theirs."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar

import httpx
from websockets.asyncio.client import connect

V = TypeVar("V")
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
OF_JSON = re.compile(r'"tenant(?:__slug)?": ?"([^"]*)"')
TOKEN = re.compile(r'name="csrfmiddlewaretoken" value="([^"]+)"')


def tenants_in(body: str) -> set[str]:
    return {tenant for pattern in (OF_HTML, OF_CSV, OF_JSON) for tenant in pattern.findall(body)}


@dataclass
class Visitor:
    """One client, logged in as `name` or anonymous, that looks at every page at random."""

    http: httpx.AsyncClient
    name: str
    random: Random
    sockets: bool = True
    seen: Counter[str] = field(default_factory=Counter)
    pages: Counter[str] = field(default_factory=Counter)
    # The statuses of pages that only some may see.
    rights: Counter[int] = field(default_factory=Counter)

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
        pages = [self.look] * 5 + [self.fail, self.leave, self.read_half, self.write, self.listen]
        page = self.random.choice([*pages, self.talk] if self.sockets else pages)
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
            self.check_all(answer.text)

    def check_all(self, body: str) -> None:
        """Check that the rows of all are there that should be, and of nobody else."""
        self.check(body)
        assert tenants_in(body) == VISIBLE[self.name], (self.name, body[:500])

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

    async def listen(self) -> None:
        """Listen to events, until the last or not so long."""
        left = self.random.randrange(1, 15)
        async with self.http.stream("GET", "/events/") as answer:
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    assert tenants_in(line) == VISIBLE[self.name]
                    left -= 1
                if not left:
                    break

    async def talk(self) -> None:
        """Ask over a WebSocket, and sometimes leave before the answer."""
        address = str(self.http.base_url).replace("http", "ws", 1) + "/socket/"
        cookies = "; ".join(f"{name}={value}" for name, value in self.http.cookies.items())
        headers = {"Cookie": cookies} if cookies else {}
        async with connect(address, additional_headers=headers, proxy=None) as socket:
            for _ in range(self.random.randrange(1, 6)):
                await socket.send(self.random.choice(["", "the", "driven", "nothing has this"]))
                if self.random.random() < 0.1:
                    socket.transport.abort()
                    return
                answer = await socket.recv()
                assert isinstance(answer, str)
                self.check(answer)

    async def write(self) -> None:
        page = await self.http.get("/notes/new/")
        if self.name not in ("alice", "bob", "carol"):
            assert page.status_code == (403 if self.name else 302)
            return
        answer = await self.post("/notes/new/", page, title="driven", body="by a test")
        assert answer.status_code == 302
        self.check((await self.http.get(answer.headers["location"])).text)


# A client forgets an idle connection long before the server does. Both would after 5 s (Uvicorn and
# httpx), and now and then a request would go to a server that has just closed.
LIMITS = httpx.Limits(max_connections=4, keepalive_expiry=1)


async def drive(
    url: str, name: str, seed: int, gate: asyncio.Semaphore, visits: int, *, sockets: bool = True
) -> Visitor:
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=LIMITS) as http:
        visitor = Visitor(http, name, Random(seed), sockets)
        async with gate:
            await visitor.log_in()
        for _ in range(visits):
            await visitor.visit()
    return visitor


async def together(visits: Iterable[Coroutine[Any, Any, V]]) -> list[V]:
    """Return what all return; when one fails, end the others before anything else happens."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(visit) for visit in visits]
    return [task.result() for task in tasks]
