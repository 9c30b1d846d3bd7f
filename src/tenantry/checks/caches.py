"""Caches whose keys are those of tenants."""

from __future__ import annotations

from collections.abc import Iterator

from ..conf import cache_of_sessions
from ..contrib.cache import make_key
from .findings import Finding

KEY_FUNCTION = "tenantry.contrib.cache.make_key"


def inspect_caches() -> Iterator[Finding]:
    """Yield a finding where sessions are kept by tenant: they are loaded before it is known."""
    alias, key_function = cache_of_sessions()
    # Django takes a dotted path or the function itself.
    if key_function in (KEY_FUNCTION, make_key):
        yield Finding(
            "tenantry.W171",
            f"cache {alias!r}",
            "has the sessions, and the KEY_FUNCTION of tenants, so that a session is not found"
            " again once its tenant is known",
            "add a cache without KEY_FUNCTION, and name it in SESSION_CACHE_ALIAS",
        )
