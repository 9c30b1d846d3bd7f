"""Policies: the one that the models ask for, and strays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import transaction

from ..constraints import RLSConstraint
from ..dependents import references_of
from ..policies.ddl import POLICY, all_exist
from .findings import Finding

PROBE = "tenantry_probe"
AGAIN = (
    "run makemigrations and migrate, and if they have nothing to do, remove the RLSConstraint and"
    " add it again"
)

POLICIES = """\
SELECT polname::text, polpermissive, polcmd = '*' AND polroles = '{0}',
  pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid)
FROM pg_policy WHERE polrelid = to_regclass(%s) ORDER BY polname"""

# In a block, whose transaction is rolled back: it changes nothing.
MAKE_PROBE = f"""\
DO $tenantry$ BEGIN
  CREATE TEMPORARY TABLE {PROBE} (LIKE {{table}}) ON COMMIT DROP;
  CREATE POLICY {PROBE} ON {PROBE} USING ({{predicate}});
END $tenantry$"""

READ_PROBE = f"""\
SELECT pg_get_expr(polqual, polrelid) FROM pg_policy
WHERE polrelid = to_regclass('pg_temp.{PROBE}')"""  # noqa: S608 - a name of ours


def inspect_policies(connection: Any, cursor: Any, model: Any) -> Iterator[Finding]:
    """Yield in what the table's policies differ from the one that the models ask for."""
    table = connection.ops.quote_name(model._meta.db_table)
    subject = f"table {model._meta.db_table}"
    cursor.execute(POLICIES, [table])
    policies = {name: rest for name, *rest in cursor.fetchall()}
    ours = policies.pop(POLICY, None)
    for name, (permissive, *_) in policies.items():
        if permissive:
            yield Finding(
                "tenantry.E116",
                subject,
                f"has the permissive policy {name}, which adds rows to those of the tenant",
                "drop it, or make it AS RESTRICTIVE",
            )
    if ours is None:
        yield Finding("tenantry.E114", subject, "has no policy of tenantry", AGAIN)
        return
    permissive, for_all, using, check = ours
    wanted = expected(connection, cursor, model, table)
    if not (permissive and for_all and using == check == wanted):
        yield Finding(
            "tenantry.E115",
            subject,
            f"has a policy {POLICY} that differs from what the models ask for: it is"
            f" {flat(using)!r} with the check {flat(check)!r}, and should be {flat(wanted)!r} for"
            " all commands and roles",
            AGAIN,
        )


def expected(connection: Any, cursor: Any, model: Any, table: str) -> str:
    """Return the predicate that the models ask for, as PostgreSQL writes it.

    PostgreSQL reads it for a temporary table of the same columns, which is rolled back.
    """
    quote = connection.ops.quote_name
    constraint = next(
        (each for each in model._meta.constraints if isinstance(each, RLSConstraint)), None
    )
    if constraint is None:
        predicate = all_exist(PROBE, references_of(model, apps, quote))
    else:
        predicate = constraint.policy.predicate(quote(constraint.column(model)))
    with transaction.atomic(using=connection.alias):
        cursor.execute(MAKE_PROBE.format(table=table, predicate=predicate))
        cursor.execute(READ_PROBE)
        (written,) = cursor.fetchone()
        cursor.execute("SELECT quote_ident(%s)", [model._meta.db_table])
        (name,) = cursor.fetchone()
        transaction.set_rollback(True, using=connection.alias)
    text: str = written.replace(f"{PROBE}.", f"{name}.")
    return text


def flat(text: str | None) -> str:
    """Return `text` on one line."""
    return " ".join((text or "nothing").split())
