"""Cache keys of a tenant's own, for ``CACHES``.

::

    CACHES = {
        "default": {
            "BACKEND": "django.core.cache.backends.redis.RedisCache",
            "LOCATION": "redis://127.0.0.1:6379",
            "KEY_FUNCTION": "tenantry.contrib.cache.make_key",
        },
    }
"""

from __future__ import annotations

from ..binding import Binding, current_binding
from ..naming import name_of


class SharedKey(str):
    """A key that :func:`shared` made."""

    __slots__ = ()


def make_key(key: str, key_prefix: str, version: int | str) -> str:
    """Return the key as the cache has it; a ``KEY_FUNCTION`` of ``CACHES``.

    Each tenant has keys of its own, and so have the admin and nobody: what is cached in one
    binding is not found in another. Not for a cache of sessions, which are loaded before the
    tenant is known: those that a view deletes would stay valid.
    """
    whose = "shared" if isinstance(key, SharedKey) else namespace(current_binding())
    return f"{key_prefix}:{version}:{whose}:{key}"


def shared(key: str) -> SharedKey:
    """Return a key whose value every tenant finds: ``cache.get(shared("rates"))``.

    Not for what a query of a protected model has returned.
    """
    return SharedKey(key)


def namespace(binding: Binding) -> str:
    """Return what stands in front of the keys of a binding; it has no colon."""
    if binding.tenant_id is not None:
        return f"tenant={name_of(binding.tenant_id)}"
    if binding.bypass is not None:
        # A flag may be called as what is shared, or as nobody.
        return f"bypass={binding.bypass}"
    return binding.grant or "nobody"
