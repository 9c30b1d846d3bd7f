"""Assertions about tables."""

from __future__ import annotations

from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections

from ..binding import UNBOUND
from ..context import Scope, admin_context
from ..policies.ddl import POLICY


def assert_rls_enabled(model: Any, using: str = DEFAULT_DB_ALIAS) -> None:
    """Raise AssertionError unless RLS is enabled, and forced, on the table of `model`.

    `model` may be the name of a table, too, in this assertion and in the others.
    """
    rows = _rows(
        using,
        "SELECT relrowsecurity, relforcerowsecurity FROM pg_class WHERE oid = to_regclass(%s)",
        [_table(model, using)],
    )
    if rows != [(True, True)]:
        found = rows[0] if rows else None
        raise AssertionError(
            f"{_named(model)} is not protected: (enabled, forced) is {found}, not (True, True);"
            " run migrate, and see manage.py check_rls"
        )


def assert_rls_policy_exists(
    model: Any, policy_name: str = POLICY, using: str = DEFAULT_DB_ALIAS
) -> None:
    """Raise AssertionError unless the table of `model` has a policy of that name."""
    rows = _rows(
        using,
        "SELECT polname::text FROM pg_policy WHERE polrelid = to_regclass(%s) ORDER BY 1",
        [_table(model, using)],
    )
    names = [found for (found,) in rows]
    if policy_name not in names:
        raise AssertionError(
            f"{_named(model)} has no policy {policy_name!r}: {names}; run migrate, and see"
            " manage.py check_rls"
        )


def assert_rls_blocks_without_context(model: Any, using: str = DEFAULT_DB_ALIAS) -> None:
    """Raise AssertionError if SQL without a tenant sees a row of `model`, or if there is none."""
    count = f"SELECT count(*) FROM {_table(model, using)}"  # noqa: S608 - quoted
    with admin_context():
        [(there,)] = _rows(using, count)
    if not there:
        raise AssertionError(
            f"{_named(model)} has no rows, so that nothing can be seen; make one first, in"
            " rls_bypass() or rls_as_tenant()"
        )
    with Scope(UNBOUND):
        [(seen,)] = _rows(using, count)
    if seen:
        raise AssertionError(
            f"{seen} of {there} rows of {_named(model)} are visible without a tenant; is the"
            " role of the tests a superuser? See manage.py check_rls"
        )


def _table(model: Any, using: str) -> str:
    table = model if isinstance(model, str) else model._meta.db_table
    name: str = connections[using].ops.quote_name(table)
    return name


def _named(model: Any) -> str:
    return f"the table {model!r}" if isinstance(model, str) else str(model._meta.label)


def _rows(using: str, sql: str, params: Any = None) -> list[Any]:
    with connections[using].cursor() as cursor:
        cursor.execute(sql, params)
        rows: list[Any] = cursor.fetchall()
        return rows
