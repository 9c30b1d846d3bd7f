"""What ORM SQL says about tenants, and what runs in each binding."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from django.db import connections, transaction
from django.test.utils import CaptureQueriesContext

from tenantry import admin_context, tenant_context
from tests.app.models import Tenant

Tenants = tuple[Tenant, Tenant]

# What makes queries filter nothing, where it finds none.
OFF = "tenantry.backends.postgresql.compiler.protections"

KEYWORDS = "ON|WHERE|INNER|LEFT|SET|ORDER|GROUP|LIMIT|FOR|UNION|INTERSECT|EXCEPT|HAVING|CROSS"
# A table where SQL reads or changes it; as a qualifier of a column, it has a dot behind it.
TABLE = re.compile(
    r"(?:FROM|JOIN|UPDATE|,) (?P<table>\"[^\"]+\")(?!\.)"
    rf"(?: (?!(?:{KEYWORDS})\b)(?P<alias>\"\w+\"|\w+))?"
)

# The tables with a column for the tenant, and that column.
PROTECTED = {
    "Odd table": "cust_no",
    "app_author": "tenant_id",
    "app_comment": "tenant_id",
    "app_contract": "tenant_id",
    "app_invoice": "tenant_id",
    "app_item": "tenant_id",
    "app_note": "tenant_id",
    "app_payment": "tenant_id",
    "app_tag": "tenant_id",
    "app_tagging": "tenant_id",
}
COLUMNS = {f'"{table}"': column for table, column in PROTECTED.items()}

# What the compiler adds.
COMPARED = re.compile(r'"(tenant_id|cust_no)" = (\d|NULL)')
VERBS = ("SELECT", "(SELECT", "UPDATE", "DELETE", "INSERT", "EXPLAIN", "DECLARE")


def sent(evaluate: Callable[[], Any], alias: str = "default") -> list[str]:
    """Return the statements of the ORM that `evaluate` sends."""
    with CaptureQueriesContext(connections[alias]) as captured:
        evaluate()
    statements = [query["sql"] for query in captured]
    return [sql for sql in statements if sql.partition(" ")[0] in VERBS]


def used(sql: str) -> Counter[str]:
    """Return how often `sql` reads or changes a protected table, by its qualified tenant column."""
    return Counter(
        f'{use["alias"] or use["table"]}."{COLUMNS[use["table"]]}"'
        for use in TABLE.finditer(sql.partition(" FOR UPDATE OF ")[0])
        if use["table"] in COLUMNS
    )


def unscoped(sql: str, value: Any) -> dict[str, int]:
    """Return the tenant columns in `sql` that are compared with `value` less often than used."""
    found = {column: sql.count(f"{column} = {value}") for column in used(sql)}
    return {column: count for column, count in used(sql).items() if found[column] < count}


def bindings(tenants: Tenants) -> Iterator[tuple[str, Any, AbstractContextManager[Any]]]:
    """Return name, tenant in SQL and scope of every kind of binding."""
    for tenant in tenants:
        yield tenant.name, tenant.pk, tenant_context(tenant.pk)
    yield "admin", None, admin_context()
    yield "unbound", "NULL", nullcontext()


def atomically(evaluate: Callable[[], Any]) -> Any:
    """Return what `evaluate` returns, in a transaction, which locking rows asks for."""
    with transaction.atomic():
        return evaluate()
