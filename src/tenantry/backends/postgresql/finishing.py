"""Cleaning up in async code, which a cancellation must not interrupt."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

import anyio

logger = logging.getLogger("tenantry")

# Seconds that a cancelled task waits for its ROLLBACK.
GRACE = 5.0


async def finish(coroutine: Coroutine[Any, Any, Any], *, hurry: bool = False) -> Any:
    """Run `coroutine` to its end, and only then let a cancellation through.

    Once cancelled, or with `hurry` from the start, it has ``GRACE`` seconds before it is cancelled
    too: on a path that has gone deaf it would never end. Raises TimeoutError if it was.
    """
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    # The scope holds off anyio's cancellation, wait() does not pass on a task's own.
    with anyio.CancelScope(shield=True):
        while not task.done():
            try:
                await asyncio.wait([task], timeout=GRACE if hurry or cancelled else None)
            except asyncio.CancelledError as error:
                cancelled = error
            else:
                # Without effect on one that has ended; psycopg tries once more after the first.
                task.cancel()
    if cancelled is not None:
        if not task.cancelled() and (failure := task.exception()):
            logger.warning("error ignored after cancellation: %s", failure)
        raise cancelled
    if task.cancelled():
        raise TimeoutError(f"given up after {GRACE:g} s")
    return task.result()
