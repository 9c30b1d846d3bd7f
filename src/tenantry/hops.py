"""Hops: sync code that asgiref runs in a thread while an event loop waits for it.

asgiref has no public way to ask, so what it keeps for itself is read here, and nowhere else.
"""

from __future__ import annotations

import asyncio
import os

from asgiref.sync import AsyncToSync, SyncToAsync


def loop_of_hop() -> object | None:
    """Return the event loop that waits for the hop which this sync code is in, if it is in one.

    A hop is what asgiref's ``sync_to_async`` runs in a thread.
    """
    # get_running_loop() raises where there is none, which costs more than the scope.
    if asyncio._get_running_loop() is not None:
        return None
    # asgiref leaves its loop on the thread after a hop; once that loop has ended (a WSGI worker,
    # the main thread), the thread is a top-level one again. Looked up in the thread's dict, because
    # an attribute that is missing costs an exception.
    hop = vars(SyncToAsync.threadlocal)
    loop: asyncio.AbstractEventLoop | None = hop.get("main_event_loop")
    if loop is None or not loop.is_running() or hop["main_event_loop_pid"] != os.getpid():
        return None
    return loop


def loop_here() -> object | None:
    """Return the event loop that runs this code, or that waits for the hop which it is in."""
    return asyncio._get_running_loop() or loop_of_hop()


def waiting_for_async() -> tuple[object, object]:
    """Return what stands for the ``async_to_sync`` around this code, and the tasks of those inside.

    The first is None where there is none; asgiref fills the second, which is of this hop.
    """
    executor = getattr(AsyncToSync.executors, "current", None)
    return executor, vars(SyncToAsync.threadlocal).get("task_context")
