"""What a forked process inherits: connections whose server sessions are the parent's.

If both used one, each could read what the server answers to the other, rows of another tenant
among it. A server that loads the application before it forks its workers, or multiprocessing,
makes it so.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from django.db import connections

from ...engine import is_bound


def leave_to_parent(wrapper: Any) -> None:
    """Close a parent's connection as ``close()`` does, but without a word to the server."""
    connection = wrapper.connection
    if connection is None or wrapper.process == os.getpid():
        return
    if not connection.closed:
        # libpq says goodbye, which would end the session.
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), connection.fileno(), inheritable=False)
        connection.pgconn.finish()
    # Not to a pool, whose threads have stayed with the parent.
    wrapper.cursors.clear()
    wrapper.run_on_commit = []
    # The end of a block that has begun in the parent makes no connection, and the next one, which
    # Django's connect() prepares, is in none.
    wrapper.closed_in_transaction = True
    wrapper.prepared = False
    if wrapper.in_atomic_block:
        wrapper.needs_rollback = True
    else:
        wrapper.connection = None


def leave_all() -> None:
    """Leave those of the thread that has forked, which cursors that are open would use."""
    for wrapper in connections.all(initialized_only=True):
        if is_bound(wrapper):
            leave_to_parent(wrapper)


with suppress(AttributeError):  # Windows forks no process.
    os.register_at_fork(after_in_child=leave_all)
