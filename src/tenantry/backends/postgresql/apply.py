"""The one writer of GUCs: the text that carries a binding to the server, in the same message.

``SET LOCAL`` and ``set_config(..., true)`` last until the end of the transaction (PostgreSQL
documentation, "SET"; a multi-statement simple Query message is one implicit transaction, "Message
Flow, Multiple Statements in a Simple Query"). An unbound statement carries empty values, because
another client of the same pooler may have left session-level ones behind.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from psycopg import sql

from ...binding import ADMIN, UNBOUND, Binding
from ...conf import forget_with_settings, rls_tenants
from ...policies.predicates import literal
from ...seal import token

# From here on pg_stat_statements normalizes the values of SET (PostgreSQL 18 release notes), so
# that SET LOCAL, which takes no snapshot, does not make one entry per tenant.
SET_IS_NORMALIZED = 180000
# What PostgreSQL calls the role that logged in (PostgreSQL documentation, "SET ROLE").
NO_ROLE = "none"
IMMEDIATE = b"SET CONSTRAINTS ALL IMMEDIATE"
# The default, with which the text of a float is its value; a role or a database may have another.
EXACT_FLOATS = "SET LOCAL extra_float_digits = 1"
READS = frozenset({b"SEL", b"INS", b"UPD", b"DEL", b"WIT"})
MUST_BE_FIRST = frozenset({b"SET", b"BEGIN", b"START", b"LOCK"})


def comment(depth: int) -> bytes:
    """Return the pattern of a comment in signs, with others in it, so many levels deep."""
    within = b"|" + comment(depth - 1) if depth else b""
    return rb"/\*(?:[^*/]++|\*(?!/)|/(?!\*)" + within + rb")*+\*/"


# Any depth is allowed, and nobody writes as many.
COMMENT = comment(8)
# White space and comments. Possessive: much of it with no word after it does not take long.
GAP = rb"(?:\s|--[^\n\r]*+(?:[\n\r]|\Z)|" + COMMENT + rb")*+"
FIRST_WORD = re.compile(GAP + rb"([A-Za-z]+)")
# It runs what was deferred, which reads rows.
SET_CONSTRAINTS = re.compile(GAP + rb"SET" + GAP + rb"CONSTRAINTS\b(?!\.)", re.IGNORECASE)


class Session(NamedTuple):
    """What a binding needs to know of the session that it goes to."""

    # The role that OPTIONS["assume_role"] names, and the name of the database.
    role: str = NO_ROLE
    database: str = ""


LOGGED_IN = Session()


class Prefix(NamedTuple):
    """The text that goes in front of a statement, and how many results it makes."""

    text: bytes
    results: int


def is_secret(binding: Binding) -> bool:
    """Return whether `binding` must not be in the text of a statement, where others may see it.

    Sessions of the same role see it in pg_stat_activity (PostgreSQL documentation, "Viewing
    Statistics"), but no parameters.
    """
    return rls_tenants().sealed and (binding.tenant_id is not None or binding.grant != "")


def prefix(
    binding: Binding, statement: bytes, server_version: int, session: Session = LOGGED_IN
) -> Prefix:
    """Return what carries `binding` in front of `statement`; not for a secret one.

    The text ends with a newline, so that the statement starts on a line of its own. Before
    PostgreSQL 18 it is a SELECT, which must not precede a statement that wants to be the first of
    its transaction (``SET TRANSACTION``, ``BEGIN ISOLATION LEVEL``, and ``LOCK``, after which a
    snapshot is to be taken). These go without a tenant: they read no rows, and what follows them
    in the same string sees none.
    """
    if server_version >= SET_IS_NORMALIZED:
        return _set_local(binding, session.role)
    if must_be_first(statement):
        return _set_local(without_tenant(binding), session.role)
    return _select(binding, session.role)


def binding_query(
    binding: Binding, session: Session = LOGGED_IN, encoding: str = "utf-8"
) -> tuple[bytes, list[bytes]]:
    """Return a statement that applies `binding`, and its parameters, for the extended protocol.

    The `encoding` is the client's, which the server takes them to be in.

    It is a SELECT on every server: in a pipeline without an explicit transaction, SET LOCAL has
    no effect on servers that do not treat it as an implicit transaction block.
    """
    (tenant, value), *others = _parameters(binding, session.role)
    if rls_tenants().sealed:
        value = token(binding, session.database)
    values = [(tenant, value), *others]
    calls = _calls(tuple(name for name, _ in values))
    # For SQL_ASCII the server converts nothing, and psycopg sends it UTF-8, too.
    codec = "utf-8" if encoding == "ascii" else encoding
    return calls, [value.encode(codec) for _, value in values]


def applies_binding(statement: bytes) -> bool:
    """Return whether `statement` is one of :func:`binding_query`, or begins like it."""
    return statement.startswith(b"SELECT pg_catalog.set_config(")


def with_value(expression: str) -> str:
    """Return a query of `expression` where its parameter has the tenant's place.

    What is in FROM comes first. Others may see the value, so it must not be secret.
    """
    name = f"{rls_tenants().guc_prefix}.current_tenant"
    return f"SELECT {expression} FROM pg_catalog.set_config('{name}', %s, true)"  # noqa: S608 - of ours


def with_default(name: str) -> str:
    """Return two statements: the second reads what a session starts with in a parameter.

    What a statement carries hides it.
    """
    return f"SET LOCAL {name} TO DEFAULT; SELECT pg_catalog.current_setting('{name}', true)"


def before_commit(server_version: int, session: Session = LOGGED_IN) -> bytes:
    """Return what goes in front of COMMIT where bindings are sealed.

    COMMIT reads what cursors WITH HOLD have not read yet (PostgreSQL documentation, "DECLARE"). SQL
    that was injected into a statement of somebody else may have declared one, so that it reads as
    nobody. What was deferred comes first, in the binding of the last statement.
    """
    return IMMEDIATE + b";" + prefix(UNBOUND, b"COMMIT", server_version, session).text


def assume(role: str) -> sql.Composed:
    """Return the statement that makes `role`, of OPTIONS, that of a session."""
    return sql.SQL("SET ROLE {}").format(role)


def startup_options(binding: Binding) -> str:
    """Return `binding` as command-line options of a server session, for a client of its own.

    They are session-level, so they are for ``PGOPTIONS`` of a process that serves one binding only.
    """
    escaped = (
        (name, re.sub(r"([\\\s])", r"\\\1", value)) for name, value in _parameters(binding, NO_ROLE)
    )
    return " ".join(f"-c {name}={value}" for name, value in escaped)


def without_tenant(binding: Binding) -> Binding:
    """Return what of `binding` is neither secret nor another text for each tenant.

    That is the admin, and that it is read-only.
    """
    return (ADMIN if binding.is_admin else UNBOUND)._replace(read_only=binding.read_only)


def must_be_first(statement: bytes) -> bool:
    """Return whether `statement` may want to be the first query of its transaction."""
    if statement[:3].upper() in READS or (word := first_word(statement)) not in MUST_BE_FIRST:
        return False
    if word == b"LOCK":
        # Alone it reads no rows.
        return b";" not in statement.rstrip(b"; \n")
    return not SET_CONSTRAINTS.match(statement)


def first_word(statement: bytes) -> bytes:
    """Return the first word of `statement` in upper case, past white space and comments."""
    match = FIRST_WORD.match(statement)
    return match[1].upper() if match else b""


def excerpt(statement: bytes) -> str:
    """Return the beginning of `statement`, as errors show it."""
    return statement.decode(errors="replace")[:60]


@lru_cache(maxsize=16)
def _calls(names: tuple[str, ...]) -> bytes:
    calls = (
        f"pg_catalog.set_config('{name}',${number},true)" for number, name in enumerate(names, 1)
    )
    return f"SELECT {','.join(calls)}".encode()


@lru_cache(maxsize=4096)
def _set_local(binding: Binding, role: str) -> Prefix:
    values = _parameters(binding, role)
    text = "".join(f"SET LOCAL {name}={_string(value)};" for name, value in values)
    return Prefix(f"{text}\n".encode(), len(values))


@lru_cache(maxsize=4096)
def _select(binding: Binding, role: str) -> Prefix:
    values = _parameters(binding, role)
    calls = (f"pg_catalog.set_config('{name}',{_string(value)},true)" for name, value in values)
    return Prefix(f"SELECT {','.join(calls)};\n".encode(), 1)


def _string(value: str) -> str:
    """Return `value` as a string of SQL, of characters that are the same in each encoding."""
    if value.isascii():
        return literal(value)
    escaped = value.replace("\\", "\\\\")
    return "E" + literal("".join(c if c.isascii() else f"\\U{ord(c):08x}" for c in escaped))


def _parameters(binding: Binding, role: str) -> list[tuple[str, str]]:
    """Return the names and values of the parameters that carry `binding`, the tenant's first.

    But for the last they are always the same ones, so that none is left from somebody else. Tenant
    ids hold no quote and no backslash (keys.py); the values are quoted all the same.
    """
    settings = rls_tenants()
    tenant_id = "" if binding.tenant_id is None else str(binding.tenant_id)
    values = [(f"{settings.guc_prefix}.current_tenant", tenant_id)]
    if settings.admin_role is None and not settings.sealed:
        values.append((f"{settings.guc_prefix}.is_admin", "true" if binding.is_admin else "false"))
    elif settings.admin_role is not None:
        # A tenant's statement after one of the admin, in one transaction, puts the role back.
        values.append(("role", settings.admin_role if binding.is_admin else role))
    if settings.bypass_flags and not settings.sealed:
        values.append((f"{settings.guc_prefix}.bypass", binding.bypass or ""))
    if binding.read_only:
        # SQL can take it back before the first query only (PostgreSQL documentation, "SET
        # TRANSACTION"): it is for code that writes by mistake.
        values.append(("transaction_read_only", "on"))
    return values


forget_with_settings("tenantry.apply.forget", _set_local.cache_clear, _select.cache_clear)
