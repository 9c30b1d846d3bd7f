"""The binding, and the one ContextVar that holds it.

The ContextVar holds a *frame*: a binding, the frame around it, and where it may be seen. asgiref
copies ContextVars from a ``sync_to_async`` hop back into the caller, also when the hop is cancelled
or times out while its thread is still inside a scope. So a frame that is entered inside a hop has
that thread as its home, and counts only there and only until its scope has ended. All other frames
have no home and count wherever the context is copied: hops, tasks, ``async_to_sync``, threads.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextvars import ContextVar, Token
from dataclasses import dataclass
from uuid import UUID

from asgiref.sync import SyncToAsync

TenantId = int | str | UUID


@dataclass(frozen=True, slots=True)
class Binding:
    """Name whom code runs as: one tenant, the admin over all, or (the default) nobody."""

    tenant_id: TenantId | None = None
    is_admin: bool = False


UNBOUND = Binding()
ADMIN = Binding(is_admin=True)


class Frame:
    """Hold a binding for the length of a scope; ``home`` is a thread id, or None for anywhere."""

    __slots__ = ("binding", "home", "live", "parent", "token")

    def __init__(self, binding: Binding, parent: Frame | None, home: int | None) -> None:
        self.binding = binding
        self.parent = parent
        self.home = home
        self.live = True
        self.token: Token[Frame | None]


_frame: ContextVar[Frame | None] = ContextVar("tenantry_frame", default=None)


def current_binding() -> Binding:
    """Return the binding that this code runs as; ``UNBOUND`` when no scope is open."""
    frame = _visible(_frame.get())
    return UNBOUND if frame is None else frame.binding


def push(binding: Binding) -> Frame:
    """Make `binding` current in this context, until :func:`pop` is given the returned frame."""
    home = threading.get_ident() if in_sync_hop() else None
    frame = Frame(binding, _visible(_frame.get()), home)
    frame.token = _frame.set(frame)
    return frame


def pop(frame: Frame) -> None:
    """Restore what was current before :func:`push`.

    Raises ValueError when called in another context than :func:`push` was.
    """
    # First, so that copies of the frame lose their effect even if the reset is refused.
    frame.live = False
    _frame.reset(frame.token)


def in_sync_hop() -> bool:
    """Return whether this is sync code that asgiref's ``sync_to_async`` runs in a thread."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # asgiref has no public way to ask. It leaves its loop on the thread after a hop; once that
        # loop has ended (a WSGI worker, the main thread), the thread is a top-level one again.
        hop = SyncToAsync.threadlocal
        loop = getattr(hop, "main_event_loop", None)
        return loop is not None and loop.is_running() and hop.main_event_loop_pid == os.getpid()
    return False


def _visible(frame: Frame | None) -> Frame | None:
    """Return the first frame up the chain that counts here."""
    while (
        frame is not None
        and frame.home is not None
        and not (frame.live and frame.home == threading.get_ident())
    ):
        frame = frame.parent
    return frame
