"""Responses of Django, sync ones and async ones."""

from __future__ import annotations

import asyncio
from typing import Any


def content_of(response: Any) -> bytes:
    """Return the whole body, as a client would read it."""
    if not response.streaming:
        return bytes(response.content)
    if response.is_async:

        async def read() -> bytes:
            return b"".join([part async for part in response.streaming_content])

        return asyncio.run(read())
    return b"".join(response.streaming_content)
