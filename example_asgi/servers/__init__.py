"""Development servers: PostgreSQL and PgBouncer, for the demo, the tests and the benchmarks.

Everything listens on a unix socket or on the loopback address, trusts its clients, and is ended by
``stop()``. Both servers refuse to run as root, so root starts them as another OS user.
"""

from .pgbouncer import PgBouncer, pgbouncer_path
from .postgres import Postgres
from .process import LOOPBACK, Child, ServerError, free_port
from .roles import ensure_admin_role, ensure_database, ensure_role, grant_by_default

__all__ = [
    "LOOPBACK",
    "Child",
    "PgBouncer",
    "Postgres",
    "ServerError",
    "ensure_admin_role",
    "ensure_database",
    "ensure_role",
    "free_port",
    "grant_by_default",
    "pgbouncer_path",
]
