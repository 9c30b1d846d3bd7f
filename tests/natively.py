"""What the state machine does on native async connections."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any

import psycopg

from tenantry import aconnection, arows
from tests.app.models import Note
from tests.model import INSERT

TITLES = "SELECT title FROM app_note ORDER BY id"
WAYS = ("execute", "arows", "stream", "copy", "pipeline", "transaction", "error")
TITLES_WHERE = "SELECT title FROM app_note WHERE id > %s ORDER BY id"


async def titles(
    alias: str, how: str, scope: AbstractContextManager[Any] | None = None
) -> list[str]:
    """Return the titles that the current binding sees, or that of a `scope` inside the block."""
    async with aconnection(alias) as connection:
        if scope is not None:
            # Who has the connection is not who it was checked out for.
            await connection.execute("SELECT count(*) FROM app_note")
        with scope or nullcontext():
            return [row[0] for row in await rows(connection, how, alias)]


async def rows(connection: Any, how: str, alias: str) -> list[Any]:
    if how == "arows":
        notes = Note.objects.using(alias).order_by("id")
        return await arows(notes.values_list("title"), connection)
    if how == "stream":
        return [row async for row in connection.cursor().stream(TITLES_WHERE, [0])]
    if how == "copy":
        async with connection.cursor().copy(f"COPY ({TITLES}) TO STDOUT") as copy:
            return [row async for row in copy.rows()]
    if how == "pipeline":
        async with connection.pipeline():
            return list(await (await connection.execute(TITLES_WHERE, [0])).fetchall())
    if how == "transaction":
        async with connection.transaction():
            return list(await (await connection.execute(TITLES_WHERE, [0])).fetchall())
    if how == "error":
        with suppress(psycopg.Error):
            async with connection.transaction():
                await connection.execute("SELECT 1 / 0")
    return list(await (await connection.execute(TITLES)).fetchall())


async def cancel(alias: str, ticks: int) -> None:
    """Cancel one who reads after so many turns of the event loop."""
    task = asyncio.ensure_future(titles(alias, "execute"))
    for _ in range(ticks):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])


async def is_written(alias: str, values: list[Any]) -> bool:
    """Return whether a row may be written."""
    try:
        async with aconnection(alias) as connection:
            await connection.execute(INSERT, values)
    except psycopg.errors.InsufficientPrivilege:
        return False
    return True
