"""Partitions and other children of a protected table, and its parents: tables of their own.

A statement that names one of them is subject to its policies, and not to those of the other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from .findings import Finding
from .privileges import FOREIGN, belonging, inspect_privileges
from .reach import UNLIMITED, USABLE
from .triggers import inspect_rules, inspect_triggers

# But for those that a model protects, which are looked at as its table. Who reads a parent reads
# this table, and other children of the parent have no part in it.
RELATIVES = f"""\
WITH RECURSIVE child(oid) AS (
  SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s
  UNION
  SELECT inhrelid FROM child JOIN pg_inherits ON inhparent = child.oid
), parent(oid) AS (
  SELECT inhparent FROM pg_inherits WHERE inhrelid = %(table)s
  UNION
  SELECT inhparent FROM parent JOIN pg_inherits ON inhrelid = parent.oid
)
SELECT oid, oid::regclass::text, is_parent, relrowsecurity, pg_get_userbyid(relowner),
  pg_has_role(session_user, relowner, 'MEMBER'),
  relowner = (SELECT relowner FROM pg_class WHERE oid = %(table)s),
  {USABLE}, has_table_privilege(current_user, c.oid, 'SELECT'),
  has_schema_privilege(current_user, relnamespace, 'USAGE'), relkind = 'f', {UNLIMITED}
FROM (SELECT oid, false FROM child UNION ALL SELECT oid, true FROM parent) relative(oid, is_parent)
JOIN pg_class c USING (oid)
WHERE NOT EXISTS (SELECT FROM unnest(%(tables)s::text[]) name WHERE to_regclass(name) = oid)
ORDER BY 2"""  # noqa: S608 - constants

ENABLE = "ENABLE ROW LEVEL SECURITY"


class Relative(NamedTuple):
    """A child or a parent of a protected table, and what the role may do with it."""

    oid: int
    name: str
    is_parent: bool
    is_guarded: bool
    owner: str
    may_own: bool
    has_same_owner: bool
    may_use: bool
    may_read: bool
    may_name: bool
    is_foreign: bool
    may_truncate: bool
    may_refer: bool
    may_trigger: bool

    @property
    def is_told(self) -> bool:
        """Whether the findings about the table say it all."""
        return self.may_own and self.has_same_owner

    @property
    def is_shown(self) -> bool:
        """Whether its policies say what the role finds in it, which it has to name for that."""
        return self.is_guarded and self.may_use and self.may_name and not self.is_told


def relatives_of(cursor: Any, oid: int, tables: list[str], roles: list[int]) -> list[Relative]:
    """Return children and parents of a table, and theirs, but for the quoted `tables`.

    They say what one of `roles` may do.
    """
    cursor.execute(RELATIVES, {"table": oid, "tables": tables, "roles": roles})
    return [Relative(*row) for row in cursor.fetchall()]


def inspect_relative(
    cursor: Any, model: Any, other: Relative, known: Collection[str]
) -> Iterator[Finding]:
    """Yield a finding for each way in which rows get past the policies of a model's table.

    What follows from findings whose ids are `known` is left out.
    """
    subject = f"table {other.name}"
    yield from inspect_triggers(cursor, subject, other.oid, copies=False)
    # A superuser may be anybody.
    if other.is_told or "tenantry.E101" in known:
        return
    if not other.may_own:
        yield from inspect_privileges(
            other.name, subject, other.may_truncate, other.may_refer, other.may_trigger
        )
    if other.may_use:
        yield from inspect_rules(cursor, subject, other.oid)
    if not other.is_guarded and other.may_use:
        which = "is a partition or child of" if other.is_parent else "has the partition or child"
        yield Finding(
            "tenantry.E118",
            f"table {model._meta.db_table}",
            f"{which} {other.name}, which this role may use and no policy guards",
            f"run REVOKE ALL ON {other.name} FROM PUBLIC and the role, "
            + (FOREIGN if other.is_foreign else f"or ALTER TABLE {other.name} {ENABLE}"),
        )
    elif other.may_own:
        yield belonging(subject, other.owner)
