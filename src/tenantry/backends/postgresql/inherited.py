"""What a forked process inherits: connections whose server sessions are the parent's.

If both used one, each could read what the server answers to the other, rows of another tenant
among it. A server that loads the application before it forks its workers, or multiprocessing,
makes it so.
"""

from __future__ import annotations

import os
from typing import Any


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
