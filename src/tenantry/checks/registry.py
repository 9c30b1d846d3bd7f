"""Django's system checks: the same findings as ``check_rls`` has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from django.apps import AppConfig, apps
from django.core import checks
from django.db import connections

from ..conf import is_debug
from ..engine import is_bound
from .caches import inspect_caches
from .findings import Finding
from .inspection import inspect_database, inspect_login, inspect_unbound
from .labels import inspect_labels
from .models import inspect_models
from .options import inspect_options
from .requests import inspect_requests
from .shards import inspect_shards
from .views import inspect_views


def our_databases(aliases: Sequence[str] | None) -> Iterator[Any]:
    """Yield the connections that are bound among `aliases`, or among all."""
    for alias in connections if aliases is None else aliases:
        connection: Any = connections[alias]
        if is_bound(connection):
            yield connection


def unbound_databases(aliases: Sequence[str] | None) -> Iterator[Any]:
    """Yield the connections among those that lead to a database of ours past our ENGINE."""
    ours = {connection.settings_dict["NAME"] for connection in our_databases(None)}
    for alias in connections if aliases is None else aliases:
        connection: Any = connections[alias]
        is_other = connection.vendor == "postgresql" and not is_bound(connection)
        if is_other and connection.settings_dict["NAME"] in ours:
            yield connection


def check_models(
    *, app_configs: Sequence[AppConfig] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Find what is wrong with models."""
    configs = apps.get_app_configs() if app_configs is None else app_configs
    models = [model for config in configs for model in config.get_models(include_auto_created=True)]
    return [each.message_for_django(as_error=True) for each in inspect_models(models)]


def check_project(
    inspect: Callable[[], Iterable[Finding]], **kwargs: Any
) -> list[checks.CheckMessage]:
    """Find what `inspect` does, which is about no app or database in particular."""
    return [each.message_for_django(as_error=True) for each in inspect()]


check_labels = partial(check_project, inspect_labels)
check_views = partial(check_project, inspect_views)
check_requests = partial(check_project, inspect_requests)
check_shards = partial(check_project, inspect_shards)
check_caches = partial(check_project, inspect_caches)


def check_options(
    *, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Find what is wrong with ``DATABASES``."""
    return [
        each.message_for_django(as_error=True)
        for connection in our_databases(databases)
        for each in inspect_options(connection.alias, connection.settings_dict)
    ]


def check_login(
    *, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Find roles that no policy binds: an error where requests are served, DEBUG being off."""
    found = []
    for inspect, asked in (
        (inspect_login, our_databases(databases)),
        (inspect_unbound, unbound_databases(databases)),
    ):
        for connection in asked:
            was_open = connection.connection is not None
            for each in inspect(connection):
                # Django warns itself of a database that cannot be reached, where one is needed.
                as_error = each.id != "tenantry.E190" and not is_debug()
                found.append(each.message_for_django(as_error=as_error))
            if not was_open:
                connection.close()
    return found


def check_database(
    *, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """Find what is wrong in a database, as warnings: migrate runs this, and may mend it.

    What it is surely about to mend is not reported, nor what was reported at the start.
    """
    messages = []
    for connection in our_databases(databases or []):
        found = list(inspect_database(connection))
        told = inspect_login(connection) if found else []
        messages += [
            each.message_for_django(as_error=False)
            for each in found
            if each not in told and not each.awaited
        ]
    return messages


def register() -> None:
    """Tell Django of the checks."""
    checks.register(check_models, checks.Tags.models)
    checks.register(check_labels, checks.Tags.models)
    checks.register(check_options, checks.Tags.security)
    checks.register(check_views, checks.Tags.urls)
    checks.register(check_requests, checks.Tags.security)
    checks.register(check_shards, checks.Tags.models)
    checks.register(check_caches, checks.Tags.caches)
    checks.register(check_login, checks.Tags.security)
    checks.register(check_database, checks.Tags.database)
