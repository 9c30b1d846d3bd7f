"""The columns by which a row has its tenant: whether the database has them as the model says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from django.apps import apps

from ..dependents import protecting_links
from ..expressions import CurrentTenant
from ..external import set_default
from ..policies.predicates import readable
from ..retyping import referred_column
from ..routing import is_placed
from .findings import Finding
from .migrations import Migrations
from .models import refers_to_model
from .policies import flat, shape_for
from .samekeys import KEYS
from .unique import field_of_tenant

# A constraint that has looked at all rows is as good as NOT NULL. From 18 on that is one, too (type
# n), and may not have looked.
COLUMNS = """\
SELECT attname::text, attnotnull AND NOT EXISTS (SELECT FROM pg_constraint
    WHERE conrelid = attrelid AND contype = 'n' AND NOT convalidated AND conkey = ARRAY[attnum])
  OR EXISTS (SELECT FROM pg_constraint
    WHERE conrelid = attrelid AND contype = 'c' AND convalidated AND conkey = ARRAY[attnum]
      AND pg_get_expr(conbin, conrelid) = format('(%%I IS NOT NULL)', attname)),
  atthasdef
FROM pg_attribute WHERE attrelid = %s AND attname = ANY(%s)"""


def inspect_columns(
    connection: Any, cursor: Any, model: Any, oid: int, migrations: Migrations
) -> Iterator[Finding]:
    """Yield what the table of `model` lacks of the columns, and their foreign keys."""
    if not model._meta.managed:
        return
    fields = {field.column: field for field in deciding(model)}
    cursor.execute(COLUMNS, [oid, [*fields]])
    for column, is_filled, has_default in cursor.fetchall():
        field = fields[column]
        found = [*inspect_column(connection, model, field, is_filled, has_default)]
        if refers_to_model(field) and field.db_constraint:
            found += inspect_key(connection, cursor, model, field)
        for each in found:
            yield replace(each, awaited=migrations.pending(model._meta.app_label))


def deciding(model: Any) -> Iterator[Any]:
    """Yield the fields in the table of `model` that say whose a row is."""
    for field in protecting_links(model, apps) or [field_of_tenant(model)]:
        if field is not None and field.concrete:
            yield field


def inspect_column(
    connection: Any, model: Any, field: Any, is_filled: bool, has_default: bool
) -> Iterator[Finding]:
    """Yield a finding if a column takes NULL, or is not filled, other than its field says."""
    quote = connection.ops.quote_name
    table, column = quote(model._meta.db_table), quote(field.column)
    subject = f"table {model._meta.db_table}"
    if not (field.null or is_filled):
        yield Finding(
            "tenantry.W115",
            subject,
            f"has the column {field.column}, which may be null though the model says no, and no"
            " tenant sees a row where it is",
            f"fill it, and run ALTER TABLE {table} ALTER COLUMN {column} SET NOT NULL",
        )
    if isinstance(field.db_default, CurrentTenant) and not has_default:
        yield Finding(
            "tenantry.W115",
            subject,
            f"has the column {field.column} without the default that the model says, so that new"
            " rows get no tenant, and are refused",
            f"run {flat(set_default(shape_for(model), table, column))}",
        )


def inspect_key(connection: Any, cursor: Any, model: Any, field: Any) -> Iterator[Finding]:
    """Yield a finding if nothing ensures that the row is there to which a field refers."""
    if not is_placed(connection.alias, field.target_field.model):
        return
    quote = connection.ops.quote_name
    to, key = referred_column(field)
    table, target = quote(model._meta.db_table), quote(to)
    subject = f"table {model._meta.db_table}"
    harm = "may refer to none, and get into the hands of whoever gets the same key"
    cursor.execute(KEYS, [table, target])
    found = {
        name: (is_valid, is_on)
        for name, is_valid, columns, keys, is_on in cursor.fetchall()
        if (field.column, key) in zip(columns, keys, strict=True)
    }
    if any(is_on and is_valid for is_valid, is_on in found.values()):
        return
    # One that is not enforced has no triggers.
    how = {
        True: ("not validated", "VALIDATE CONSTRAINT {}"),
        False: ("disabled", f"ENABLE TRIGGER ALL and ALTER TABLE {target} ENABLE TRIGGER ALL"),
        None: ("not enforced", "ALTER CONSTRAINT {} ENFORCED"),
    }
    for name, (_, is_on) in found.items():
        state, fix = how[is_on]
        yield Finding(
            "tenantry.W116",
            subject,
            f"has the foreign key {name}, which is {state}, so that its rows {harm}",
            f"as a superuser, run ALTER TABLE {table} {fix.replace('{}', readable(name))}",
        )
    if not found:
        yield Finding(
            "tenantry.W116",
            subject,
            f"has no foreign key ({field.column}) to {to} ({key}), so that its rows {harm}",
            f"as a superuser, run ALTER TABLE {table} ADD FOREIGN KEY ({quote(field.column)})"
            f" REFERENCES {target} ({quote(key)}) DEFERRABLE INITIALLY DEFERRED",
        )
