"""Write rows of two tenants, and print who sees them and what was refused, as JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import django
from django.apps import apps
from django.db import DatabaseError, connection
from django.test.utils import CaptureQueriesContext

from tenantry import admin_context, tenant_context

A, B = UUID(int=0xA), UUID(int=0xB)
CODES = "SELECT code FROM renamed_row ORDER BY code"
INSERT = "INSERT INTO renamed_row (code, customer_id) VALUES (%s, %s)"
PARAMETERS = (
    "SELECT coalesce(current_setting(name || '.current_tenant', true), '')"
    " FROM unnest(ARRAY['acme', 'rls']) name"
)
POLICIES = "SELECT concat(qual, with_check) FROM pg_policies WHERE tablename = 'renamed_row'"
INDEXES = "SELECT indexdef FROM pg_indexes WHERE tablename = 'renamed_row'"


def run(sql: str, *params: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql, params)
        return [value for (value,) in cursor.fetchall()] if cursor.description else None


def refused(write: Callable[[], object]) -> str:
    try:
        write()
    except DatabaseError as error:
        return str(error).partition("\n")[0]
    return "nothing"


def seen(objects: Any) -> dict[str, Any]:
    with CaptureQueriesContext(connection) as captured:
        codes = [row.code for row in objects.order_by("code")]
    return {
        "orm": codes,
        "raw": run(CODES),
        "sql": captured.captured_queries[0]["sql"],
        "parameters": run(PARAMETERS),
    }


def report() -> dict[str, Any]:
    tenants, rows = (apps.get_model("renamed", name)._default_manager for name in ("Tenant", "Row"))
    user = SimpleNamespace(is_authenticated=True, is_tenant_admin=False, rls_tenant_id=str(B))
    found: dict[str, Any] = {}
    for name, own in (("a", A), ("b", B)):
        tenants.create(pk=own)
        with tenant_context(own):
            row = rows.create(code="same")
            assert row.customer_id == own
            run(INSERT, f"of {name}", own)
    for name, own, other in (("a", A, B), ("b", B, A)):
        with tenant_context(str(own)):
            found[f"refused, {name}"] = [
                refused(partial(rows.create, code="x", customer_id=other)),
                refused(partial(rows.update, customer_id=other)),
                refused(partial(run, INSERT, "x", other)),
                refused(partial(rows.create, code="same")),
            ]
    found |= {"policies": run(POLICIES), "indexes": run(INDEXES)}
    scopes: dict[str, Any] = {
        "nobody": nullcontext(),
        "a": tenant_context(A),
        "b": tenant_context(str(B)),
        "admin": admin_context(),
    }
    for name, scope in scopes.items():
        with scope:
            found[name] = seen(rows)
            found[f"user, {name}"] = [row.code for row in rows.for_user(user).order_by("id")]
    return found


if __name__ == "__main__":
    django.setup()
    print(json.dumps(report()))
    connection.close()
