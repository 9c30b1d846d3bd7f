"""Databases of another ENGINE, where protected models are not migrated.

Django's own schema editor makes the policies of an ``RLSConstraint``, and nothing for what hangs on
its table: that of a child in multi-table inheritance, or of a ``ManyToManyField``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.apps import apps
from django.db import connections
from django.db.migrations.loader import MigrationLoader

from .dependents import is_protected
from .engine import ENGINES, is_bound
from .exceptions import RLSConfigurationError
from .routing import declaring, is_migrated


def stay_away(
    sender: Any, using: str, plan: Iterable[tuple[Any, bool]] = (), **kwargs: Any
) -> None:
    """Raise RLSConfigurationError if protected models would be migrated; ``migrate`` calls it."""
    connection: Any = connections[using]
    if connection.vendor != "postgresql" or is_bound(connection):
        return
    labels = {migration.app_label for migration, _ in plan}
    if found := sorted({model._meta.label for model in concerned(connection, labels)}):
        raise RLSConfigurationError(
            f"the database {using!r} has the ENGINE {connection.settings_dict['ENGINE']!r}, which"
            " does not inherit from tenantry's, and would leave tables of protected models without"
            f" policies; migrate {', '.join(found)} through an alias with the ENGINE"
            f" {ENGINES[0]!r}, or keep them from this one by allow_migrate() in DATABASE_ROUTERS"
        )


def concerned(connection: Any, labels: set[str]) -> Iterator[Any]:
    """Yield the protected models of apps that are migrated, and of new ones without migrations."""
    unmigrated = MigrationLoader(None, ignore_no_migrations=True).unmigrated_apps
    tables = connection.introspection.table_names()
    for model in apps.get_models(include_auto_created=True):
        label = declaring(model)._meta.app_label
        is_new = label in unmigrated and model._meta.db_table not in tables
        is_made = (label in labels or is_new) and is_migrated(connection, model)
        if is_made and is_protected(model, apps):
            yield declaring(model)
