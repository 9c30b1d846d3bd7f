"""Bad input: tenant ids, settings and installations that are refused with the fix, at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from django.db import models

from tenantry import tenant_context
from tenantry.binding import UNBOUND, current_binding
from tenantry.conf import require_engine, rls_tenants, tenant_key
from tenantry.exceptions import (
    InvalidTenantIdError,
    RLSConfigurationError,
    TenantIdTypeError,
)
from tenantry.keys import TenantKey, key_type_of
from tests.app.models import Label, Tenant

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TenantIdTypeError, "tenant_id is None"),
        (True, TenantIdTypeError, "got True of type bool"),
        (1.0, TenantIdTypeError, "got 1.0 of type float"),
        (b"1", TenantIdTypeError, "of type bytes"),
        ([1], TenantIdTypeError, "of type list"),
        ("", InvalidTenantIdError, "is not a decimal number"),
        ("1'", InvalidTenantIdError, "is not a decimal number"),
        ("1\n", InvalidTenantIdError, "is not a decimal number"),
        ("1\x00", InvalidTenantIdError, "is not a decimal number"),
        ("1; DROP TABLE app_note", InvalidTenantIdError, "is not a decimal number"),
        (" 1", InvalidTenantIdError, "is not a decimal number"),
        ("1_0", InvalidTenantIdError, "is not a decimal number"),
        ("\u0661", InvalidTenantIdError, "is not a decimal number"),
        (2**63, InvalidTenantIdError, "that fits PostgreSQL's bigint"),
        (-(2**63) - 1, InvalidTenantIdError, "that fits PostgreSQL's bigint"),
        ("9" * 10_000, InvalidTenantIdError, "that fits PostgreSQL's bigint"),
    ],
)
def test_a_bad_tenant_id_is_refused_before_anything_is_sent(
    value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tenant_context(value)
    assert current_binding() == UNBOUND


def test_an_instance_is_no_tenant_id() -> None:
    with pytest.raises(TenantIdTypeError, match=r"pass its \.pk"):
        tenant_context(Tenant(pk=1))


@pytest.mark.parametrize(
    ("key_type", "value", "parsed"),
    [
        ("int", 2**31 - 1, 2**31 - 1),
        ("int", "-7", -7),
        ("bigint", -(2**63), -(2**63)),
        ("uuid", "0" * 31 + "A", UUID(int=10)),
        ("uuid", UUID(int=10), UUID(int=10)),
        ("text", "straße %s 1", "straße %s 1"),
    ],
)
def test_each_key_type_takes_its_own(key_type: str, value: object, parsed: object) -> None:
    assert TenantKey(key_type).parse(value) == parsed


@pytest.mark.parametrize(
    ("key_type", "value"),
    [
        ("int", 2**31),
        ("uuid", "{00000000-0000-0000-0000-00000000000a}"),
        ("uuid", "urn:uuid:00000000-0000-0000-0000-00000000000a"),
        ("uuid", "nonsense"),
        ("uuid", 10),
        ("text", ""),
        ("text", "o'brien"),
        ("text", 'a"b'),
        ("text", "a\\b"),
        ("text", "a\nb"),
        ("text", "a\x00b"),
        ("text", 1),
    ],
)
def test_each_key_type_refuses_what_is_not_its_own(key_type: str, value: object) -> None:
    with pytest.raises(
        (InvalidTenantIdError, TenantIdTypeError), match=f"key (is|being) {key_type}"
    ):
        TenantKey(key_type).parse(value)


def test_the_key_type_is_that_of_the_tenants_primary_key() -> None:
    one = models.OneToOneField(Label, on_delete=models.CASCADE, primary_key=True)
    one.set_attributes_from_name("one")
    one.remote_field.field_name = "code"
    assert key_type_of(one) == "uuid"
    fields: list[tuple[Any, str | None]] = [
        (models.AutoField(), "int"),
        (models.SmallAutoField(), "int"),
        (models.BigAutoField(), "bigint"),
        (models.SlugField(), "text"),
        (models.TextField(), "text"),
        (models.DateField(), None),
    ]
    assert [key_type_of(field) for field, _ in fields] == [key_type for _, key_type in fields]


MODEL = {"TENANT_MODEL": "app.Tenant"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (None, "must be a dict with at least TENANT_MODEL"),
        ({}, "lacks TENANT_MODEL"),
        ({"TENANT_MODEL": "Tenant"}, r"\['TENANT_MODEL'\] is 'Tenant'; it must be a model label"),
        ({"TENANT_MODEL": "app.Nobody"}, "which is not installed"),
        (MODEL | {"TENANT_FK": "x"}, "unknown key 'TENANT_FK' .did you mean 'TENANT_FK_FIELD'"),
        (MODEL | {"TENANT_FK_FIELD": "a b"}, "must be a field name"),
        (MODEL | {"TENANT_FK_FIELD": "class"}, "must be a field name"),
        (MODEL | {"GUC_PREFIX": "rls.x"}, "lower-case letters, digits or underscores"),
        (MODEL | {"GUC_PREFIX": "x'; DROP"}, "lower-case letters, digits or underscores"),
        (MODEL | {"TENANT_PK_TYPE": "integer"}, "one of int, bigint, uuid, text"),
        (MODEL | {"USE_LOCAL_SET": False}, "bindings are always transaction-local, because"),
        ({"TENANT_MODEL": "sessions.Session"}, None),
        (MODEL | {"USE_LOCAL_SET": True, "TENANT_PK_TYPE": "uuid"}, None),
    ],
)
def test_wrong_settings_name_key_value_and_fix(
    given: Any, message: str | None, settings: Any
) -> None:
    settings.RLS_TENANTS = given
    if message is None:
        assert tenant_key().sql_type in ("text", "uuid")
        return
    with pytest.raises(RLSConfigurationError, match=message):
        tenant_key()


def test_a_key_without_a_type_asks_for_one(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenantry.conf.key_type_of", lambda field: None)
    settings.RLS_TENANTS = MODEL
    with pytest.raises(RLSConfigurationError, match=r"'TENANT_PK_TYPE'\] to one of int"):
        tenant_key()


def test_the_defaults(settings: Any) -> None:
    assert rls_tenants().tenant_fk_field == "tenant"
    assert rls_tenants().guc_prefix == "rls"
    assert tenant_key().sql_type == "bigint"
    require_engine()


def run(code: str, **changes: str) -> str:
    """Return the last line that a project says which starts with `changes` to its settings."""
    overrides = "".join(f"settings.{name} = {value}\n" for name, value in changes.items())
    program = f"from django.conf import settings\n{overrides}import django\n{code}"
    env = {
        **os.environ,
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, "-c", program], env=env, capture_output=True, text=True, check=False
    )
    assert result.returncode != 0, result.stdout
    return result.stderr.strip().splitlines()[-1]


def test_a_project_without_the_engine_does_not_start() -> None:
    database = "{'default': {'ENGINE': 'django.db.backends.postgresql', 'NAME': 'x'}}"
    error = run("django.setup()", DATABASES=database)
    assert "ImproperlyConfigured: tenantry is in INSTALLED_APPS, but no database uses" in error
    assert "set DATABASES['default']['ENGINE'] = 'tenantry.backends.postgresql'" in error


def test_a_project_with_an_unknown_setting_does_not_start() -> None:
    error = run("django.setup()", RLS_TENANTS="{'TENANT_MODLE': 'app.Tenant'}")
    assert "unknown key 'TENANT_MODLE' (did you mean 'TENANT_MODEL'?)" in error


WITHOUT_PSYCOPG_3 = """
import sys
sys.modules["psycopg"] = None
django.setup()
from django.db import connections
connections["default"]
"""


def test_psycopg2_alone_is_refused() -> None:
    error = run(WITHOUT_PSYCOPG_3)
    assert "tenantry's ENGINE needs psycopg 3, which is not installed; psycopg2 cannot" in error
    assert "pip install 'psycopg[binary,pool]>=3.2'" in error


OLD_PSYCOPG = """
import psycopg
psycopg.__version__ = "3.1.19"
django.setup()
from django.db import connections
connections["default"]
"""


def test_an_old_psycopg_is_refused() -> None:
    assert "needs psycopg 3.2 or newer, not 3.1.19; upgrade it with" in run(OLD_PSYCOPG)
