"""Foreign keys that hold the tenant: whether the database has those of ``SameTenant``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import FieldDoesNotExist

from ..policies.predicates import readable
from ..samekeys import SameTenant
from .findings import Finding
from .migrations import Migrations

# Triggers check a foreign key, and may be switched off (PostgreSQL documentation, "ALTER TABLE");
# one that is NOT ENFORCED has none. Each partition has its own.
KEYS = """\
SELECT conname::text, convalidated,
  ARRAY(SELECT attname::text FROM unnest(conkey) WITH ORDINALITY k (number, place)
    JOIN pg_attribute ON attrelid = conrelid AND attnum = number ORDER BY place),
  ARRAY(SELECT attname::text FROM unnest(confkey) WITH ORDINALITY k (number, place)
    JOIN pg_attribute ON attrelid = confrelid AND attnum = number ORDER BY place), (
  WITH RECURSIVE part (oid) AS (
    SELECT c.oid UNION SELECT p.oid FROM pg_constraint p JOIN part ON conparentid = part.oid
  )
  SELECT bool_and(tgenabled IN ('O', 'A')) FROM part JOIN pg_trigger ON tgconstraint = part.oid
)
FROM pg_constraint c
WHERE contype = 'f' AND conrelid = to_regclass(%s) AND confrelid = to_regclass(%s)
ORDER BY conname"""


def inspect_same_tenant(
    connection: Any, cursor: Any, model: Any, migrations: Migrations
) -> Iterator[Finding]:
    """Yield what the table of `model` lacks of the foreign keys that hold the tenant."""
    quote = connection.ops.quote_name
    table = quote(model._meta.db_table)
    for constraint in model._meta.constraints:
        if not isinstance(constraint, SameTenant):
            continue
        try:
            if constraint.check(model, connection):
                continue  # That says more.
            to, columns, keys = constraint.ends(model)
        except (AttributeError, FieldDoesNotExist):
            continue  # So do Django's checks of models, or that of the RLSConstraint.
        cursor.execute(KEYS, [table, quote(to._meta.db_table)])
        wanted = pairs(columns, keys)
        found = {
            name: is_valid
            for name, is_valid, *both, is_on in cursor.fetchall()
            if is_on and pairs(*both) == wanted
        }
        if not found:
            target = f"{to._meta.db_table} ({', '.join(keys)})"
            yield missing(model, constraint, f"({', '.join(columns)})", target, migrations)
        elif constraint.name not in found:
            yield misnamed(model, constraint, table, min(found))
        elif not any(found.values()):
            yield not_validated(model, constraint, migrations)


def pairs(columns: Iterable[str], keys: Iterable[str]) -> set[tuple[str, str]]:
    """Return each column with the one that it refers to; their order decides nothing."""
    return set(zip(columns, keys, strict=True))


def missing(
    model: Any, constraint: SameTenant, columns: str, target: str, migrations: Migrations
) -> Finding:
    """Return the finding that nothing holds a foreign key in its tenant."""
    return Finding(
        "tenantry.E125",
        f"table {model._meta.db_table}",
        f"has no foreign key {columns} to {target} that is switched on, though the model has"
        f" SameTenant(field={constraint.field!r}), so that rows may refer to those of other"
        " tenants",
        "run makemigrations and migrate, and if they have nothing to do, put RemoveConstraint and"
        f" AddConstraint of {constraint.name} into a migration",
        migrations.adds(model, constraint.name),
    )


def misnamed(model: Any, constraint: SameTenant, table: str, name: str) -> Finding:
    """Return the finding that a foreign key has another name than the models say."""
    return Finding(
        "tenantry.W126",
        f"table {model._meta.db_table}",
        f"has the foreign key of SameTenant(field={constraint.field!r}) under the name {name}, so"
        " that no migration finds it, to drop it or to validate it",
        f"run ALTER TABLE {table} RENAME CONSTRAINT {readable(name)} TO"
        f" {readable(constraint.name)} as its owner",
    )


def not_validated(model: Any, constraint: SameTenant, migrations: Migrations) -> Finding:
    """Return the finding that nobody has looked at the rows of before a foreign key."""
    return Finding(
        "tenantry.W125",
        f"table {model._meta.db_table}",
        f"has the foreign key {constraint.name}, which is not validated, so that rows from before"
        " it may refer to those of other tenants",
        f"put ValidateSameTenant({model._meta.model_name!r}, {constraint.name!r}) of"
        " tenantry.operations into a migration",
        migrations.validates(model, constraint.name),
    )
