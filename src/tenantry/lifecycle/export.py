"""All rows of a tenant, written to a file as they were at one moment."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import IO, Any

from django.core.management.base import CommandError
from django.db import DatabaseError, transaction

from ..backends.postgresql.apply import EXACT_FLOATS
from ..context import tenant_context
from .archive import Writer
from .tables import Holdings, Owned, holdings

SNAPSHOT = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY"
STYLES = "SELECT current_setting('DateStyle'), current_setting('IntervalStyle')"
CONTENT_TYPES = "SELECT id, app_label || '.' || model FROM django_content_type"


def export(connection: Any, tenant: Any, file: IO[bytes]) -> dict[str, int]:
    """Write the rows of `tenant`, and return how many there are of each table.

    They come from one snapshot and go from the server into the file, a row at a time. Raises
    CommandError when a table cannot be read, or the tenant has gone.
    """
    with (
        tenant_context(tenant.pk),
        transaction.atomic(using=connection.alias, durable=True),
        connection.cursor() as cursor,
    ):
        cursor.execute(SNAPSHOT)
        cursor.execute(EXACT_FLOATS)
        found = holdings(connection, cursor)
        writer = Writer(file, header(cursor, tenant, found))
        quote = connection.ops.quote_name
        for name in found.order.tables:
            table = found.tables[name]
            query = copy_of(table, (quote(column.name) for column in found.columns[name]))
            writer.begin(name)
            try:
                # Django does not wrap the errors of a COPY by itself.
                with connection.wrap_database_errors, cursor.copy(query) as copy:
                    for row in copy.rows():
                        writer.add(row)
            except DatabaseError as error:
                raise CommandError(
                    f"{name} cannot be exported: {error}{advice('export_tenant', error)}"
                ) from error
            if table.is_tenants and writer.rows[name] != 1:
                raise CommandError(f"the tenant {tenant.pk} has no row in {name} any more")
        writer.end()
        return writer.rows


def advice(command: str, error: DatabaseError) -> str:
    """Return what to do about an `error`, if it is that the role lacks a privilege.

    A policy that refuses a row has the same SQLSTATE.
    """
    diagnosis = getattr(error.__cause__, "diag", None)
    if getattr(diagnosis, "source_function", None) != "aclcheck_error":
        return ""
    return f"; run {command} as the owner of the tables, or GRANT the role what it lacks"


def copy_of(table: Owned, columns: Iterable[str]) -> str:
    """Return the COPY of the tenant's rows of a table, with these quoted columns.

    It has PostgreSQL's own text of each value, which its types read back without loss.
    """
    names = ", ".join(columns)
    return f"COPY (SELECT {names} FROM {table.quoted} WHERE {table.condition}) TO STDOUT"  # noqa: S608 - quoted


def header(cursor: Any, tenant: Any, found: Holdings) -> dict[str, Any]:
    """Return what a reader of the file needs to know before the rows."""
    return {
        "project": os.environ.get("DJANGO_SETTINGS_MODULE", ""),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "tenant": {"model": tenant._meta.label, "key": str(tenant.pk)},
        **meanings(cursor, found),
        "tables": [
            {
                "table": name,
                "model": found.tables[name].model._meta.label,
                "columns": [column.name for column in found.columns[name]],
            }
            for name in found.order.tables
        ],
        "references": [
            {
                "table": each.table,
                "columns": each.columns,
                "target": each.target,
                "keys": each.keys,
            }
            for each in found.outward()
        ],
    }


def meanings(cursor: Any, found: Holdings) -> dict[str, Any]:
    """Return what values mean that may mean something else in another database."""
    cursor.execute(STYLES)
    date_style, interval_style = cursor.fetchone()
    types: dict[str, str] = {}
    if any(each.target == "django_content_type" for each in found.outward()):
        cursor.execute(CONTENT_TYPES)
        types = {str(key): name for key, name in cursor.fetchall()}
    return {"date_style": date_style, "interval_style": interval_style, "content_types": types}
