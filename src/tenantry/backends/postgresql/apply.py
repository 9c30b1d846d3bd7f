"""The one writer of GUCs: the text that carries a binding to the server, in the same message.

``SET LOCAL`` and ``set_config(..., true)`` last until the end of the transaction (PostgreSQL
documentation, "SET"; a multi-statement simple Query message is one implicit transaction, "Message
Flow, Multiple Statements in a Simple Query"). An unbound statement carries empty values, because
another client of the same pooler may have left session-level ones behind.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from django.core.signals import setting_changed

from ...binding import UNBOUND, Binding
from ...conf import rls_tenants

# From here on pg_stat_statements normalizes the values of SET (PostgreSQL 18 release notes), so
# that SET LOCAL, which takes no snapshot, does not make one entry per tenant.
SET_IS_NORMALIZED = 180000
READS = frozenset({b"SEL", b"INS", b"UPD", b"DEL", b"WIT"})
MUST_BE_FIRST = frozenset({b"SET", b"BEGIN", b"START"})
FIRST_WORD = re.compile(rb"(?:\s+|--[^\n]*(?:\n|$)|/\*.*?\*/)*([A-Za-z]+)", re.DOTALL)


class Prefix(NamedTuple):
    """Hold the text that goes in front of a statement, and how many results it makes."""

    text: bytes
    results: int


def prefix(binding: Binding, statement: bytes, server_version: int) -> Prefix:
    """Return what carries `binding` in front of `statement`.

    The text ends with a newline, so that the statement starts on a line of its own. Before
    PostgreSQL 18 it is a SELECT, which must not precede a statement that wants to be the first of
    its transaction (``SET TRANSACTION``, ``BEGIN ISOLATION LEVEL``). These go unbound: they read
    no rows, and what follows them in the same string sees none.
    """
    if server_version >= SET_IS_NORMALIZED:
        return _set_local(binding)
    if statement[:3].upper() not in READS and first_word(statement) in MUST_BE_FIRST:
        return _set_local(UNBOUND)
    return _select(binding)


def parameters(binding: Binding) -> tuple[bytes, list[bytes]]:
    """Return a statement that applies `binding`, and its parameters, for the extended protocol.

    It is a SELECT on every server: in a pipeline without an explicit transaction, SET LOCAL has
    no effect on servers that do not treat it as an implicit transaction block.
    """
    tenant, admin = _names()
    text = (
        f"SELECT pg_catalog.set_config('{tenant}',$1,true),pg_catalog.set_config('{admin}',$2,true)"
    )
    return text.encode(), [value.encode() for value in _values(binding)]


def first_word(statement: bytes) -> bytes:
    """Return the first word of `statement` in upper case, past white space and comments."""
    match = FIRST_WORD.match(statement)
    return match[1].upper() if match else b""


@lru_cache(maxsize=4096)
def _set_local(binding: Binding) -> Prefix:
    tenant, admin = _names()
    tenant_id, is_admin = map(_quote, _values(binding))
    return Prefix(f"SET LOCAL {tenant}={tenant_id};SET LOCAL {admin}={is_admin};\n".encode(), 2)


@lru_cache(maxsize=4096)
def _select(binding: Binding) -> Prefix:
    tenant, admin = _names()
    tenant_id, is_admin = map(_quote, _values(binding))
    text = (
        f"SELECT pg_catalog.set_config('{tenant}',{tenant_id},true),"
        f"pg_catalog.set_config('{admin}',{is_admin},true);\n"
    )
    return Prefix(text.encode(), 1)


def _names() -> tuple[str, str]:
    guc_prefix = rls_tenants().guc_prefix
    return f"{guc_prefix}.current_tenant", f"{guc_prefix}.is_admin"


def _values(binding: Binding) -> tuple[str, str]:
    tenant_id = "" if binding.tenant_id is None else str(binding.tenant_id)
    return tenant_id, "true" if binding.is_admin else "false"


def _quote(value: str) -> str:
    # Tenant ids hold no quote and no backslash (keys.py); this is for who changes that.
    return "'" + value.replace("'", "''") + "'"


def _forget(*, setting: str, **kwargs: Any) -> None:
    if setting == "RLS_TENANTS":
        _set_local.cache_clear()
        _select.cache_clear()


setting_changed.connect(_forget, dispatch_uid="tenantry.apply.forget")
