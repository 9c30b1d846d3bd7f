"""``PoolLifespan``: the pools end with the server."""

from __future__ import annotations

import asyncio
from typing import Any

from django.db import connections

from ..backends.postgresql.loops import aclose_pools, expect_requests
from .types import Application, Message, Receive, Send

# After these the server sends nothing more.
LAST = ("lifespan.startup.failed", "lifespan.shutdown.complete", "lifespan.shutdown.failed")


class PoolLifespan:
    """Close the connection pools when the ASGI server shuts down.

    Tells them that the event loop serves many requests, so that they connect ahead.

    Wraps the application in ``asgi.py``: ``application = PoolLifespan(get_asgi_application())``.
    It speaks the lifespan protocol itself, because Django's application does not. With
    ``forward=True`` it leaves that to the application, such as a Starlette that Django is mounted
    in, and closes the pools after the application's own shutdown.
    """

    def __init__(self, application: Application, *, forward: bool = False) -> None:
        self.application = application
        self.forward = forward

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Serve one connection, or the lifespan of the server."""
        if scope["type"] != "lifespan":
            await self.application(scope, receive, send)
            return
        expect_requests()

        async def closing_send(message: Message) -> None:
            await send(await closed(message) if message["type"] in LAST else message)

        if self.forward:
            await self.application(scope, receive, closing_send)
            return
        while True:
            event = (await receive())["type"]
            await closing_send({"type": f"{event}.complete"})
            if event == "lifespan.shutdown":
                return


async def closed(message: Message) -> Message:
    """Close all pools; return `message`, or one that says what failed."""
    results = await asyncio.gather(
        aclose_pools(), asyncio.to_thread(close_pools), return_exceptions=True
    )
    errors = [f"{type(error).__name__}: {error}" for error in results if error is not None]
    if not errors:
        return message
    failed = message["type"].removesuffix(".complete").removesuffix(".failed") + ".failed"
    said = [message["message"]] if message.get("message") else []
    return {
        "type": failed,
        "message": "; ".join([*said, f"pools did not close: {', '.join(errors)}"]),
    }


def close_pools() -> None:
    """Close the pools of this process that sync code uses, of every alias that has one."""
    for alias in connections:
        wrapper: Any = connections[alias]
        if wrapper.settings_dict["OPTIONS"].get("pool"):
            wrapper.close_pool()
