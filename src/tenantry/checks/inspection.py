"""Everything that is asked of one database, in order; what fails does not hide the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from django.apps import apps
from django.db import Error, transaction

from ..dependents import is_protected
from ..grants import tables_in
from ..protected import external_column
from ..routing import is_placed
from .admin import inspect_admin, inspect_app
from .bodies import inspect_bodies
from .failures import unchecked
from .findings import Finding
from .foreign import inspect_foreign
from .hanging import inspect_hanging
from .migrations import Migrations
from .options import inspect_preparing, inspect_time_zone
from .owners import inspect_owners
from .powers import inspect_powers, inspect_traps
from .role import exemptions, inspect_role, inspect_unlimited, read_role, subject_of
from .schema import inspect_functions, inspect_publications, inspect_sql_views
from .seal import inspect_seal
from .server import inspect_defaults, inspect_version
from .strangers import inspect_strangers
from .tables import inspect_table
from .triggers import inspect_other_triggers

Check = Callable[[Any], Iterable[Finding]]


def protected_models(connection: Any) -> list[Any]:
    """Return the models whose tables in the database of `connection` are protected."""
    return [
        model
        for model in apps.get_models(include_auto_created=True)
        if (is_protected(model, apps) or external_column(model))
        and not model._meta.proxy
        and is_placed(connection.alias, model)
    ]


def inspect_login(connection: Any) -> list[Finding]:
    """Return why the login role may see every row."""
    options = connection.settings_dict["OPTIONS"]
    return run(connection, "role", lambda cursor: exemptions(read_role(cursor, options)))


def inspect_unbound(connection: Any) -> list[Finding]:
    """Return why code that uses another ENGINE than tenantry's would see every row."""
    subject = f"database {connection.alias!r}"
    engine = connection.settings_dict["ENGINE"]
    return run(connection, subject, partial(inspect_unlimited, subject=subject, engine=engine))


def login(connection: Any) -> str:
    """Return what findings about the login role are about."""
    try:
        with connection.cursor() as cursor:
            return subject_of(read_role(cursor, connection.settings_dict["OPTIONS"]))
    except Error:
        return "role"


def inspect_connection(connection: Any) -> list[Finding]:
    """Return why the database cannot be asked anything."""
    failed = "could not be reached, so nothing in it was checked"
    return run(connection, f"database {connection.alias!r}", lambda cursor: [], failed)


def inspect_database(connection: Any) -> Iterator[Finding]:
    """Yield all that is wrong with the role, the tables, the schema and the server."""
    if unreachable := inspect_connection(connection):
        yield from unreachable
        return
    known: set[str] = set()
    for subject, check in all_checks(connection, known).items():
        found = run(connection, subject, check)
        known.update(each.id for each in found)
        yield from found


def all_checks(connection: Any, known: set[str]) -> dict[str, Check]:
    """Return what to ask, by what it is about; `known` are the ids of what has been found."""
    models = protected_models(connection)
    migrations = Migrations(connection)
    tables = [connection.ops.quote_name(model._meta.db_table) for model in models]
    used = [connection.ops.quote_name(table) for table in tables_in(connection)]
    options = connection.settings_dict["OPTIONS"]
    checks: dict[str, Check] = {
        "role": partial(inspect_role, options=options),
        "app role": inspect_app,
        "admin role": partial(
            inspect_admin, version=connection.pg_version, tables=used, options=options
        ),
        "seal keys": partial(inspect_seal, migrations=migrations, tables=tables),
    }
    for model in models:
        checks[f"table {model._meta.db_table}"] = partial(
            inspect_table,
            connection,
            model=model,
            tables=tables,
            known=known,
            migrations=migrations,
        )
    return checks | {
        "bodies": partial(inspect_bodies, models=models, known=known, migrations=migrations),
        "owners": partial(inspect_owners, tables=tables),
        "dependents": partial(inspect_hanging, connection),
        "strangers": partial(inspect_strangers, connection, tables),
        "powers": inspect_powers,
        "traps": partial(inspect_traps, tables=tables),
        "views": partial(inspect_sql_views, tables=tables),
        "functions": inspect_functions,
        "triggers": partial(inspect_other_triggers, tables=tables),
        "foreign servers": inspect_foreign,
        "publications": partial(inspect_publications, tables=tables),
        "defaults": inspect_defaults,
        "time zone": partial(inspect_time_zone, connection),
        "prepared statements": partial(inspect_preparing, connection),
        "server": lambda cursor: inspect_version(connection.pg_version),
    }


def run(
    connection: Any, subject: str, check: Check, failed: str = "could not be checked"
) -> list[Finding]:
    """Return what `check` finds; that it could not run is a finding too."""
    found: list[Finding] = []
    try:
        with transaction.atomic(using=connection.alias), connection.cursor() as cursor:
            found.extend(check(cursor))
    except Error as error:
        found.append(unchecked(connection, subject, error, failed))
    return found
