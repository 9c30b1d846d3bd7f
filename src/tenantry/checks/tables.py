"""Protected tables: their flags, their owner and what the role may do to them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage
from django.core.exceptions import FieldDoesNotExist
from django.db import Error

from ..conf import rls_tenants
from ..constraints import RLSConstraint
from ..dependents import owner_of, owners
from .exempt import EXEMPT, exempt_admin
from .findings import Finding
from .migrations import Migrations
from .models import has_other_key
from .policies import inspect_policies

# With these, the policies that the models ask for cannot be made, to be compared with the table's.
NO_POLICIES = {"tenantry.E104", "tenantry.E107", "tenantry.E108", "tenantry.E109"}

TABLE = """\
SELECT oid, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner),
  pg_has_role(session_user, relowner, 'MEMBER'),
  has_table_privilege(current_user, oid, 'TRUNCATE'),
  has_any_column_privilege(current_user, oid, 'REFERENCES'),
  has_table_privilege(current_user, oid, 'TRIGGER')
FROM pg_class WHERE oid = to_regclass(%s)"""

CHILDREN = """\
WITH RECURSIVE child(oid) AS (
  SELECT inhrelid FROM pg_inherits WHERE inhparent = %(table)s
  UNION
  SELECT inhrelid FROM child JOIN pg_inherits ON inhparent = child.oid
)
SELECT oid::regclass::text FROM child JOIN pg_class USING (oid)
WHERE NOT relrowsecurity
  AND NOT (pg_has_role(session_user, relowner, 'MEMBER')
    AND relowner = (SELECT relowner FROM pg_class WHERE oid = %(table)s))
  AND (has_any_column_privilege(current_user, oid, 'SELECT, INSERT, UPDATE')
    OR has_table_privilege(current_user, oid, 'DELETE'))
ORDER BY 1"""

RULES = """\
SELECT rulename::text FROM pg_rewrite
WHERE ev_class = %(table)s AND rulename <> '_RETURN' ORDER BY 1"""

TRIGGERS = f"""\
SELECT tgname::text, p.oid::regprocedure::text, rolname::text
FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid JOIN pg_roles o ON o.oid = proowner
WHERE tgrelid = %(table)s AND NOT tgisinternal AND prosecdef AND {EXEMPT}
ORDER BY 1"""  # noqa: S608 - a constant


def inspect_table(
    connection: Any, cursor: Any, model: Any, known: Collection[str], migrations: Migrations
) -> Iterator[Finding]:
    """Yield in what the table of `model` differs from what the models say.

    What follows from findings whose ids are `known` is left out.
    """
    table = connection.ops.quote_name(model._meta.db_table)
    subject = f"table {model._meta.db_table}"
    cursor.execute(TABLE, [table])
    found = cursor.fetchone()
    if found is None:
        yield migrations.missing_table(model)
        return
    oid, enabled, forced, owner, may_own, *privileges = found
    yield from inspect_flags(table, subject, enabled, forced)
    # A superuser may be anybody, and an owner has every privilege, which nobody has granted.
    if not may_own:
        yield from inspect_privileges(table, subject, *privileges)
    elif "tenantry.E101" not in known:
        yield Finding(
            "tenantry.E113",
            subject,
            f"belongs to {owner}, which this role is or can become, and so can switch Row-Level"
            " Security off",
            "serve requests as a role that is no member of it, and let only migrations run as this",
        )
    yield from inspect_surroundings(cursor, subject, oid)
    if not NO_POLICIES.intersection(known):
        yield from inspect_comparable(connection, cursor, model)


def inspect_comparable(connection: Any, cursor: Any, model: Any) -> Iterator[Finding]:
    """Yield how policies differ, or why the models ask for none that PostgreSQL takes."""
    try:
        yield from inspect_policies(connection, cursor, model)
    except Error:
        if not has_other_key(model):
            raise
    except (AttributeError, FieldDoesNotExist) as error:
        # Django's own checks of models say more, if nothing here is raised.
        reasons = [(each.msg, each.hint) for each in problems_of(model)]
        for reason, hint in reasons or [(str(error), "see what manage.py check says of it")]:
            yield Finding(
                "tenantry.E190",
                f"table {model._meta.db_table}",
                f"could not be compared with its model: {reason.rstrip('.')}",
                f"correct the model: {str(hint).rstrip('.')}",
            )


def problems_of(model: Any) -> Iterator[CheckMessage]:
    """Yield what is wrong with the constraints that the policies of `model` are made of."""
    for constraint in model._meta.constraints:
        if isinstance(constraint, RLSConstraint):
            yield from constraint.problems(model)
    for link in owners(model, apps):
        yield from problems_of(owner_of(link, apps))


def inspect_flags(table: str, subject: str, enabled: bool, forced: bool) -> Iterator[Finding]:
    """Yield whom the policies of a table do not bind."""
    if not enabled:
        yield Finding(
            "tenantry.E111",
            subject,
            "has Row-Level Security switched off",
            f"run ALTER TABLE {table} ENABLE ROW LEVEL SECURITY",
        )
    if not forced:
        yield Finding(
            "tenantry.E112",
            subject,
            "does not bind its owner",
            f"run ALTER TABLE {table} FORCE ROW LEVEL SECURITY",
        )


def inspect_privileges(
    table: str, subject: str, may_truncate: bool, may_refer: bool, may_trigger: bool
) -> Iterator[Finding]:
    """Yield privileges of the role that policies do not limit."""
    if may_truncate:
        yield Finding(
            "tenantry.E117",
            subject,
            "can be emptied by this role, of all tenants' rows",
            f"run REVOKE TRUNCATE ON {table} FROM the role that was granted it",
        )
    if may_refer:
        yield Finding(
            "tenantry.W111",
            subject,
            "can be referred to by tables of this role, which shows which keys other tenants have",
            f"run REVOKE REFERENCES ON {table} FROM the role that was granted it",
        )
    if may_trigger:
        yield Finding(
            "tenantry.W112",
            subject,
            "can be given triggers by this role, which see other tenants' rows as they are written",
            f"run REVOKE TRIGGER ON {table} FROM the role that was granted it",
        )


def inspect_surroundings(cursor: Any, subject: str, oid: int) -> Iterator[Finding]:
    """Yield partitions, rules and triggers by which rows get past the policy."""
    cursor.execute(CHILDREN, {"table": oid})
    for (child,) in cursor.fetchall():
        yield Finding(
            "tenantry.E118",
            subject,
            f"has the partition or child {child}, which this role may use and no policy guards",
            f"run REVOKE ALL ON {child} FROM PUBLIC and the role, or ALTER TABLE {child} ENABLE ROW"
            " LEVEL SECURITY",
        )
    cursor.execute(RULES, {"table": oid})
    for (rule,) in cursor.fetchall():
        yield Finding(
            "tenantry.W113",
            subject,
            f"has the rule {rule}, whose statements run with the rights of the owner",
            "drop it, or write a trigger",
        )
    # The policy of an admin who is a role is none for a function's owner whom policies bind.
    of_another = "" if rls_tenants().admin_role else ", or give it to another owner"
    cursor.execute(TRIGGERS, {"table": oid, "admin": exempt_admin()})
    for trigger, function, owner in cursor.fetchall():
        yield Finding(
            "tenantry.W114",
            subject,
            f"has the trigger {trigger}, whose function {function} runs as {owner}, whom no policy"
            " binds",
            f"run ALTER FUNCTION {function} SECURITY INVOKER{of_another}",
        )
