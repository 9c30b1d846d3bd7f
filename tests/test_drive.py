"""The example under load: many clients, two server sessions, and no row of another tenant."""

from __future__ import annotations

import asyncio
from collections import Counter

import psycopg
import pytest

from tests.fix_example import SESSIONS, Example
from tests.visitors import VISIBLE, drive, together

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
