"""Policies: those that the models ask for, and strays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from django.apps import apps

from .. import dependents
from ..constraints import RLSConstraint
from ..policies.ddl import ADMIN_POLICY, BYPASS, SHARING, Policy, Shape
from ..policies.ways import Way
from ..protected import column_of, external_column
from ..shapes import arguments, current
from .findings import Finding
from .relatives import Relative

MIGRATE = "run makemigrations and migrate, and if they have nothing to do"
AGAIN = f"{MIGRATE}, remove the RLSConstraint and add it again"

# For the table of a child or of a ManyToManyField.
OF_ANOTHER = f"{MIGRATE}, run as the owner of the table what check_rls --generate prints"
# Those that some settings, or models, ask for and others do not.
OURS = (ADMIN_POLICY, SHARING, BYPASS)
OF_STRAYS = "drop it, or make it AS RESTRICTIVE"

POLICIES = """\
SELECT polname::text, polpermissive, polcmd::text,
  ARRAY(SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(role)::text END
    FROM unnest(polroles) role ORDER BY 1),
  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
FROM pg_policy WHERE polrelid = to_regclass(%s) ORDER BY polname"""

# Two texts of a predicate say the same where PostgreSQL makes the same plan of them. To plan takes
# the privileges of a query and no others, such as for temporary tables. The predicate is in what
# is selected, because one in WHERE is left out where a policy of the table says the same.
EXPLAIN = "EXPLAIN (VERBOSE, COSTS OFF) SELECT ({predicate}) FROM {table} WHERE false"

LETTERS = {"ALL": "*", "SELECT": "r", "INSERT": "a", "UPDATE": "w", "DELETE": "d"}
COMMANDS = {letter: command for command, letter in LETTERS.items()} | {"*": "all commands"}


class Found(NamedTuple):
    """A policy as the catalog has it."""

    permissive: bool
    command: str
    roles: list[str]
    using: str | None
    check: str | None

    def __str__(self) -> str:
        kind = "permissive" if self.permissive else "restrictive"
        return (
            f"{kind} for {COMMANDS[self.command]} to {', '.join(self.roles)} using"
            f" {flat(self.using)!r} with the check {flat(self.check)!r}"
        )


def inspect_policies(connection: Any, cursor: Any, model: Any) -> Iterator[Finding]:
    """Yield a finding for each policy of the table that is not what the models ask for."""
    table = connection.ops.quote_name(model._meta.db_table)
    subject = f"table {model._meta.db_table}"
    found = policies_of(cursor, table)
    wanted = expected(connection, model, table)
    for name, policy in found.items():
        if policy.permissive and name not in wanted:
            yield stray(subject, name, outgrown(model) if name in OURS else OF_STRAYS)
    for name, policy in wanted.items():
        if name not in found:
            yield Finding(
                "tenantry.E114", subject, f"has no policy {name} of tenantry", again(model)
            )
        elif not agree(cursor, table, found[name], policy):
            yield Finding(
                "tenantry.E115",
                subject,
                f"has a policy {name} that differs from what the models ask for: it is"
                f" {found[name]}, and should be {policy}",
                again(model),
            )


def inspect_relatives_policies(
    connection: Any, cursor: Any, model: Any, other: Relative
) -> Iterator[Finding]:
    """Yield a finding for each policy of a child or parent that may show more than the table's.

    The table is that of `model`. A policy that the other one lacks shows nothing.
    """
    wanted = expected(connection, model, other.name)
    for name, policy in policies_of(cursor, other.name).items():
        if name not in wanted:
            if policy.permissive:
                yield stray(f"table {other.name}", name)
        # To plan a query takes the privilege to make it.
        elif other.may_read and not agree(cursor, other.name, policy, wanted[name]):
            whose = "child" if other.is_parent else "parent"
            yield Finding(
                "tenantry.E115",
                f"table {other.name}",
                f"has a policy {name} that differs from what the models ask for of its {whose}: it"
                f" is {policy}, and should be {wanted[name]}",
                f"run DROP POLICY {name} ON {other.name}, and where the role needs the rows, create"
                " it as it should be",
            )


def stray(subject: str, name: str, fix: str = OF_STRAYS) -> Finding:
    """Return the finding that a table has a policy that nobody asks for."""
    return Finding(
        "tenantry.E116",
        subject,
        f"has the permissive policy {name}, which adds rows to those of the tenant",
        fix,
    )


def again(model: Any) -> str:
    """Return how the table of `model` gets the policies that the models ask for."""
    if column := external_column(model):
        return (
            f"put AlterRLSPolicy({model._meta.label!r}, {column!r}, {arguments(current())},"
            " before={...}) into a migration, with what AddRLSPolicy says in the braces, or"
            " AddRLSPolicy if no migration has it"
        )
    return AGAIN if dependents.has_constraint(model) else OF_ANOTHER


def outgrown(model: Any) -> str:
    """Return how the table of `model` loses a policy that other settings have asked for."""
    return again(model) if external_column(model) else f"{MIGRATE}, drop it"


def policies_of(cursor: Any, table: str) -> dict[str, Found]:
    """Return the policies of a quoted table by their names."""
    cursor.execute(POLICIES, [table])
    return {name: Found(*rest) for name, *rest in cursor.fetchall()}


def expected(connection: Any, model: Any, table: str) -> dict[str, Found]:
    """Return the policies that the models ask for, by their names, with the models' texts."""
    return {
        policy.name: Found(
            policy.permissive,
            LETTERS[policy.command],
            ["PUBLIC" if policy.role is None else policy.role],
            policy.using,
            policy.check,
        )
        for policy in wanted_policies(model, connection.ops.quote_name, table)
    }


def agree(cursor: Any, table: str, found: Found, wanted: Found) -> bool:
    """Return whether two policies of a quoted table say the same."""
    return found[:3] == wanted[:3] and all(
        plan_of(cursor, table, one) == plan_of(cursor, table, other)
        for one, other in dict.fromkeys(zip(found[3:], wanted[3:], strict=True))
    )


def plan_of(cursor: Any, table: str, predicate: str | None) -> list[str] | None:
    """Return how PostgreSQL reads a predicate of a quoted table's rows; None for none."""
    if predicate is None:
        return None
    cursor.execute(EXPLAIN.format(predicate=predicate, table=table))
    return [line for (line,) in cursor.fetchall()]


def mend(connection: Any, cursor: Any, model: Any) -> str:
    """Return the SQL that gives the table of `model` the policies that the models ask for.

    It drops every permissive policy that they do not ask for.
    """
    quote = connection.ops.quote_name
    table = quote(model._meta.db_table)
    policies = wanted_policies(model, quote, table)
    wanted = {policy.name for policy in policies}
    drops = [
        f"DROP POLICY {quote(name)} ON {table}"
        for name, policy in policies_of(cursor, table).items()
        if policy.permissive or name in wanted
    ]
    return ";\n".join([*drops, shape_for(model).protect(table, policies)])


def shape_for(model: Any) -> Shape:
    """Return what the policies of `model` depend on."""
    column = external_column(model)
    return RLSConstraint(field=column).shape if column else dependents.shape_of(model, apps)


def wanted_policies(model: Any, quote: Any, table: str) -> list[Policy]:
    """Return the policies that the models ask for, of a quoted table like that of `model`."""
    if column := external_column(model):
        shape, way = shape_for(model), Way(column_of(model, column))
        return shape.policies(way.holds_sql(table, shape.tenant, quote))
    return dependents.policies_of(model, apps, quote, table)


def flat(text: str | None) -> str:
    """Return `text` on one line."""
    return " ".join((text or "nothing").split())
