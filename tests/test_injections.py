"""Whoever has a server session after an injection is still who they are."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext, suppress

import pytest
from django.db import DatabaseError, connections, transaction

from tenantry import tenant_context
from tests.app.models import Tenant
from tests.injections import EXPRESSIONS, STATEMENTS, TITLES, attempt, within, written

# What leaves nobody a table to read from, or no policy to read it by.
SPOILS = ("SET row_security", "SET search_path")


@pytest.mark.unsealed
@pytest.mark.parametrize("alias", ["pool", "pooled"])
@pytest.mark.parametrize("atomic", [True, False])
def test_an_injection_does_not_change_who_comes_next(
    atomic: bool, alias: str, tenants: tuple[Tenant, Tenant], renew: Callable[[str], None]
) -> None:
    """It may have the rows of others, as these shapes say, but leaves nobody else with them."""
    a, b = tenants
    for injection in STATEMENTS + EXPRESSIONS:
        renew(alias)
        block = transaction.atomic(using=alias) if atomic else nullcontext()
        with (
            suppress(DatabaseError),
            tenant_context(a.pk),
            block,
            connections[alias].cursor() as cursor,
        ):
            attempt(cursor, within(written(injection, tenants)))
        for scope, rows in ((tenant_context(b.pk), ["B 1", "B 2"]), (nullcontext(), [])):
            with scope, connections[alias].cursor() as cursor:
                seen = attempt(cursor, TITLES)
            expected = f"{[[(title,) for title in rows]]} []"
            is_spoilt = alias == "pooled" and any(each in injection.sql for each in SPOILS)
            assert seen == expected or is_spoilt, (injection.sql, seen)
            assert "A " not in seen, injection.sql
