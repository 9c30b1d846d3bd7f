"""``RLS_TENANTS`` and ``DATABASES``: what each setting may be, and what the errors say."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import models
from django.test import override_settings
from django.test.utils import isolate_apps
from psycopg.pq import Conninfo

from tenantry import tenant_context
from tenantry.backends.postgresql.options import take_own
from tenantry.binding import Binding
from tenantry.conf import RLSTenants, rls_tenants, tenant_key
from tenantry.engine import require_engine
from tenantry.exceptions import InvalidTenantIdError, RLSConfigurationError, TenantryError
from tenantry.keys import TenantKey

pytestmark = pytest.mark.guc_shape

DEFAULTS = RLSTenants(
    tenant_model="app.Tenant",
    tenant_fk_field="tenant",
    guc_prefix="rls",
    tenant_pk_type=None,
    use_local_set=True,
    strict_mode=False,
    strict_mode_exclude=(),
    same_tenant_foreign_keys=False,
    admin_role=None,
    app_role=None,
    sealed=False,
    seal_keys=(),
    seal_lifetime=300,
    bypass_flags=(),
    external_models={},
    read_only_requests=False,
    shared_models=(),
    refuse_exempt_role=False,
    user_param_name="as_user",
    resolvers=("user",),
    audit_log=False,
    trace=False,
    shard_of=None,
)


def tenants(**given: object) -> override_settings:
    return override_settings(RLS_TENANTS={"TENANT_MODEL": "app.Tenant", **given})


def refusal() -> str:
    """Return what the error about the settings says."""
    with pytest.raises(RLSConfigurationError) as raised:
        rls_tenants()
    return str(raised.value)


def test_the_error_is_what_django_reports_at_start_up() -> None:
    assert issubclass(RLSConfigurationError, ImproperlyConfigured)
    assert issubclass(RLSConfigurationError, TenantryError)


def test_only_the_tenant_model_is_required() -> None:
    with tenants():
        assert rls_tenants() == DEFAULTS
        assert tenant_key() == TenantKey("bigint")


@pytest.mark.parametrize(
    ("key", "value", "attribute"),
    [
        ("TENANT_MODEL", "accounts.Customer", "tenant_model"),
        ("TENANT_FK_FIELD", "customer", "tenant_fk_field"),
        ("TENANT_FK_FIELD", "_x1", "tenant_fk_field"),
        ("GUC_PREFIX", "acme_2", "guc_prefix"),
        ("GUC_PREFIX", "_", "guc_prefix"),
        ("GUC_PREFIX", "x" * 31, "guc_prefix"),
        ("TENANT_PK_TYPE", "int", "tenant_pk_type"),
        ("TENANT_PK_TYPE", "bigint", "tenant_pk_type"),
        ("TENANT_PK_TYPE", "uuid", "tenant_pk_type"),
        ("TENANT_PK_TYPE", "text", "tenant_pk_type"),
        ("USE_LOCAL_SET", True, "use_local_set"),
        ("STRICT_MODE", True, "strict_mode"),
        ("STRICT_MODE_EXCLUDE", ["app.Note", "app"], "strict_mode_exclude"),
        ("SAME_TENANT_FOREIGN_KEYS", True, "same_tenant_foreign_keys"),
        ("SHARED_MODELS", ["app.Note"], "shared_models"),
        ("REFUSE_EXEMPT_ROLE", True, "refuse_exempt_role"),
        ("RESOLVERS", ["header", "user"], "resolvers"),
        ("RESOLVERS", ({"NAME": "path", "OPTIONS": {"prefix": "x"}},), "resolvers"),
        ("SHARD_OF", "shop.shards.shard_of", "shard_of"),
        ("SHARD_OF", {1: "default"}.get, "shard_of"),
    ],
)
def test_every_setting_can_be_given(key: str, value: object, attribute: str) -> None:
    with tenants(**{key: value}):
        read = rls_tenants()
    assert getattr(read, attribute) == value
    others = set(RLSTenants.__slots__) - {attribute}
    assert all(getattr(read, name) == getattr(DEFAULTS, name) for name in others)


@pytest.mark.parametrize(
    ("key", "values", "allowed"),
    [
        (
            "TENANT_MODEL",
            [
                None,
                "",
                "Tenant",
                "app.",
                ".Tenant",
                "a.b.C",
                "app Tenant",
                "1.2",
                "app.Tenant\n",
                1,
            ],
            "a model label such as 'accounts.Tenant'",
        ),
        (
            "TENANT_FK_FIELD",
            [None, "", "1", "tenant id", "tenant-id", 'tenant"', "class", "tenant\n", 1],
            "an identifier such as 'tenant'",
        ),
        (
            "TENANT_FK_FIELD",
            ["tenant_", "_", "the__tenant"],
            "a name, such as 'tenant', without two underscores in a row or one at its end",
        ),
        (
            "GUC_PREFIX",
            [
                None,
                "",
                "RLS",
                "Rls",
                "rLs",
                "1a",
                "a.b",
                "a-b",
                "a'b",
                "a b",
                "ä",
                "rls\n",
                "x" * 32,
                1,
            ],
            "at most 31 lower-case letters, digits or underscores, the first of which is not a"
            " digit",
        ),
        (
            "GUC_PREFIX",
            ["user", "order", "all", "left"],
            "a name of your own, such as 'rls': this one is a reserved word of SQL",
        ),
        (
            "TENANT_FK_FIELD",
            ["objects", "Meta", "pk", "save"],
            "a name, such as 'tenant', that Django's models do not use already",
        ),
        (
            "GUC_PREFIX",
            ["plpgsql", "plperl", "pg_stat_statements", "pg_x", "auto_explain"],
            "a name of your own, such as 'rls': PostgreSQL or an extension has reserved this one",
        ),
        (
            "TENANT_PK_TYPE",
            [None, "", "INT", "integer", "uuid ", int, 1],
            "one of int, bigint, uuid, text",
        ),
        (
            "USE_LOCAL_SET",
            [False, None, 1, 0, "True"],
            "True or left out: bindings are always transaction-local, because a session-level one"
            " would reach other tenants behind a transaction pooler",
        ),
        ("STRICT_MODE", [None, 1, 0, "yes"], "True or False"),
        ("SAME_TENANT_FOREIGN_KEYS", [None, 1, 0, "yes"], "True or False"),
        (
            "STRICT_MODE_EXCLUDE",
            [None, "app.Note", [1], ["a.b.c"], ["app."], [""]],
            "a list of model labels such as 'accounts.Invite', or of app labels such as 'accounts'",
        ),
        (
            "SHARD_OF",
            ["", "shard_of", "shop.", "shop.shards.shard_of()", {1: "default"}, 1],
            "a function of a tenant's key, or the dotted path of one: 'shop.shards.shard_of'",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else "",
)
def test_a_wrong_value_is_refused_with_what_is_allowed(
    key: str, values: list[object], allowed: str
) -> None:
    for value in values:
        with tenants(**{key: value}):
            assert refusal() == f"RLS_TENANTS[{key!r}] is {value!r}; it must be {allowed}"


def test_no_word_that_a_server_reserves_may_be_the_prefix(
    superuser: psycopg.Connection[Any],
) -> None:
    for word, is_reserved in superuser.execute(
        "SELECT word, catcode IN ('R', 'T') FROM pg_get_keywords()"
    ).fetchall():
        if is_reserved:
            with tenants(GUC_PREFIX=word):
                assert "a reserved word of SQL" in refusal()
        else:
            superuser.execute(f"SET {word}.current_tenant = ''".encode())
    superuser.execute("RESET ALL")


def test_a_value_that_cannot_be_hashed_is_refused() -> None:
    with tenants(TENANT_PK_TYPE=["int"]):
        assert "RLS_TENANTS['TENANT_PK_TYPE'] is ['int']; it must be one of" in refusal()


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("TENANT_MODELS", "TENANT_MODEL"),
        ("TENANT_FIELD", "TENANT_FK_FIELD"),
        ("GUC_PREFIXES", "GUC_PREFIX"),
        ("TENANT_PK", "TENANT_PK_TYPE"),
        ("USE_LOCAL_SETS", "USE_LOCAL_SET"),
        ("tenant_model", "TENANT_MODEL"),
        ("Guc_Prefix", "GUC_PREFIX"),
    ],
)
def test_an_unknown_key_is_refused_with_the_one_that_was_meant(unknown: str, meant: str) -> None:
    with tenants(**{unknown: "x"}):
        message = refusal()
    assert f"RLS_TENANTS has the unknown key {unknown!r} (did you mean {meant!r}?)" in message
    assert message.endswith(
        "allowed are TENANT_MODEL, TENANT_FK_FIELD, GUC_PREFIX, TENANT_PK_TYPE, USE_LOCAL_SET,"
        " STRICT_MODE, STRICT_MODE_EXCLUDE, SAME_TENANT_FOREIGN_KEYS, ADMIN_ROLE, APP_ROLE, SEALED,"
        " SEAL_KEYS, SEAL_LIFETIME, BYPASS_FLAGS, EXTERNAL_MODELS, READ_ONLY_REQUESTS,"
        " SHARED_MODELS, REFUSE_EXEMPT_ROLE, USER_PARAM_NAME, RESOLVERS, AUDIT_LOG, TRACE,"
        " SHARD_OF"
    )


@pytest.mark.parametrize("unknown", ["COLOUR", "colour", "", 1, None])
def test_an_unknown_key_that_is_like_no_other_is_refused(unknown: object) -> None:
    given: dict[object, object] = {"TENANT_MODEL": "app.Tenant", unknown: "x"}
    with override_settings(RLS_TENANTS=given):
        message = refusal()
    assert f"RLS_TENANTS has the unknown key {unknown!r}; allowed are TENANT_MODEL," in message


def test_the_tenant_model_must_be_given() -> None:
    with override_settings(RLS_TENANTS={}):
        assert "RLS_TENANTS lacks TENANT_MODEL; name the tenant's model" in refusal()


@pytest.mark.parametrize("given", [None, "app.Tenant", ["app.Tenant"], 1, True])
def test_the_settings_must_be_a_dict(given: object) -> None:
    with override_settings(RLS_TENANTS=given):
        message = refusal()
    assert "must be a dict with at least TENANT_MODEL, such as RLS_TENANTS = {'TENANT" in message
    # Not what it is, which may hold keys.
    assert message.endswith("; got None" if given is None else f"; got a {type(given).__name__}")


@override_settings()
def test_the_settings_must_be_there() -> None:
    del settings.RLS_TENANTS
    assert "RLS_TENANTS must be a dict" in refusal()


def test_settings_that_are_overridden_take_effect_at_once() -> None:
    assert tenant_context("5").binding == Binding(5)
    with tenants(TENANT_PK_TYPE="text", GUC_PREFIX="acme"):
        assert rls_tenants().guc_prefix == "acme"
        assert tenant_context("5").binding == Binding("5")
        with tenants(TENANT_PK_TYPE="uuid"):
            assert rls_tenants().guc_prefix == "rls"
            with pytest.raises(InvalidTenantIdError):
                tenant_context("5")
        assert tenant_context("5").binding == Binding("5")
    assert tenant_context("5").binding == Binding(5)
    assert rls_tenants().guc_prefix == "rls"


def test_settings_that_were_refused_are_read_again_when_they_are_right() -> None:
    with tenants(GUC_PREFIX="RLS"):
        assert refusal() == refusal()
    with tenants():
        assert rls_tenants() == DEFAULTS


def test_another_setting_does_not_make_them_be_read_again() -> None:
    before = rls_tenants()
    with override_settings(USE_TZ=False):
        assert rls_tenants() is before


@pytest.mark.parametrize(
    "label", ["app.Nobody", "nowhere.Tenant", "contenttypes.Tenant", "django.Tenant"]
)
def test_a_tenant_model_that_is_not_installed_is_refused(label: str) -> None:
    with tenants(TENANT_MODEL=label), pytest.raises(RLSConfigurationError) as raised:
        tenant_key()
    assert str(raised.value).startswith(
        f"RLS_TENANTS['TENANT_MODEL'] is {label!r}, which is not installed: "
    )


@pytest.mark.parametrize(
    ("label", "key_type"), [("app.Tenant", "bigint"), ("app.Label", "uuid"), ("app.User", "bigint")]
)
def test_the_key_is_that_of_the_tenant_model(label: str, key_type: str) -> None:
    with tenants(TENANT_MODEL=label):
        assert tenant_key() == TenantKey(key_type)


def test_the_key_type_that_is_given_wins_over_the_tenant_model() -> None:
    with tenants(TENANT_PK_TYPE="uuid"):
        assert tenant_key() == TenantKey("uuid")


@isolate_apps("tests.app")
def test_a_primary_key_without_a_key_type_asks_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Dated(models.Model):
        day = models.DateField(primary_key=True)

        class Meta:
            app_label = "app"

    monkeypatch.setattr("tenantry.conf.apps", Dated._meta.apps)
    with tenants(TENANT_MODEL="app.Dated"):
        with pytest.raises(RLSConfigurationError) as raised:
            tenant_key()
        assert str(raised.value) == (
            "the primary key of app.Dated is a DateField; set RLS_TENANTS['TENANT_PK_TYPE'] to"
            " one of int, bigint, uuid, text"
        )
    with tenants(TENANT_MODEL="app.Dated", TENANT_PK_TYPE="text"):
        assert tenant_key() == TenantKey("text")


ENGINE = "tenantry.backends.postgresql"
DJANGOS = "django.db.backends.postgresql"


@pytest.mark.parametrize(
    "engines",
    [
        {"default": ENGINE},
        {"default": DJANGOS, "tenants": ENGINE},
        {"default": "nowhere", "tenants": ENGINE},
        {"default": DJANGOS, "tenants": "tests.heir"},
        {"default": "nowhere", "tenants": "tests.heir"},
    ],
)
def test_one_database_with_our_engine_is_enough(
    monkeypatch: pytest.MonkeyPatch, engines: dict[str, str]
) -> None:
    databases = {alias: {"ENGINE": engine} for alias, engine in engines.items()}
    monkeypatch.setattr(settings, "DATABASES", databases)
    require_engine()


@pytest.mark.parametrize(
    "databases",
    [
        {},
        {"default": {}},
        {"default": {"ENGINE": DJANGOS}},
        {"default": {"ENGINE": DJANGOS}, "other": {"ENGINE": "django.db.backends.sqlite3"}},
        {"default": {"ENGINE": "tenantry"}},
    ],
)
def test_no_database_with_our_engine_is_refused(
    monkeypatch: pytest.MonkeyPatch, databases: dict[str, dict[str, str]]
) -> None:
    monkeypatch.setattr(settings, "DATABASES", databases)
    engines = {alias: database.get("ENGINE") for alias, database in databases.items()}
    with pytest.raises(ImproperlyConfigured) as raised:
        require_engine()
    assert str(raised.value).startswith("tenantry is in INSTALLED_APPS, but no database uses its")
    assert f"set DATABASES['default']['ENGINE'] = {ENGINE!r}" in str(raised.value)
    assert str(raised.value).endswith(f"(now: {engines!r})")


def test_the_error_of_an_engine_that_cannot_be_imported_is_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(settings, "DATABASES", {"default": {"ENGINE": "nowhere"}})
    with pytest.raises(ImproperlyConfigured) as raised:
        require_engine()
    assert "'nowhere' isn't an available database backend" in str(raised.value.__cause__)


# OPTIONS.


@pytest.mark.parametrize("value", ["no", 0, 1, None, []])
def test_whether_control_rides_along_is_true_or_false(value: object) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        take_own("default", {"ride_along": value})
    assert str(raised.value) == (
        f"OPTIONS['ride_along'] of the database 'default' is {value!r}; it must be True or False"
    )


@pytest.mark.parametrize(
    ("unknown", "meant"),
    [
        ("poolmode", "pool_mode"),
        ("POOL_MODE", "pool_mode"),
        ("pool-mode", "pool_mode"),
        ("ridealong", "ride_along"),
        ("rides_along", "ride_along"),
        ("sealed_db", "sealed_database"),
    ],
)
def test_an_option_that_is_nearly_ours_is_refused_with_the_one_that_was_meant(
    unknown: str, meant: str
) -> None:
    with pytest.raises(ImproperlyConfigured) as raised:
        take_own("default", {unknown: True})
    assert str(raised.value) == (
        f"OPTIONS of the database 'default' has the unknown key {unknown!r} (did you mean"
        f" {meant!r}?)"
    )


def test_options_of_others_are_left_alone() -> None:
    of_libpq = {option.keyword.decode(): b"" for option in Conninfo.get_defaults()}
    of_django = {"isolation_level", "assume_role", "pool", "server_side_binding", "context"}
    of_psycopg = {"cursor_factory", "row_factory", "prepare_threshold", "autocommit"}
    params = dict.fromkeys([*of_libpq, *of_django, *of_psycopg])
    before = dict(params)
    take_own("default", params)
    assert params == before
