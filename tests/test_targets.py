"""What a policy compares has to be the primary key of the tenant, under whatever name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connections, models
from django.test import override_settings
from django.test.utils import isolate_apps

from tenantry import RLSConstraint, SharedWith, TenantField

ACCOUNT = {"TENANT_MODEL": "app.Account", "TENANT_PK_TYPE": "bigint"}
PROXY = {**ACCOUNT, "TENANT_MODEL": "app.Customer"}

# Tests make several models of one name.
pytestmark = pytest.mark.filterwarnings("ignore:Model 'app.*' was already registered")


def made(name: str, *bases: type, rls: RLSConstraint | None = None, **fields: Any) -> Any:
    """Return a model of the app of these tests."""
    options: dict[str, Any] = {"app_label": "app", "constraints": [rls] if rls else []}
    if fields.pop("proxy", False):
        options = {"app_label": "app", "proxy": True}
    meta = type("Meta", (), options)
    attributes = {**fields, "Meta": meta, "__module__": __name__}
    return type(name, bases or (models.Model,), attributes)


def to(model: Any, **options: Any) -> Any:
    return models.ForeignKey(model, models.CASCADE, related_name="+", **options)


def account() -> Any:
    return made("Account", number=models.BigIntegerField(unique=True))


def owned(key: Any, rls: RLSConstraint | None = None) -> Any:
    return made("Row", rls=rls or RLSConstraint(field="tenant", name="row"), tenant=key)


def errors(model: Any) -> list[tuple[str | None, str, Any]]:
    constraint: Any = model._meta.constraints[0]
    found = constraint._check(model, connections["default"])
    return [(each.id, each.msg, each.hint) for each in found]


WRONG = "refers to app.Account.number, and not to the primary key of the tenant, app.Account"


@override_settings(RLS_TENANTS=ACCOUNT)
@isolate_apps("tests.app")
def test_another_field_of_the_tenant_is_not_its_key() -> None:
    """Of the same type, so that nothing but a check tells them apart."""
    row = owned(to(account(), to_field="number"))
    ((id_, message, hint),) = errors(row)
    assert id_ == "tenantry.E007"
    assert message == (
        f"app.Row cannot be protected by tenant: app.Row.tenant {WRONG}, which is what policies"
        " compare."
    )
    assert hint == (
        "Name a foreign key to the primary key of app.Account in RLSConstraint(field=...), or at"
        " the end of its path."
    )
    part = made("Part", rls=RLSConstraint(path="row__tenant", name="part"), row=to(row))
    ((id_, message, _),) = errors(part)
    assert (id_, WRONG in message) == ("tenantry.E007", True)


@override_settings(RLS_TENANTS=ACCOUNT)
@isolate_apps("tests.app")
def test_who_shares_with_another_field_of_the_tenant_shares_with_somebody_else() -> None:
    tenants = account()
    share = made(
        "Share",
        rls=RLSConstraint(field="tenant", name="share", extra_predicates=[TenantField("partner")]),
        tenant=to(tenants),
        partner=to(tenants, to_field="number"),
        row=to("app.Row"),
    )
    shared = SharedWith("app.Share", row="row", tenant="partner")
    row = owned(to(tenants), RLSConstraint(field="tenant", name="row", extra_predicates=[shared]))
    for model in (share, row):
        ((id_, message, _),) = errors(model)
        assert id_ == "tenantry.E004"
        assert f"app.Share.partner {WRONG}, which" in message
        assert message.endswith("; name a foreign key to the tenant's primary key.")


def by_name() -> Any:
    return to(account(), to_field="id")


def by_child() -> Any:
    return to(made("Branch", account()))


def by_proxy() -> Any:
    return to(made("Customer", account(), proxy=True))


def with_a_key_of_its_own() -> Any:
    return to(made("Account", number=models.BigAutoField(primary_key=True)))


def with_a_text_for_a_key() -> Any:
    return to(made("Account", code=models.CharField(max_length=9, primary_key=True)))


def with_a_uuid_for_a_key() -> Any:
    return to(made("Account", code=models.UUIDField(primary_key=True)))


def that_is_a_child() -> Any:
    return to(made("Account", made("Body")))


def that_is_a_child_with_a_key_of_its_own() -> Any:
    body = made("Body")
    link = models.OneToOneField(body, models.CASCADE, parent_link=True)
    return to(made("Account", body, number=models.BigAutoField(primary_key=True), link=link))


@pytest.mark.parametrize(
    ("key", "key_type"),
    [
        (by_name, "bigint"),
        (by_child, "bigint"),
        (by_proxy, "bigint"),
        (with_a_key_of_its_own, "bigint"),
        (with_a_text_for_a_key, "text"),
        (with_a_uuid_for_a_key, "uuid"),
        (that_is_a_child, "bigint"),
        (that_is_a_child_with_a_key_of_its_own, "bigint"),
    ],
)
@isolate_apps("tests.app")
def test_its_key_may_be_anything(key: Callable[[], Any], key_type: str) -> None:
    with override_settings(RLS_TENANTS={**ACCOUNT, "TENANT_PK_TYPE": key_type}):
        row = owned(key())
        part = made("Part", rls=RLSConstraint(path="row__tenant", name="part"), row=to(row))
        assert errors(row) == errors(part) == []


@override_settings(RLS_TENANTS=ACCOUNT)
@isolate_apps("tests.app")
def test_the_link_of_a_tenant_to_its_parent_need_not_be_its_key() -> None:
    body = made("Body")
    link = models.OneToOneField(body, models.CASCADE, parent_link=True)
    tenants = made("Account", body, number=models.BigAutoField(primary_key=True), link=link)
    ((id_, message, _),) = errors(owned(to(tenants, to_field="link")))
    assert id_ == "tenantry.E007"
    assert "refers to app.Account.link, and not to the primary key of the tenant" in message


@override_settings(RLS_TENANTS=PROXY)
@isolate_apps("tests.app")
def test_the_tenant_may_be_named_by_a_proxy() -> None:
    tenants = account()
    proxy = made("Customer", tenants, proxy=True)
    other = made("Other")
    for model in (tenants, proxy, made("Branch", tenants)):
        assert errors(owned(to(model))) == []
    ((_, message, _),) = errors(owned(to(tenants, to_field="number")))
    assert "not to the primary key of the tenant, app.Customer" in message
    ((_, message, _),) = errors(owned(to(other)))
    assert "refers to app.Other, and not to the tenant, app.Customer" in message
