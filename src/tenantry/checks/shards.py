"""Tenants that are spread over servers: whether the router and the setting go together."""

from __future__ import annotations

from collections.abc import Iterator

from django.db import router

from ..conf import rls_tenants
from ..exceptions import RLSConfigurationError
from ..routers import ShardRouter, shard_function
from .findings import Finding


def inspect_shards() -> Iterator[Finding]:
    """Yield what keeps the rows of tenants from where ``SHARD_OF`` says that they are."""
    if any(isinstance(each, ShardRouter) for each in router.routers):
        try:
            shard_function()
        except RLSConfigurationError as error:
            yield Finding(
                "tenantry.E191",
                "DATABASE_ROUTERS",
                f"has a ShardRouter that cannot tell where a tenant's rows are: {error}",
                "correct what the message names",
            )
    elif rls_tenants().shard_of is not None:
        yield Finding(
            "tenantry.E191",
            "RLS_TENANTS['SHARD_OF']",
            "is asked by no router, so that all tenants use the default database",
            "put 'tenantry.routers.ShardRouter' into DATABASE_ROUTERS",
        )
