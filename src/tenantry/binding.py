"""The binding, and the one ContextVar that holds it.

The ContextVar holds a *frame*: a binding, the frame around it, and where it may be seen. asgiref
copies ContextVars from a ``sync_to_async`` hop back into the caller, also when the hop is cancelled
or times out while its thread is still inside a scope. So a frame that is entered inside a hop
counts on that thread only, and only until its scope has ended. The caller, who finds it too, looks
at the frame around it; what the hop itself runs elsewhere is nobody. All other frames count
wherever the context is copied: hops, tasks, ``async_to_sync``, threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from threading import get_ident
from typing import NamedTuple
from uuid import UUID

from .hops import loop_here, loop_of_hop, waiting_for_async

TenantId = int | str | UUID


class Binding(NamedTuple):
    """Name whom code runs as: one tenant, the admin over all, or (the default) nobody.

    With a bypass flag, unbound code may read some tables; what is read-only does not write.
    """

    tenant_id: TenantId | None = None
    is_admin: bool = False
    bypass: str | None = None
    read_only: bool = False

    @property
    def grant(self) -> str:
        """What is granted beyond a tenant's rows: "admin", a bypass flag, or nothing."""
        return "admin" if self.is_admin else self.bypass or ""

    def sees_as(self, other: Binding) -> bool:
        """Return whether both see the same rows, whichever of them may write."""
        return self._replace(read_only=other.read_only) == other


UNBOUND = Binding()
ADMIN = Binding(is_admin=True)


class Frame:
    """Hold a binding for the length of a scope, and the thread where it was entered."""

    def __init__(self, binding: Binding, parent: Frame | None, of_request: bool) -> None:
        self.binding = binding
        self.parent = parent
        self.thread = get_ident()
        # In a hop, that of its caller, for whom the frame does not count; None elsewhere.
        self.loop = loop_of_hop()
        self.waiting, self.callees = (None, None) if self.loop is None else waiting_for_async()
        self.live = True
        self.of_request = of_request
        self.token: Token[Frame | None]

    def counts_here(self) -> bool:
        """Return whether code on this thread that finds the frame runs in its binding."""
        return self.loop is None or (self.live and self.thread == get_ident())

    def in_async_to_sync(self) -> bool:
        """Return whether code that finds the frame was run by an async_to_sync() in its scope.

        The context shows it, but not to all threads that have a copy of it; so the hop's own list
        counts too, which asgiref fills until another hop comes back to the thread.
        """
        return self.waiting is not waiting_for_async()[0] or bool(self.callees)


_frame: ContextVar[Frame | None] = ContextVar("tenantry_frame", default=None)


def current_binding() -> Binding:
    """Return the binding that this code runs as; ``UNBOUND`` when no scope is open."""
    frame = _frame.get()
    # First what is usual, without a call: every statement asks.
    if frame is not None and frame.loop is not None:
        frame = _visible(frame)
    return UNBOUND if frame is None else frame.binding


def push(binding: Binding, *, of_request: bool = False) -> Frame:
    """Make `binding` current in this context, until :func:`pop` is given the returned frame.

    That of a request can be changed by :func:`rebind`.
    """
    parent = _frame.get()
    if parent is not None and parent.loop is not None:
        parent = _visible(parent)
    # Python makes it sooner from arguments without names, and without slots: each scope has one.
    frame = Frame(binding, parent, of_request)
    frame.token = _frame.set(frame)
    return frame


def pop(frame: Frame) -> bool:
    """Restore what was current before :func:`push`.

    Returns False, and restores nothing, when a scope that was opened later is still open, and where
    the frame is not to be found. Raises ValueError in a copy of the context that :func:`push` was
    called in.
    """
    # First, so that copies of the frame lose their effect even if the reset is refused.
    frame.live = False
    top = _frame.get()
    while top is not None and top is not frame and not top.counts_here():
        top = top.parent
    if top is not frame:
        # Some other scope may yet restore this frame, whose own scope is over: then as nobody.
        frame.binding = UNBOUND
        return False
    _frame.reset(frame.token)
    return True


@contextmanager
def running_as(binding: Binding) -> Iterator[None]:
    """Make `binding` current for a block of this package's own code."""
    frame = push(binding)
    try:
        yield
    finally:
        pop(frame)


def is_inside(frame: Frame) -> bool:
    """Return whether this code runs inside the scope of `frame`, whatever was opened later."""
    top = _frame.get()
    while top is not None and top is not frame:
        top = top.parent
    return top is not None


def clear(frame: Frame) -> bool:
    """Restore what was current before :func:`push`, whatever was opened later.

    Returns False when a scope that was opened later, by code that ran here, is still open: it
    counts no longer. One that a hop has opened goes on where the hop does, or what that started.
    Raises ValueError, and changes no other scope, in another context than :func:`push` was called
    in.
    """
    frame.live = False
    top = _frame.get()
    left: list[Frame] = []
    while top is not None and top is not frame:
        # A hop that was given up may still run in its scope, and keeps it and all inside.
        left = [*left, top] if top.counts_here() else []
        top = top.parent
    _frame.reset(frame.token)
    for each in left:
        # Whoever closes it later is told, and code that copied it runs as nobody.
        each.live, each.binding = False, UNBOUND
    return not left


def rebind(binding: Binding) -> bool:
    """Make `binding` that of the request which this code serves, wherever its frame is seen.

    What the request may not write, it still may not. Returns False, and changes nothing, where no
    request is served.
    """
    frame = _visible(_frame.get())
    while frame is not None and not frame.of_request:
        frame = frame.parent
    if frame is None or not frame.live:
        return False
    if frame.binding.read_only:
        binding = binding._replace(read_only=True)
    frame.binding = binding
    return True


def permit_writes() -> None:
    """Let the request that this code serves write, also in the scopes that are open around it."""
    frame = _visible(_frame.get())
    while frame is not None:
        frame.binding = frame.binding._replace(read_only=False)
        frame = None if frame.of_request else frame.parent


def _visible(frame: Frame | None) -> Frame | None:
    """Return the first frame up the chain that counts here, or one of nobody."""
    hidden = None
    while frame is not None and not frame.counts_here():
        if frame.in_async_to_sync():
            # What that runs is not the caller, and must not run as the caller does.
            return _nobody(frame)
        hidden = frame
        frame = frame.parent
    if hidden and frame is not None and frame.thread != get_ident():
        # Either the caller of a cancelled hop, who was in the frame around it, or a thread that
        # was started inside the hop's scope, who was not and must not run in it, nor in a loop of
        # its own.
        return frame if hidden.loop is loop_here() else _nobody(hidden)
    return frame


def _nobody(hidden: Frame) -> Frame:
    """Return a frame of nobody, who may not write either where `hidden` may not."""
    return Frame(Binding(read_only=hidden.binding.read_only), None, False)
