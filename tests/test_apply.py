"""The text that carries a binding, by server version and by what it goes in front of."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import pytest

from tenantry.backends.postgresql.apply import (
    Session,
    binding_query,
    first_word,
    must_be_first,
    prefix,
)
from tenantry.binding import ADMIN, UNBOUND, Binding

OLD, NEW = 170005, 180000


@pytest.mark.guc_shape
@pytest.mark.parametrize(
    ("binding", "tenant", "admin"),
    [
        (Binding(42), "42", "false"),
        (Binding("o'brien"), "o''brien", "false"),
        (Binding(UUID(int=1)), "00000000-0000-0000-0000-000000000001", "false"),
        (ADMIN, "", "true"),
        (UNBOUND, "", "false"),
    ],
)
def test_both_values_are_always_sent(binding: Binding, tenant: str, admin: str) -> None:
    new = prefix(binding, b"SELECT 1", NEW)
    assert new.text.decode() == (
        f"SET LOCAL rls.current_tenant='{tenant}';SET LOCAL rls.is_admin='{admin}';\n"
    )
    assert new.results == 2
    old = prefix(binding, b"SELECT 1", OLD)
    assert old.text.decode() == (
        f"SELECT pg_catalog.set_config('rls.current_tenant','{tenant}',true),"
        f"pg_catalog.set_config('rls.is_admin','{admin}',true);\n"
    )
    assert old.results == 1
    statement, values = binding_query(binding)
    assert statement.count(b"$") == 2
    assert values == [tenant.replace("''", "'").encode(), admin.encode()]


@pytest.mark.parametrize(
    "statement",
    [
        b"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE",
        b"  begin isolation level repeatable read",
        b"-- first\nSTART TRANSACTION READ ONLY",
        b"/* a */ /* b */ Set x = 1",
    ],
)
def test_what_wants_to_be_first_goes_behind_no_query_and_unbound(statement: bytes) -> None:
    assert prefix(Binding(42), statement, OLD) == prefix(UNBOUND, statement, NEW)
    assert b"42" in prefix(Binding(42), statement, NEW).text


def test_what_wants_to_be_first_is_as_read_only() -> None:
    for binding in (Binding(42, read_only=True), ADMIN._replace(read_only=True)):
        text = prefix(binding, b"SET x = 1", OLD).text
        assert b"SET LOCAL transaction_read_only='on'" in text
        assert b"42" not in text


@pytest.mark.parametrize(
    ("statement", "first"),
    [
        (b"LOCK TABLE t", True),
        (b"/* a */ lock t;\n", True),
        # What follows reads rows, for which the tenant has to be bound.
        (b"LOCK TABLE t; SELECT max(n) FROM t", False),
        # It runs the triggers that were deferred.
        (b"SET CONSTRAINTS ALL IMMEDIATE", False),
        (b"set /* a */\n constraints c deferred", False),
        (b"set /* /* a */ */ constraints c deferred", False),
        (b"SET constraints.x = 1", True),
        (b"SELECT 1", False),
    ],
)
def test_what_wants_to_be_first_reads_no_rows(statement: bytes, first: bool) -> None:
    assert must_be_first(statement) == first


def test_the_admin_locks_as_its_role(settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "ADMIN_ROLE": "boss"}
    statement = b"LOCK TABLE t"
    for version in (OLD, NEW):
        assert b"SET LOCAL role='boss'" in prefix(ADMIN, statement, version).text
    assert b"SET LOCAL role='none'" in prefix(Binding(42), statement, OLD).text
    assert b"42" not in prefix(Binding(42), statement, OLD).text


@pytest.mark.parametrize(
    ("statement", "word"),
    [
        (b"vacuum t", b"VACUUM"),
        (b"-- only a comment", b""),
        (b"", b""),
        (b"(SELECT 1)", b""),
        (b"/* unfinished", b""),
        (b"\n\t--x\n--y\nDrop INDEX i", b"DROP"),
        (b"/* /* */ */ call p()", b"CALL"),
        (b"/*" * 9 + b"*/" * 9 + b"DO 'x'", b"DO"),
        (b"/* a ** / /*/ b /***/ */ * */ FETCH c", b"FETCH"),
        (b"/* /* */ SELECT 1", b""),
        (b"/*" * 10_000 + b"*/" * 10_000 + b"SELECT 1", b""),
    ],
)
def test_the_first_word_is_found_past_comments(statement: bytes, word: bytes) -> None:
    assert first_word(statement) == word


def test_the_prefix_of_the_names_is_a_setting(settings: Any) -> None:
    assert b"rls." in prefix(UNBOUND, b"", NEW).text
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "GUC_PREFIX": "mine"}
    for text in (prefix(UNBOUND, b"", NEW).text, prefix(UNBOUND, b"", OLD).text):
        assert b"mine.current_tenant" in text
        assert b"rls." not in text


@pytest.mark.parametrize(
    ("binding", "assumed", "tenant", "role"),
    [
        (Binding(42), "none", "42", "none"),
        (Binding(42), "web", "42", "web"),
        (ADMIN, "web", "", "boss"),
        (UNBOUND, "none", "", "none"),
    ],
)
def test_where_the_admin_is_a_role_it_is_always_sent(
    binding: Binding, assumed: str, tenant: str, role: str, settings: Any
) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "ADMIN_ROLE": "boss"}
    assert prefix(binding, b"SELECT 1", NEW, Session(assumed)).text.decode() == (
        f"SET LOCAL rls.current_tenant='{tenant}';SET LOCAL role='{role}';\n"
    )
    assert prefix(binding, b"SELECT 1", OLD, Session(assumed)).text.decode() == (
        f"SELECT pg_catalog.set_config('rls.current_tenant','{tenant}',true),"
        f"pg_catalog.set_config('role','{role}',true);\n"
    )
    assert binding_query(binding, Session(assumed))[1] == [tenant.encode(), role.encode()]
