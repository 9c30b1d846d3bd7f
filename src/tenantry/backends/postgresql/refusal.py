"""``RLS_TENANTS["REFUSE_EXEMPT_ROLE"]``: nothing is served to a role that no policy binds."""

from __future__ import annotations

from typing import Any
from weakref import WeakSet

from ...checks.role import exemptions
from ...conf import rls_tenants
from ...exceptions import RLSConfigurationError

# Pools whose role was asked for: all connections of one are of the same role.
_accepted: WeakSet[Any] = WeakSet()


def is_accepted(pool: Any) -> bool:
    """Return whether the server need not be asked about the role of a new connection."""
    return not rls_tenants().refuse_exempt_role or (pool is not None and pool in _accepted)


def accept(pool: Any) -> None:
    """Remember that the role of a pool, if there is one, is bound by policies."""
    if pool is not None:
        _accepted.add(pool)


def refuse_exempt(alias: str, row: Any) -> None:
    """Raise RLSConfigurationError if the role, as the server describes it, is exempt."""
    if finding := next(exemptions(row), None):
        raise RLSConfigurationError(
            f"the database {alias!r} is refused, because the {finding.subject} {finding.message};"
            f" {finding.fix}, or leave out RLS_TENANTS['REFUSE_EXEMPT_ROLE'] where no requests are"
            " served"
        )
