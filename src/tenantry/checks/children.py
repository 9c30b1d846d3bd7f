"""Partitions and other children of a protected table, of which each is a table of its own.

A statement that names one is subject to its own policies, and not to those of its parent.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any, NamedTuple

from .findings import Finding
from .privileges import belonging, inspect_privileges
from .reach import UNLIMITED, USABLE
from .triggers import inspect_rules, inspect_triggers

# But for those that a model protects, which are looked at as its table.
CHILDREN = f"""\
WITH RECURSIVE child(oid) AS (
  SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s
  UNION
  SELECT inhrelid FROM child JOIN pg_inherits ON inhparent = child.oid
)
SELECT oid, oid::regclass::text, relrowsecurity, pg_get_userbyid(relowner),
  pg_has_role(session_user, relowner, 'MEMBER'),
  relowner = (SELECT relowner FROM pg_class WHERE oid = %(table)s),
  {USABLE}, has_table_privilege(current_user, c.oid, 'SELECT'),
  has_schema_privilege(current_user, relnamespace, 'USAGE'), {UNLIMITED}
FROM child JOIN pg_class c USING (oid)
WHERE NOT EXISTS (SELECT FROM unnest(%(tables)s::text[]) name WHERE to_regclass(name) = oid)
ORDER BY 2"""  # noqa: S608 - constants


class Child(NamedTuple):
    """A child of a protected table, and what the role may do with it."""

    oid: int
    name: str
    is_guarded: bool
    owner: str
    may_own: bool
    has_parents_owner: bool
    may_use: bool
    may_read: bool
    may_name: bool
    may_truncate: bool
    may_refer: bool
    may_trigger: bool

    @property
    def is_told(self) -> bool:
        """Whether the findings about the parent say it all."""
        return self.may_own and self.has_parents_owner

    @property
    def is_shown(self) -> bool:
        """Whether its policies say what the role finds in it, which it has to name for that."""
        return self.is_guarded and self.may_use and self.may_name and not self.is_told


def children_of(cursor: Any, oid: int, tables: list[str], roles: list[int]) -> list[Child]:
    """Return the children of a table, also of its children, but for the quoted `tables`.

    They say what one of `roles` may do.
    """
    cursor.execute(CHILDREN, {"table": oid, "tables": tables, "roles": roles})
    return [Child(*row) for row in cursor.fetchall()]


def inspect_child(
    cursor: Any, model: Any, child: Child, known: Collection[str]
) -> Iterator[Finding]:
    """Yield a finding for each way in which rows of a child get past the policies of its parent.

    `model` is the parent's. What follows from findings whose ids are `known` is left out.
    """
    subject = f"table {child.name}"
    yield from inspect_triggers(cursor, subject, child.oid, copies=False)
    # A superuser may be anybody.
    if child.is_told or "tenantry.E101" in known:
        return
    if not child.may_own:
        yield from inspect_privileges(
            child.name, subject, child.may_truncate, child.may_refer, child.may_trigger
        )
    if child.may_use:
        yield from inspect_rules(cursor, subject, child.oid)
    if not child.is_guarded and child.may_use:
        yield Finding(
            "tenantry.E118",
            f"table {model._meta.db_table}",
            f"has the partition or child {child.name}, which this role may use and no policy"
            " guards",
            f"run REVOKE ALL ON {child.name} FROM PUBLIC and the role, or ALTER TABLE {child.name}"
            " ENABLE ROW LEVEL SECURITY",
        )
    elif child.may_own:
        yield belonging(subject, child.owner)
