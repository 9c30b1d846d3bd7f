"""Caches whose keys are those of tenants."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import cache_of_sessions
from .findings import Finding

KEY_FUNCTION = "tenantry.contrib.cache.make_key"


def inspect_caches() -> Iterator[Finding]:
    """Yield a finding where sessions are kept by tenant: they are loaded before it is known."""
    alias, key_function = cache_of_sessions()
    if path_of(key_function) == KEY_FUNCTION:
        yield Finding(
            "tenantry.E171",
            f"cache {alias!r}",
            "holds the sessions and uses tenantry's KEY_FUNCTION, so that a session is not found"
            " once its tenant is known: whoever logs out stays logged in",
            "add a cache without KEY_FUNCTION, and name it in SESSION_CACHE_ALIAS",
        )


def path_of(key_function: Any) -> str:
    """Return the dotted path of a ``KEY_FUNCTION``, which may be the function itself."""
    if isinstance(key_function, str):
        return key_function
    names = (getattr(key_function, name, "") for name in ("__module__", "__qualname__"))
    return ".".join(names)
