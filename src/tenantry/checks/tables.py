"""Protected tables: their flags, their owner and what the role may do to them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from typing import Any

from django.apps import apps
from django.core.checks import CheckMessage
from django.core.exceptions import FieldDoesNotExist
from django.db import Error, transaction

from ..declared import constraints_of
from ..dependents import concrete_target, protecting_links
from .columns import inspect_columns
from .deletion import inspect_actions
from .failures import is_missing, unchecked
from .findings import Finding
from .migrations import Migrations
from .models import has_other_key
from .policies import inspect_policies, inspect_relatives_policies
from .privileges import belonging, inspect_privileges
from .reach import UNLIMITED, reached
from .relatives import Relative, inspect_relative, relatives_of
from .samekeys import inspect_same_tenant
from .triggers import inspect_rules, inspect_triggers

# With these, the policies that the models ask for cannot be made, to be compared with the table's.
NO_POLICIES = {"tenantry.E104", "tenantry.E107", "tenantry.E108", "tenantry.E109"}
# What a migration that makes the policies of a table mends of it.
MENDED = {"tenantry.E111", "tenantry.E112", "tenantry.E114", "tenantry.E115"}

TABLE = f"""\
SELECT oid, relrowsecurity, relforcerowsecurity, pg_get_userbyid(relowner),
  pg_has_role(session_user, relowner, 'MEMBER'), {UNLIMITED}
FROM pg_class c WHERE oid = to_regclass(%(table)s)"""  # noqa: S608 - a constant


def inspect_table(
    connection: Any,
    cursor: Any,
    model: Any,
    tables: list[str],
    known: Collection[str],
    migrations: Migrations,
) -> Iterator[Finding]:
    """Yield a finding for each way in which the table of `model` is not what the models say.

    `tables` are those of all protected models, quoted. What follows from findings whose ids are
    `known` is left out.
    """
    table = connection.ops.quote_name(model._meta.db_table)
    subject = f"table {model._meta.db_table}"
    roles = reached(cursor)
    cursor.execute(TABLE, {"table": table, "roles": roles})
    found = cursor.fetchone()
    if found is None:
        yield migrations.missing_table(model)
        return
    oid, enabled, forced, owner, may_own, *privileges = found
    yield from awaited(inspect_flags(table, subject, enabled, forced), model, migrations)
    # A superuser may be anybody, and an owner has every privilege, which nobody has granted.
    if not may_own:
        yield from inspect_privileges(table, subject, *privileges)
    elif "tenantry.E101" not in known:
        yield belonging(subject, owner)
    yield from inspect_rules(cursor, subject, oid)
    yield from inspect_triggers(cursor, subject, oid)
    yield from inspect_same_tenant(connection, cursor, model, migrations)
    yield from inspect_columns(connection, cursor, model, oid, migrations)
    yield from inspect_actions(cursor, model, table, tables, roles)
    relatives = relatives_of(cursor, oid, tables, roles)
    for each in relatives:
        yield from inspect_relative(cursor, model, each, known)
    if not NO_POLICIES.intersection(known):
        shown = [] if "tenantry.E101" in known else [each for each in relatives if each.is_shown]
        yield from inspect_comparable(connection, cursor, model, shown, migrations)


def inspect_comparable(
    connection: Any, cursor: Any, model: Any, relatives: Iterable[Relative], migrations: Migrations
) -> Iterator[Finding]:
    """Yield findings about policies that differ, or cannot be compared because of their model."""
    subject = f"table {model._meta.db_table}"
    try:
        # So that more can be asked after an error.
        with transaction.atomic(using=connection.alias):
            yield from awaited(inspect_policies(connection, cursor, model), model, migrations)
            for each in relatives:
                yield from inspect_relatives_policies(connection, cursor, model, each)
    except Error as error:
        if has_other_key(model):
            return
        if not is_missing(error):
            raise
        yield unchecked(connection, subject, error, awaited=migrations.protects(model))
    except (AttributeError, FieldDoesNotExist) as error:
        # Django's own checks of models say more, if nothing here is raised.
        reasons = [(each.msg, each.hint) for each in problems_of(model)]
        for reason, hint in reasons or [(str(error), "see what manage.py check says of it")]:
            yield Finding(
                "tenantry.E190",
                subject,
                f"could not be compared with its model: {reason.rstrip('.')}",
                f"correct the model: {str(hint).rstrip('.')}",
            )


def awaited(found: Iterable[Finding], model: Any, migrations: Migrations) -> Iterator[Finding]:
    """Yield what was found of the table of `model`, awaited if a migration is about to mend it."""
    for each in found:
        yield replace(each, awaited=each.id in MENDED and migrations.protects(model))


def problems_of(model: Any) -> Iterator[CheckMessage]:
    """Yield what is wrong with the constraints that the policies of `model` are made of."""
    for constraint in constraints_of(model):
        yield from constraint.problems(model)
    for link in protecting_links(model, apps):
        yield from problems_of(concrete_target(link, apps))


def inspect_flags(table: str, subject: str, enabled: bool, forced: bool) -> Iterator[Finding]:
    """Yield a finding if policies are switched off, or do not bind the owner of the table."""
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
