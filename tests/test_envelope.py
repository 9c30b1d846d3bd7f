"""The envelope: what travels, and what is refused."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.core import signing
from django.core.signing import BadSignature
from django.test import override_settings

from tenantry.binding import ADMIN, UNBOUND, Binding
from tenantry.contrib.envelope import SALT, disclose, enclose
from tenantry.exceptions import InvalidEnvelopeError, TenantryError
from tests import settings

ADDRESS = ("celery", "app.send", "1")


def key_type(name: str) -> Any:
    return override_settings(RLS_TENANTS=settings.RLS_TENANTS | {"TENANT_PK_TYPE": name})


@pytest.mark.parametrize(
    ("name", "tenant"),
    [
        ("int", -(2**31)),
        ("bigint", 2**63 - 1),
        ("uuid", uuid.UUID("7d444840-9dc0-11d1-b245-5ffdce74fad2")),
        ("text", "42"),
        ("text", "acme & söhne: ☂"),
    ],
)
def test_a_tenant_of_every_type_travels(name: str, tenant: Any) -> None:
    with key_type(name):
        found = disclose(enclose(Binding(tenant), *ADDRESS), *ADDRESS)
    assert found == Binding(tenant)
    assert type(found.tenant_id) is type(tenant)


def test_the_admin_and_nobody_travel() -> None:
    assert disclose(enclose(ADMIN, *ADDRESS), *ADDRESS) == ADMIN
    assert disclose(enclose(UNBOUND, *ADDRESS), *ADDRESS) == UNBOUND


@pytest.mark.parametrize(
    ("binding", "left"),
    [
        (Binding(7, read_only=True), Binding(7)),
        (Binding(is_admin=True, read_only=True), ADMIN),
        (Binding(bypass="login"), UNBOUND),
        (Binding(bypass="login", read_only=True), UNBOUND),
    ],
)
def test_a_bypass_flag_and_read_only_stay_behind(binding: Binding, left: Binding) -> None:
    assert disclose(enclose(binding, *ADDRESS), *ADDRESS) == left


def refused(envelope: object, match: str, *address: str) -> None:
    with pytest.raises(InvalidEnvelopeError, match=match) as caught:
        disclose(envelope, *(address or ADDRESS))
    assert isinstance(caught.value, BadSignature)
    assert isinstance(caught.value, TenantryError)


@pytest.mark.parametrize(
    "envelope", ["", "1", "admin", "a:b:c", signing.dumps([1, True, None, *ADDRESS]), "\0", "é:"]
)
def test_what_nobody_signed_is_refused(envelope: str) -> None:
    refused(envelope, "binding of the job 'app.send' does not verify: .* SECRET_KEY_FALLBACKS")


@pytest.mark.parametrize("envelope", [1, True, {"tenant": 1}, [ADMIN], b"x"])
def test_what_is_no_text_is_refused(envelope: object) -> None:
    refused(envelope, f"is of type {type(envelope).__name__}, not a str")


def test_a_changed_envelope_is_refused() -> None:
    mine, theirs = (enclose(Binding(number), *ADDRESS) for number in (1, 2))
    refused(theirs.split(":", 1)[0] + ":" + mine.split(":", 1)[1], "does not verify")


@pytest.mark.parametrize(
    "address",
    [("celery", "app.read", "1"), ("celery", "app.send", "2"), ("other", "app.send", "1")],
)
def test_an_envelope_of_another_job_is_refused(address: tuple[str, ...]) -> None:
    refused(enclose(ADMIN, *ADDRESS), "was made for another job", *address)


@pytest.mark.parametrize("version", [0, 2, "1", None])
def test_an_envelope_of_another_version_is_refused(version: object) -> None:
    envelope = signing.dumps([version, True, None, *ADDRESS], salt=SALT)
    refused(envelope, f"is of version {version!r}, and this release of tenantry reads 1")


def test_another_key_is_refused_and_an_older_one_is_not() -> None:
    envelope = enclose(Binding(7), *ADDRESS)
    with override_settings(SECRET_KEY="another"):
        refused(envelope, "does not verify")
    with override_settings(SECRET_KEY="another", SECRET_KEY_FALLBACKS=[settings.SECRET_KEY]):
        assert disclose(envelope, *ADDRESS) == Binding(7)


def test_a_tenant_of_another_type_is_refused() -> None:
    envelope = enclose(Binding(7), *ADDRESS)
    with key_type("uuid"):
        refused(envelope, "tenant of an older type: tenant_id '7' is not a UUID")
