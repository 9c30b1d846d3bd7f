"""Options of a database that do not go together with a transaction pooler, or with seals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from django.db import DEFAULT_DB_ALIAS, connections

from ..conf import rls_tenants
from .findings import Finding

PGBOUNCER = "6432"
# What says that two aliases are one database to the pooler.
POOL = ("HOST", "PORT", "NAME", "USER")

# Names of one zone are many, so it is the clocks that are compared.
TIME_ZONE = """\
SELECT reset_val, quote_ident(session_user) FROM pg_settings WHERE name = 'TimeZone' AND EXISTS (
  SELECT FROM generate_series(timestamptz '2026-01-01 00:00Z', '2026-12-31 00:00Z', '1 week') t
  WHERE t AT TIME ZONE reset_val <> t AT TIME ZONE %s)"""


def signs_of_a_pooler(settings: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether the port is a pooler's, and whether a setting is made that poolers need."""
    on_port = str(settings.get("PORT", "")) == PGBOUNCER
    return on_port, settings.get("DISABLE_SERVER_SIDE_CURSORS") is True


def is_second(alias: str, settings: Mapping[str, Any]) -> bool:
    """Return whether another alias reaches the same pool without server-side cursors.

    This one is then there to read in parts, in transactions. The default alias never is: it is
    used where none is named.
    """
    return alias != DEFAULT_DB_ALIAS and any(
        other.get("DISABLE_SERVER_SIDE_CURSORS") is True
        and all(str(other[key]) == str(settings.get(key, "")) for key in POOL)
        for other in connections.settings.values()
    )


def inspect_time_zone(connection: Any, cursor: Any) -> Iterator[Finding]:
    """Yield a finding if Django sets a time zone for a session that a pooler lends to others."""
    wanted = connection.timezone_name
    if not any(signs_of_a_pooler(connection.settings_dict)):
        return
    cursor.execute(TIME_ZONE, [wanted])
    for found, role in cursor.fetchall():
        yield Finding(
            "tenantry.W143",
            f"database {connection.alias!r}",
            f"has sessions that start in the time zone {found!r}, so that Django sets {wanted!r},"
            " which a transaction pooler may lose, or leave on a server session for others",
            f"run ALTER ROLE {role} SET timezone = '{wanted}'",
        )


def inspect_preparing(connection: Any, cursor: Any) -> Iterator[Finding]:
    """Yield a finding if a pooler leaves prepared statements to whoever has the session next."""
    options = connection.settings_dict["OPTIONS"]
    threshold = options.get("prepare_threshold")
    prepares = options.get("server_side_binding") is True and threshold is not None
    if not (prepares and any(signs_of_a_pooler(connection.settings_dict))):
        return
    # This begins the transaction, in which the pooler keeps to one session.
    cursor.execute("SELECT pg_backend_pid()")
    pgconn = connection.connection.pgconn
    if cursor.fetchone() == (pgconn.backend_pid,):
        return  # A pooler tells its clients of other processes than the server's.
    # One that follows prepared statements gives it a name of its own, and removes it in time.
    prepared = f"tenantry_{uuid4().hex}"
    pgconn.prepare(prepared.encode(), b"")
    cursor.execute("SELECT name FROM pg_prepared_statements WHERE name = %s", [prepared])
    for (name,) in cursor.fetchall():
        pgconn.exec_(f"DEALLOCATE {name}".encode())
        yield Finding(
            "tenantry.W145",
            f"database {connection.alias!r}",
            f"has OPTIONS['prepare_threshold'] = {threshold!r}, and its pooler does not follow"
            " prepared statements, so that a client may execute what another one has prepared",
            "set max_prepared_statements of PgBouncer 1.21 or newer, or remove prepare_threshold",
        )


def inspect_options(alias: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what goes wrong behind a pooler, which a port or Django's own setting gives away.

    And what gives seals away.
    """
    on_port, disabled = signs_of_a_pooler(settings)
    subject = f"database {alias!r}"
    if on_port and not disabled and not is_second(alias, settings):
        yield Finding(
            "tenantry.W141",
            subject,
            f"has the PORT {PGBOUNCER}, that of a pooler, and uses server-side cursors, which a"
            " transaction pooler loses",
            "set DISABLE_SERVER_SIDE_CURSORS = True",
        )
    role = settings.get("OPTIONS", {}).get("assume_role")
    if role and (on_port or disabled):
        yield Finding(
            "tenantry.W142",
            subject,
            f"has OPTIONS['assume_role'] = {role!r}, which a transaction pooler leaves on a server"
            " session and gives to others",
            "log in as that role",
        )
    threshold = settings.get("OPTIONS", {}).get("prepare_threshold")
    if threshold is not None and rls_tenants().sealed:
        yield Finding(
            "tenantry.E144",
            subject,
            f"has OPTIONS['prepare_threshold'] = {threshold!r}: an injection can put a statement of"
            " its own under the name of a prepared one, which reads the seal of the next tenant",
            "remove it",
        )
