"""What a seal is good for, and who has the keys."""

from __future__ import annotations

import io
from collections.abc import Iterator
from time import time
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connections

from tenantry import RLSConstraint, tenant_context
from tenantry.backends.postgresql.apply import Session, binding_query, prefix
from tenantry.binding import ADMIN, UNBOUND, Binding
from tenantry.exceptions import RLSConfigurationError
from tenantry.seal import sign
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_wire import Wire
from tests.injections import TITLES, client, later

Tenants = tuple[Tenant, Tenant]
sealed_shape = pytest.mark.sealed_shape
SECRET = "a secret that is long enough for a test"


def titles_with(connection: psycopg.Connection[Any], token: str) -> list[str]:
    connection.execute("SELECT set_config('rls.current_tenant', %s, false)", [token])
    return [title for (title,) in connection.execute(TITLES)]


# What a token can be.


@sealed_shape
def test_only_what_is_signed_for_here_and_now_is_a_tenant(tenants: Tenants, postgres: Any) -> None:
    a, b = tenants
    good = sign(Binding(a.pk), "tenantry", later())
    version, name, expiry, grant, signature, _ = good.split(":")
    wrong = {
        "the tenant is not sealed": [
            str(b.pk),
            "true",
            good[:-20],
            f"2{good[1:]}",
            f" {good}",
        ],
        "the seal of the tenant is not valid": [
            f"{version}:{name}:{expiry}:{grant}:{signature}:{b.pk}",
            f"{version}:{name}:{expiry}:admin:{signature}:{a.pk}",
            f"{version}:{name}:{int(expiry) + 1}:{grant}:{signature}:{a.pk}",
            f"{version}:{name}:{expiry}:{grant}:{'0' * 64}:{b.pk}",
            f"{good}0",
            f"{good}:",
            f"{version}:{name}:-1:{grant}:{signature}:{b.pk}",
            f"{version}:{name}:{expiry}:{grant}:{signature.upper()}:{a.pk}",
            f"{version}:{name}:{expiry}:{grant}::{a.pk}",
            good[: good.rindex(":") + 1],
            f"{good}\n",
            sign(Binding(b.pk), "elsewhere", later()),
        ],
        "the seal of the tenant has expired": [sign(Binding(b.pk), "tenantry", int(time()) - 1)],
        "unknown to this database": [
            good.upper(),
            f"{version}:{'0' * 16}:{expiry}:{grant}:{signature}:{b.pk}",
        ],
    }
    with client(postgres) as attacker:
        assert titles_with(attacker, good) == ["A 1", "A 2"]
        assert titles_with(attacker, "") == []
        for message, tokens in wrong.items():
            for token in tokens:
                with pytest.raises(psycopg.errors.InsufficientPrivilege, match=message) as raised:
                    titles_with(attacker, token)
                assert raised.value.diag.message_hint, token


@sealed_shape
def test_a_statement_may_take_longer_than_its_token_is_good_for(
    tenants: Tenants, postgres: Any
) -> None:
    """And a later one of the transaction may not begin with it."""
    expiry = int(time()) + 2
    count = f"""
        DO $$ BEGIN
          WHILE extract(epoch FROM clock_timestamp()) <= {expiry} LOOP
            PERFORM pg_sleep(0.1);
          END LOOP;
          IF (SELECT count(*) FROM app_note) <> 2 THEN RAISE 'other rows'; END IF;
        END $$"""
    with client(postgres) as attacker, attacker.transaction(force_rollback=True):
        token = sign(Binding(tenants[0].pk), "tenantry", expiry)
        attacker.execute("SELECT set_config('rls.current_tenant', %s, true)", [token])
        attacker.execute(count)
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="has expired"):
            attacker.execute(TITLES)


@sealed_shape
@pytest.mark.parametrize("alias", ["default", "wire_server_side"])
def test_many_rows_may_take_longer_than_a_token_is_good_for(
    alias: str, wire: Wire, tenants: Tenants, superuser: psycopg.Connection[Any], monkeypatch: Any
) -> None:
    expiry = int(time()) + 2
    expiries = [expiry, later(), later()]

    def token(binding: Binding, database: str) -> str:
        # The last row finds the one before it still good.
        return sign(binding, database, expiries.pop(0))

    def rows() -> Iterator[list[str]]:
        yield ["first"]
        superuser.execute("SELECT pg_sleep_until(to_timestamp(%s))", [expiry + 0.1])
        # What they run in is what the first did.
        with tenant_context(tenants[1].pk):
            yield ["second"]
            yield ["third"]

    monkeypatch.setattr("tenantry.backends.postgresql.apply.token", token)
    with tenant_context(tenants[0].pk), connections[alias].cursor() as cursor:
        cursor.cursor.executemany("INSERT INTO app_tag (name) VALUES (%s)", rows())
    written = superuser.execute("SELECT name, tenant_id FROM app_tag ORDER BY id").fetchall()
    assert written == [(name, tenants[0].pk) for name in ("first", "second", "third")]


@sealed_shape
def test_a_token_of_another_database_is_refused(
    tenants: Tenants, postgres: Any, superuser: psycopg.Connection[Any]
) -> None:
    superuser.execute("CREATE DATABASE elsewhere TEMPLATE template0")
    try:
        with connections["default"].cursor() as cursor:
            cursor.connection.session = Session(database="elsewhere")
            with tenant_context(tenants[0].pk), pytest.raises(ProgrammingError, match="not valid"):
                cursor.execute(TITLES)
    finally:
        connections["default"].close()
        superuser.execute("DROP DATABASE elsewhere")


