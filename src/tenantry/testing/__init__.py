"""What tests of a project say about its tenants.

Run them as the role that serves requests: a superuser, whom no policy binds, proves nothing.
"""

from __future__ import annotations

from .assertions import (
    assert_rls_blocks_without_context,
    assert_rls_enabled,
    assert_rls_policy_exists,
)
from .cases import TenantTestCase, TenantTransactionTestCase, create_tenant
from .roles import as_owner, assert_role_is_bound
from .scopes import rls_as_tenant, rls_bypass
from .wire import Wire, assert_sql

__all__ = [
    "TenantTestCase",
    "TenantTransactionTestCase",
    "Wire",
    "as_owner",
    "assert_rls_blocks_without_context",
    "assert_rls_enabled",
    "assert_rls_policy_exists",
    "assert_role_is_bound",
    "assert_sql",
    "create_tenant",
    "rls_as_tenant",
    "rls_bypass",
]
