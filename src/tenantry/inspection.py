"""What the database really does with protected tables, compared with what the models say.

It reads the catalogs only, which every role may, so it runs as the role that serves requests.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from django.apps import apps
from django.db import router, transaction

from .constraints import RLSConstraint
from .dependents import is_protected, references_of
from .policies.ddl import POLICY, all_exist

PROBE = "tenantry_probe"

ROLE = """\
SELECT current_user, rolsuper, rolbypassrls, ARRAY(
  SELECT rolname::text FROM pg_roles
  WHERE (rolsuper OR rolbypassrls) AND rolname <> current_user
    AND pg_has_role(current_user, oid, 'MEMBER')
  ORDER BY rolname
) FROM pg_roles WHERE rolname = current_user"""

TABLE = """\
SELECT relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner),
  pg_has_role(current_user, relowner, 'MEMBER'),
  has_table_privilege(current_user, oid, 'TRUNCATE')
FROM pg_class WHERE oid = to_regclass(%s)"""

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


@dataclass(slots=True)
class Report:
    """Be what was found about one role or table; nothing, if all is well."""

    subject: str
    problems: list[str] = field(default_factory=list)


def inspect(connection: Any) -> Iterator[Report]:
    """Yield a report of the role that `connection` logs in as, and of each protected table."""
    with connection.cursor() as cursor:
        yield inspect_role(cursor)
        for model in apps.get_models(include_auto_created=True):
            if (
                is_protected(model, apps)
                and not model._meta.proxy
                and router.allow_migrate_model(connection.alias, model)
            ):
                yield inspect_table(connection, cursor, model)


def inspect_role(cursor: Any) -> Report:
    """Return what lets the role see everything."""
    cursor.execute(ROLE)
    name, superuser, bypasses, others = cursor.fetchone()
    report = Report(f"role {name}")
    if superuser:
        report.problems.append("is a superuser, whom no policy binds; log in as another role")
    if bypasses:
        report.problems.append(f"has BYPASSRLS; run ALTER ROLE {name} NOBYPASSRLS")
    report.problems += [
        f"can become {other}, whom no policy binds; run REVOKE {other} FROM {name}"
        for other in others
    ]
    return report


def inspect_table(connection: Any, cursor: Any, model: Any) -> Report:
    """Return in what the table of `model` differs from what the models say."""
    table = connection.ops.quote_name(model._meta.db_table)
    report = Report(f"table {model._meta.db_table}")
    cursor.execute(TABLE, [table])
    found = cursor.fetchone()
    if found is None:
        report.problems.append("does not exist; run migrate")
        return report
    enabled, forced, owner, may_own, may_truncate = found
    if not enabled:
        report.problems.append(
            "has Row-Level Security switched off; run"
            f" ALTER TABLE {table} ENABLE ROW LEVEL SECURITY"
        )
    if not forced:
        report.problems.append(
            f"does not bind its owner; run ALTER TABLE {table} FORCE ROW LEVEL SECURITY"
        )
    if may_own:
        report.problems.append(
            f"belongs to {owner}, which this role is or can become, and so can switch Row-Level"
            " Security off; serve requests as a role that is no member of it"
        )
    if may_truncate:
        report.problems.append(
            f"can be emptied by this role, of all tenants' rows; run REVOKE TRUNCATE ON {table}"
        )
    report.problems += inspect_policies(connection, cursor, model, table)
    return report


def inspect_policies(connection: Any, cursor: Any, model: Any, table: str) -> Iterator[str]:
    """Yield in what the table's policies differ from the one that the models ask for."""
    cursor.execute(POLICIES, [table])
    policies = {name: rest for name, *rest in cursor.fetchall()}
    ours = policies.pop(POLICY, None)
    for name, (permissive, *_) in policies.items():
        if permissive:
            yield (
                f"has the permissive policy {name}, which adds rows to those of the tenant; drop"
                " it, or make it AS RESTRICTIVE"
            )
    if ours is None:
        yield (
            "has no policy of tenantry; run makemigrations and migrate, and if they have nothing to"
            " do, remove the RLSConstraint and add it again"
        )
        return
    permissive, for_all, using, check = ours
    wanted = expected(connection, cursor, model, table)
    if not (permissive and for_all and using == check == wanted):
        yield (
            f"has a policy {POLICY} that differs from what the models ask for: it is"
            f" {flat(using)!r}, and should be {flat(wanted)!r}; run makemigrations and migrate, and"
            " if they have nothing to do, remove the RLSConstraint and add it again"
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
        predicate = constraint.rules(model, quote, PROBE)[0].using or "true"
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