def test_a_token_is_signed_anew_before_it_expires(settings: Any, monkeypatch: Any) -> None:
    settings.RLS_TENANTS = {
        "TENANT_MODEL": "app.Tenant",
        "SEALED": True,
        "SEAL_KEYS": [SECRET],
        "SEAL_LIFETIME": 100,
    }
    tokens = {}
    for now in range(1_000_000, 1_000_301):
        monkeypatch.setattr("tenantry.seal.time", lambda now=now: now)
        [token, *_] = binding_query(Binding(1), Session(database="d"))[1]
        expiry = int(token.split(b":")[2])
        assert 50 <= expiry - now <= 100
        tokens[expiry] = token
    assert len(tokens) == len(set(tokens.values())) == 7


def test_the_values_of_a_secret_binding_are_not_in_a_prefix(settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "SEALED": True, "SEAL_KEYS": [SECRET]}
    assert b"is_admin" not in binding_query(ADMIN)[0]
    assert binding_query(UNBOUND)[1] == [b""]
    token = binding_query(ADMIN, Session(database="d"))[1][0].decode()
    assert token.split(":")[3] == "admin"
    # If some path put it into the text all the same, the database would refuse it.
    assert b"'1'" in prefix(Binding(1), b"SELECT", 180000).text


# The keys.


@sealed_shape
def test_nobody_but_the_verifier_reads_the_keys(
    tenants: Tenants, superuser: psycopg.Connection[Any], postgres: Any
) -> None:
    for role in ("app", "app_admin")[: 1 + test_settings.HAS_ADMIN_ROLE]:
        rows = superuser.execute(
            "SELECT has_table_privilege(%s, 'tenantry.seal_keys', 'SELECT, INSERT, UPDATE, DELETE,"
            " TRUNCATE, REFERENCES, TRIGGER')",
            [role],
        ).fetchall()
        assert rows == [(False,)]
    superuser.execute("GRANT ALL ON tenantry.seal_keys TO app, PUBLIC")
    try:
        with client(postgres) as attacker:
            assert attacker.execute("SELECT * FROM tenantry.seal_keys").fetchall() == []
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                attacker.execute("INSERT INTO tenantry.seal_keys VALUES ('x', '', '')")
        call_command("migrate", database="owner", verbosity=0, run_syncdb=True)
        with (
            client(postgres) as attacker,
            pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"),
        ):
            attacker.execute("SELECT * FROM tenantry.seal_keys")
    finally:
        superuser.execute("REVOKE ALL ON tenantry.seal_keys FROM app, PUBLIC")


@pytest.fixture
def rotating(tenants: Tenants) -> Iterator[None]:
    yield
    call_command("migrate", database="owner", verbosity=0, run_syncdb=True)


@sealed_shape
def test_keys_rotate_without_a_gap(tenants: Tenants, rotating: None, settings: Any) -> None:
    a = tenants[0]
    old, new = test_settings.SEAL["SEAL_KEYS"][0], "a new secret, which is long enough"  # type: ignore[index]

    def use(*keys: str) -> None:
        settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "SEAL_KEYS": list(keys)}

    def migrate() -> None:
        call_command("migrate", database="owner", verbosity=0, run_syncdb=True)

    def works() -> bool:
        with tenant_context(a.pk):
            return [note.title for note in Note.objects.all()] == ["A 1", "A 2"]

    for keys in ([old, new], [new, old], [new]):
        use(*keys)
        if keys[0] == old:
            migrate()
        assert works()
    migrate()
    assert works()
    use(old)
    with pytest.raises(ProgrammingError, match="unknown to this database"):
        works()


@sealed_shape
def test_the_verifier_is_pinned(tenants: Tenants) -> None:
    with connections["default"].cursor() as cursor:
        cursor.execute(
            "SELECT prosecdef, provolatile, proparallel, proconfig, pg_get_userbyid(proowner)"
            " FROM pg_proc WHERE oid = 'tenantry.rls_sealed(text)'::regprocedure"
        )
        assert cursor.fetchone() == (True, "s", "s", ["search_path=pg_catalog, pg_temp"], "owner")


# Settings.


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"SEALED": True}, r"\['SEALED'\] needs RLS_TENANTS\['SEAL_KEYS'\], a list of secrets"),
        ({"SEALED": True, "SEAL_KEYS": []}, "needs RLS_TENANTS"),
        ({"SEALED": "yes"}, r"\['SEALED'\] is 'yes'; it must be True or False"),
        (
            {"SEAL_KEYS": "one secret that is long enough"},
            r"\['SEAL_KEYS'\] is '<str>'; it must",
        ),
        ({"SEAL_KEYS": ["short"]}, r"\['SEAL_KEYS'\]\[0\] is <5 characters>; SEAL_KEYS must be"),
        ({"SEAL_KEYS": [SECRET, None]}, r"\['SEAL_KEYS'\]\[1\] is <no str>"),
        ({"SEAL_LIFETIME": 5}, r"\['SEAL_LIFETIME'\] is 5; it must be a number of seconds from 10"),
        ({"SEAL_LIFETIME": True}, r"\['SEAL_LIFETIME'\] is True"),
    ],
)
def test_a_bad_setting_is_refused_without_showing_a_secret(
    given: dict[str, object], message: str, settings: Any
) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", **given}
    with pytest.raises(RLSConfigurationError, match=message) as raised:
        RLSConstraint(field="owner", name="n").deconstruct()
    assert "short" not in str(raised.value)
    assert SECRET not in str(raised.value)


@pytest.mark.guc_shape
def test_sealing_makes_a_migration_without_the_keys(project: None, settings: Any) -> None:
    settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", "SEALED": True, "SEAL_KEYS": [SECRET]}
    output = io.StringIO()
    with pytest.raises(SystemExit):
        call_command("makemigrations", check=True, dry_run=True, stdout=output, verbosity=3)
    assert "sealed=True" in output.getvalue()
    assert SECRET not in output.getvalue()
