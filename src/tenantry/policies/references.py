"""SQL that protects a table by what its rows refer to, as pure text; templates never change."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .ddl import ADMIN_POLICY, POLICY, RESTRICTION, SHARING, Policy, Shape, uncover

# Those that a table may have that depends on others.
OF_DEPENDENTS = (
    POLICY,
    ADMIN_POLICY,
    SHARING,
    RESTRICTION,
    *(f"{RESTRICTION}_{command}" for command in ("insert", "update", "delete")),
)

# For a table whose rows belong to rows of protected tables. The subqueries are subject to the
# policies of those (PostgreSQL documentation, "Row Security Policies"), so they find what the
# binding may see.
_DEPEND_1 = """\
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
{drops}
{policies}"""


@dataclass(frozen=True, slots=True)
class Reference:
    """A column and what it refers to: a table and its key. All are quoted.

    `own` says of the row that it refers to, as `alias`, that it is the tenant's. It is there where
    a row may be visible that is not, and where only the tenant may write rows that refer to it.
    `alias` is not what the table is called whose rows refer to it.
    """

    column: str
    table: str
    key: str
    own: str | None = None
    alias: str = "owner"

    def exists_sql(self, table: str, *, own: bool = False) -> str:
        """Return the SQL that a row of the quoted `table` refers to a visible row, or an `own`."""
        condition = f" AND {self.own}" if own and self.own else ""
        return (
            f"EXISTS (SELECT FROM {self.table} AS {self.alias}"
            f" WHERE {self.alias}.{self.key} = {table}.{self.column}{condition})"
        )


# Whether a table that is there has the policies of :func:`depend`, by their names and by what they
# refer to, if all that the models let it refer to is protected.
IS_AS_WANTED = """\
SELECT relrowsecurity AND relforcerowsecurity
  AND ARRAY(SELECT polname::text FROM pg_policy
    WHERE polrelid = c.oid AND starts_with(polname, 'tenantry_') ORDER BY polname)
    = ARRAY(SELECT name::name::text FROM unnest(%(names)s::text[]) name ORDER BY name::name)
  AND NOT EXISTS (SELECT FROM unnest(%(owners)s::text[]) owner WHERE NOT EXISTS (
    SELECT FROM pg_depend d JOIN pg_policy p ON p.oid = d.objid
    WHERE d.classid = 'pg_policy'::regclass AND polrelid = c.oid
      AND d.refclassid = 'pg_class'::regclass AND d.refobjid = to_regclass(owner)))
FROM pg_class c WHERE oid = to_regclass(%(table)s)
  AND NOT EXISTS (SELECT FROM unnest(%(owners)s::text[]) owner
    LEFT JOIN pg_class o ON o.oid = to_regclass(owner) WHERE o.relrowsecurity IS NOT TRUE)"""

# Whether a table that is there lacks one of the columns.
LACKS = """\
SELECT FROM pg_class c WHERE oid = to_regclass(%s) AND EXISTS (
  SELECT FROM unnest(%s::text[]) name WHERE NOT EXISTS (
    SELECT FROM pg_attribute WHERE attrelid = c.oid AND attname = name AND NOT attisdropped))"""


def depend(table: str, references: Sequence[Reference], shape: Shape) -> str:
    """Return the SQL that shows rows of the quoted `table` with all rows that they refer to.

    `shape` is that of a table that they refer to.
    """
    policies = dependent_policies(table, references, shape)
    created = ";\n".join(policy.create(table) for policy in policies)
    return _DEPEND_1.format(table=table, drops=let_depend_anew(table), policies=created)


def dependent_policies(table: str, references: Sequence[Reference], shape: Shape) -> list[Policy]:
    """Return the policies of :func:`depend`.

    A single policy would let others write the rows, too, that they may read.
    """
    visible = all_exist_sql(table, references)
    if any(reference.own for reference in references):
        return shape.policies(all_exist_sql(table, references, own=True), visible)
    return [Policy(POLICY, visible, visible), *shape.restrictions(visible)]


def all_exist_sql(table: str, references: Iterable[Reference], *, own: bool = False) -> str:
    """Return the SQL that all rows are there, and visible, that a row of `table` refers to."""
    return " AND ".join(reference.exists_sql(table, own=own) for reference in references)


def independ(table: str) -> str:
    """Return the SQL that undoes :func:`depend`, also where there is nothing to undo."""
    return f"{let_depend_anew(table)}\n{uncover(table)}"


def let_depend_anew(table: str) -> str:
    """Return the SQL that drops the policies of :func:`depend`, before others take their place.

    The table shows nothing until then, also where what follows fails outside of a transaction.
    """
    return "\n".join(f"DROP POLICY IF EXISTS {name} ON {table};" for name in OF_DEPENDENTS)
