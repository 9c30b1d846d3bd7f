"""Strict mode: a query of protected tables needs a scope."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from .conf import rls_tenants
from .exceptions import NoTenantContextError
from .protected import protections
from .routing import declaring


def require_tenant(query: Any, tables: Collection[str], bypass: str | None) -> None:
    """Raise NoTenantContextError if strict mode wants a scope for one of the `tables` of `query`.

    That of a many-to-many relation is excluded with the model that declares it, and a proxy with
    the model whose table it uses.
    """
    settings = rls_tenants()
    # What none() has emptied finds nothing in a scope either, and sends no SQL.
    if not settings.strict_mode or query.is_empty():
        return
    apps = query.model._meta.apps
    known = protections(apps)
    wanted = {
        table
        for table in tables
        if (flags := known.flags(table)) is not None and bypass not in flags
    }
    if not wanted:
        return
    for model in apps.get_models(include_auto_created=True):
        named = declaring(model)._meta
        # A table does not tell whether the query was the proxy's.
        if model._meta.proxy or model._meta.db_table not in wanted:
            continue
        if not {named.label, named.app_label} & set(settings.strict_mode_exclude):
            raise NoTenantContextError(
                f"a query of {model._meta.label} runs in no scope, where it finds nothing; open"
                f" tenant_context() or admin_context() around it, or name {named.label} in"
                " RLS_TENANTS['STRICT_MODE_EXCLUDE']"
            )
