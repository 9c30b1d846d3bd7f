"""What becomes of rows that refer to one that is deleted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..declared import constraints_of
from ..dependents import links
from ..policies.predicates import readable
from ..protected import column_of, external_column
from ..samekeys import SameTenant, is_of_tenant, tenant_field
from .findings import Finding
from .unique import field_of_tenant

Model = type[Any]

# What the database does by itself to rows that refer to others, of those in a protected table and
# in one whose rows one of the roles may delete or update; and whether such a key goes to a
# protected one.
ACTIONS = """\
WITH action(letter, name) AS (VALUES ('c', 'CASCADE'), ('n', 'SET NULL'), ('d', 'SET DEFAULT'))
SELECT conname::text,
  ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY k (number, place)
    JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place),
  is_protected,
  (SELECT name FROM action WHERE letter = confdeltype AND (is_protected OR EXISTS (
    SELECT FROM unnest(%(roles)s::oid[]) role
    WHERE has_table_privilege(role, confrelid, 'DELETE')))),
  (SELECT name FROM action WHERE letter = confupdtype AND (is_protected OR EXISTS (
    SELECT FROM unnest(%(roles)s::oid[]) role
    WHERE has_any_column_privilege(role, confrelid, 'UPDATE'))))
FROM pg_constraint, LATERAL (SELECT EXISTS (
  SELECT FROM unnest(%(tables)s::text[]) name WHERE to_regclass(name) = confrelid)) t (is_protected)
WHERE contype = 'f' AND conrelid = to_regclass(%(table)s)
ORDER BY 1"""
EVENTS = ("ON DELETE", "ON UPDATE")
REACHES = (
    "PostgreSQL applies no policies to that, and deletes or changes the rows of other tenants, too"
)


def free_keys(model: Model) -> Iterator[tuple[Any, bool]]:
    """Yield the foreign keys in a protected table, but for those that SameTenant keeps.

    With each goes whether it decides whose the row is: by such a key a row has the tenant of the
    one that it refers to, or names the tenant itself.
    """
    constraints = model._meta.constraints
    kept = {each.field for each in constraints if isinstance(each, SameTenant)}
    own = {each.way.partition("__")[0] for each in constraints_of(model)}
    own |= {link.name for link in [*model._meta.parents.values(), *links(model)] if link}
    for field in model._meta.local_concrete_fields:
        if field.is_relation and field.name not in kept:
            yield field, field.name in own


def tenant_column(model: Model) -> str | None:
    """Return the column by which a row has its tenant, also where it is no foreign key."""
    if name := external_column(model):
        return column_of(model, name)
    field = field_of_tenant(model)
    return field.column if field else None


def is_done_by_database(field: Any) -> bool:
    """Return whether the model says what the database does; it can since Django 6.1."""
    return hasattr(field.remote_field.on_delete, "on_delete_sql")


def moves(field: Any) -> bool:
    """Return whether the database lets a row refer to a default if what it refers to is deleted.

    Where that is the tenant, the row is then the one's of the binding, or the default's.
    """
    return is_done_by_database(field) and field.remote_field.on_delete.__name__ == "DB_SET_DEFAULT"


def inspect_deletion(model: Model) -> Iterator[Finding]:
    """Yield the foreign keys of a protected model by which rows of other tenants change or go."""
    for field, decides in free_keys(model):
        if (
            (moves(field) if decides else is_done_by_database(field))
            and field.db_constraint
            and model._meta.managed
        ):
            yield Finding(
                "tenantry.W152",
                f"model {model._meta.label}",
                f"has on_delete={field.remote_field.on_delete.__name__} on {field.name}: {REACHES}",
                fix_of_deletion(model, field),
            )


def inspect_actions(
    cursor: Any, model: Model, table: str, tables: list[str], roles: list[int]
) -> Iterator[Finding]:
    """Yield the same of the quoted table of a model, for what somebody else's SQL has made.

    `tables` are those of all protected models; `roles` are those whose statements count.
    """
    cursor.execute(ACTIONS, {"table": table, "tables": tables, "roles": roles})
    fields = {field.column: field for field in model._meta.local_concrete_fields}
    free = {field.column: decides for field, decides in free_keys(model)}
    deciding = {column for column, decides in free.items() if decides} | {tenant_column(model)}
    for name, columns, is_protected, *actions in cursor.fetchall():
        # What SameTenant keeps, or a key of the tenant, too, refers to rows of the same tenant.
        is_kept = any(
            column in fields and fields[column].is_relation and column not in free
            for column in columns
        )
        if is_kept or (is_protected and len(columns) > 1 and deciding.intersection(columns)):
            continue
        field = fields.get(columns[0]) if len(columns) == 1 else None
        found = {
            event: action
            for event, action in zip(EVENTS, actions, strict=True)
            if action and (action == "SET DEFAULT" or not deciding.issuperset(columns))
        }
        if field is not None and field.is_relation and is_done_by_database(field):
            found.pop("ON DELETE", None)  # That is told of the model.
        if found:
            yield action_of(model, table, name, found, field, deciding.issuperset(columns))


def action_of(
    model: Model, table: str, name: str, found: Mapping[str, str], field: Any, decides: bool
) -> Finding:
    """Return the finding that a foreign key reaches others; `field` is the key, if it is one."""
    instead = f"without {' and '.join(found)}"
    if field is None:
        instead = f"with the columns that name the tenant, or {instead}"
    elif field.is_relation and not decides:
        instead += f", or add SameTenant(field={field.name!r})"
    how = " and ".join(f"{event} {action}" for event, action in found.items())
    return Finding(
        "tenantry.W152",
        f"table {model._meta.db_table}",
        f"has the foreign key {name} with {how}: {REACHES}",
        f"run ALTER TABLE {table} DROP CONSTRAINT {readable(name)}, and make it again {instead}",
    )


def inspect_path(model: Model) -> Iterator[Finding]:
    """Yield a finding if rows of a model that is protected by a path may refer to nothing.

    Django lets PostgreSQL delete what such a key refers to first, and the path ends there.
    """
    for constraint in constraints_of(model):
        step = constraint.way.partition("__")[0]
        for field in model._meta.local_concrete_fields:
            if constraint.path is not None and field.name == step and field.null:
                yield Finding(
                    "tenantry.W153",
                    f"model {model._meta.label}",
                    f"is protected by the path {constraint.path}, and {step} may be null: no tenant"
                    " sees a row where it is, and what it refers to may be impossible to delete",
                    f"set null=False on {step}, or protect the model by a foreign key to the"
                    " tenant",
                )


def fix_of_deletion(model: Model, field: Any) -> str:
    """Return what keeps a foreign key from reaching rows of other tenants."""
    name = field.remote_field.on_delete.__name__.removeprefix("DB_")
    if moves(field):
        # Django's SET_DEFAULT takes no default of the database.
        name = "CASCADE or PROTECT"
    to = field.remote_field.model
    by_django = f"let Django do it, by on_delete={name}"
    # What is no model yet, Django names.
    if isinstance(to, str) or None in {tenant_field(model), tenant_field(to._meta.concrete_model)}:
        return by_django
    if is_of_tenant(field, to._meta.concrete_model):
        return by_django
    return f"add SameTenant(field={field.name!r}), or {by_django}"
