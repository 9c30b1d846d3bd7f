"""The seal of a binding: what the application signs, and the database verifies.

``policies/seal.py`` says what a token looks like.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from time import time
from typing import Any, NamedTuple

from .binding import UNBOUND, Binding, running_as
from .conf import forget_with_settings, rls_tenants
from .policies.seal import KEYS, replace_keys

BLOCK = 64  # bytes, of SHA-256


class SealKey(NamedTuple):
    """A key as the database knows it: a name for it, and the two pads of RFC 2104."""

    name: str
    inside: bytes
    outside: bytes


@lru_cache(maxsize=16)
def seal_key(secret: str) -> SealKey:
    """Return the key that is made from a secret of the settings."""
    key = hashlib.sha256(b"tenantry seal key\0" + secret.encode()).digest().ljust(BLOCK, b"\0")
    name = hashlib.sha256(b"tenantry seal name\0" + secret.encode()).hexdigest()[:16]
    return SealKey(name, bytes(b ^ 0x36 for b in key), bytes(b ^ 0x5C for b in key))


def seal_keys() -> list[SealKey]:
    """Return the keys of the settings; the first one signs."""
    return [seal_key(secret) for secret in rls_tenants().seal_keys]


def owns_keys(cursor: Any) -> bool:
    """Return whether this role owns the table of keys of a database."""
    cursor.execute(
        "SELECT FROM pg_class WHERE oid = to_regclass(%s) AND pg_has_role(relowner, 'USAGE')",
        [KEYS],
    )
    return cursor.fetchone() is not None


def send_seal_keys(connection: Any) -> None:
    """Make the keys of the settings those of a database, if this role owns its table of keys."""
    # In a scope, too: it is several statements, which cannot carry a sealed tenant.
    with running_as(UNBOUND), connection.cursor() as cursor:
        if owns_keys(cursor):
            # Merged on the client.
            cursor.execute(replace_keys(seal_keys()))


def token(binding: Binding, database: str) -> str:
    """Return what carries `binding` to a database of that name; empty when unbound.

    It is good for at least half of ``SEAL_LIFETIME``.
    """
    if binding.tenant_id is None and not binding.grant:
        return ""
    half = rls_tenants().seal_lifetime / 2
    return sign(binding, database, int((time() // half + 2) * half))


@lru_cache(maxsize=4096)
def sign(binding: Binding, database: str, expiry: int, key: SealKey | None = None) -> str:
    """Return a token that is good until `expiry`, in seconds since 1970.

    The `key` is the one that signs, if it is left out.
    """
    key = key or seal_keys()[0]
    tenant = "" if binding.tenant_id is None else str(binding.tenant_id)
    size = len(database.encode())
    signed = f"{key.name}:{expiry}:{binding.grant}:{size}:{database}:{tenant}".encode()
    inner = hashlib.sha256(key.inside + signed).digest()
    signature = hashlib.sha256(key.outside + inner).hexdigest()
    return f"1:{key.name}:{expiry}:{binding.grant}:{signature}:{tenant}"


forget_with_settings("tenantry.seal.forget", sign.cache_clear)
