"""The example under load: many clients, two server sessions, and no row of another tenant."""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from random import Random

import httpx
import psycopg
import pytest

from tests.fix_example import SESSIONS, Example
from tests.visitors import VISIBLE, Visitor, drive, tenants_in, together

CLIENTS_OF_EACH = 13
VISITS_OF_EACH = 80
SEEN = "SELECT current_setting('rls.current_tenant', true), nullif(current_setting('role'), 'none')"


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
    visitors = await together(
        drive(example.url, name, seed, gate, VISITS_OF_EACH) for seed, name in enumerate(names)
    )
    pages = sum((visitor.pages for visitor in visitors), Counter[str]())
    assert sum(pages.values()) == len(names) * VISITS_OF_EACH
    assert len(pages) == 7
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


async def test_an_admin_who_has_selected_a_tenant_writes_for_it(example: Example) -> None:
    with psycopg.connect(example.dsn()) as client:
        found = client.execute("SELECT id FROM notes_tenant WHERE slug = 'acme'").fetchone()
    assert found
    acme = str(found[0])
    async with httpx.AsyncClient(base_url=example.url, timeout=60) as http:
        root = Visitor(http, "root", Random(0))
        await root.log_in()
        assert (await http.get("/notes/new/")).status_code == 403
        header = await http.get("/admin/")
        assert (await root.post("/admin/switch-tenant/", header, tenant=acme)).status_code == 302
        page = await http.get("/notes/new/")
        assert "It will belong to Acme" in page.text
        tag = re.search(r'name="tags" value="(\d+)"', page.text)
        assert tag
        answer = await root.post("/notes/new/", page, title="driven", body="by root", tags=tag[1])
        assert answer.status_code == 302
        note = answer.headers["location"]
        assert tenants_in((await http.get(note)).text) == {"acme"}
    with psycopg.connect(example.dsn()) as client:
        client.execute("SELECT set_config('rls.current_tenant', %s, true)", [acme])
        tags = client.execute(
            "SELECT tag_id FROM notes_notetag WHERE note_id = %s", [note.strip("/").split("/")[-1]]
        )
        assert tags.fetchall() == [(int(tag[1]),)]
