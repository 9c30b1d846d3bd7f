"""What is wrong with models is found without a server."""

from __future__ import annotations

from collections.abc import Callable
from secrets import token_hex
from types import SimpleNamespace
from typing import Any

import pytest
from django.contrib.auth.models import Group
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.contrib.postgres.constraints import ExclusionConstraint
from django.db import models
from django.db.models import Value
from django.db.models.functions import Lower
from django.test import override_settings
from django.test.utils import isolate_apps

from tenantry import CurrentTenant, RLSConstraint, RLSProtectedModel, SameTenant, constraints
from tenantry.checks.models import inspect_models
from tenantry.checks.registry import check_labels
from tenantry.constraints import check_installed
from tenantry.exceptions import RLSConfigurationError
from tests.app.models import (
    Book,
    Document,
    Invoice,
    Item,
    Label,
    NewestFirst,
    Note,
    Shared,
    Tenant,
    User,
)

# A test makes several of that name.
pytestmark = pytest.mark.filterwarnings("ignore:Model 'app.thing' was already registered")

TENANT = "app.Tenant"
MODULE = {"__module__": __name__}
Fields = Callable[[], dict[str, Any]]


def key(**options: Any) -> Any:
    return models.ForeignKey(Tenant, on_delete=models.CASCADE, related_name="+", **options)


def model(fields: dict[str, Any], **options: Any) -> Any:
    """Return a model with a foreign key to the tenant and a policy, unless `options` say else."""
    options.setdefault("constraints", [])
    meta = type("Meta", (), {"app_label": "app", **options})
    attributes = {"tenant": key(), **fields, "Meta": meta, "__module__": __name__}
    return type("Thing", (models.Model,), attributes)


def found(*given: Any) -> list[tuple[str, str]]:
    return [(each.id, f"{each.message}; {each.fix}") for each in inspect_models(given)]


def policy(name: str = "rls", **options: Any) -> RLSConstraint:
    return RLSConstraint(field="tenant", name=name, **options)


def unique(*fields: str) -> models.UniqueConstraint:
    return models.UniqueConstraint(fields=fields, name="once")


def exclusion(*more: Any) -> ExclusionConstraint:
    return ExclusionConstraint(name="once", expressions=[(models.F("room"), "="), *more])


@isolate_apps("tests.app")
def test_a_good_model_has_no_findings() -> None:
    assert found(model({}, constraints=[policy()]), Note, Tenant, User) == []


@isolate_apps("tests.app")
def test_a_relation_to_no_model_is_left_to_django() -> None:
    nobody = "app.Nobdy"
    odd = model({"friends": models.ManyToManyField(nobody)}, constraints=[policy()])
    assert found(odd, odd.friends.through) == []
    assert "fields.E300" in {each.id for each in odd.check()}


@isolate_apps("tests.app")
def test_a_unique_field_that_is_misspelled_is_left_to_django() -> None:
    once = models.UniqueConstraint(Lower("nmae"), name="once")
    together = {"unique_together": [("name", "nmae")]}
    for options in ({}, together):
        odd = model({"name": models.TextField()}, constraints=[policy(), once], **options)
        assert found(odd) == []
        assert "models.E012" in {each.id for each in odd.check(databases=["default"])}


@isolate_apps("tests.app")
def test_two_policies_are_found() -> None:
    ((identifier, text),) = found(model({}, constraints=[policy("one"), policy("two")]))
    assert identifier == "tenantry.E151"
    assert text == "has 2 RLSConstraints (one, two), but a table has one policy; remove all but one"


@isolate_apps("tests.app")
def test_an_app_that_is_not_installed_is_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class First(models.Model):
        tenant = key()

        class Meta:
            app_label = "app"
            constraints = [policy()]

    class Second(models.Model):
        tenant = key()

        class Meta:
            app_label = "app"
            constraints = [policy()]

    assert check_installed(First) == []
    monkeypatch.setattr(constraints, "apps", SimpleNamespace(is_installed=lambda name: False))
    (found,) = check_installed(First)
    assert found.id == "tenantry.W006"
    assert found.hint == "Add 'tenantry' to INSTALLED_APPS."
    assert check_installed(Second) == []


@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        ("n" * 63, False),
        ("n" * 64, True),
        ("é" * 32, True),
        (f'"{"s" * 9}"."{"n" * 63}"', False),
        (f'"{"s" * 9}"."{"n" * 64}"', True),
        (f'"{"s" * 64}"."n"', True),
    ],
)
@isolate_apps("tests.app")
def test_a_table_name_that_is_cut_off_is_found(name: str, is_found: bool) -> None:
    result = found(model({}, db_table=name, constraints=[policy()]))
    assert [each for each, _ in result] == (["tenantry.E152"] if is_found else [])
    assert not is_found or "of 64 bytes, which PostgreSQL cuts off after 63; set" in result[0][1]


@isolate_apps("tests.app")
def test_a_column_of_another_type_is_found() -> None:
    wrong = model({"tenant": models.IntegerField()}, constraints=[policy()])
    assert found(wrong) == [
        (
            "tenantry.E153",
            "is protected by tenant, a column of type int, but its RLSConstraint compares it with a"
            " tenant id of type bigint; make tenant a foreign key to app.Tenant",
        )
    ]
    wrong = model({}, constraints=[policy(key_type="uuid")])
    ((identifier, text),) = found(wrong)
    assert identifier == "tenantry.E153"
    assert text.endswith("of type uuid; remove key_type='uuid' from its RLSConstraint")


@override_settings(RLS_TENANTS={"TENANT_MODEL": TENANT, "TENANT_PK_TYPE": "uuid"})
@isolate_apps("tests.app")
def test_a_type_in_the_settings_that_is_not_the_tenants_is_found() -> None:
    owned = model({}, constraints=[policy()])
    link = models.ForeignKey(owned, on_delete=models.CASCADE)
    below = model({"link": link}, constraints=[RLSConstraint(path="link__tenant", name="rls")])
    for wrong, way in ((owned, "tenant"), (below, "link__tenant")):
        ((identifier, text),) = found(wrong)
        assert identifier == "tenantry.E153"
        assert text.startswith(f"is protected by {way}, a column of type bigint, but")
        assert text.endswith(
            "remove RLS_TENANTS['TENANT_PK_TYPE'], which is 'uuid', or change the primary key of"
            " app.Tenant"
        )


@isolate_apps("tests.app")
def test_a_foreign_key_to_another_field_of_the_tenant_is_found() -> None:
    ((identifier, text),) = found(model({"tenant": key(to_field="name")}, constraints=[policy()]))
    assert identifier == "tenantry.E153"
    assert text.endswith("let tenant refer to the primary key of app.Tenant")


@pytest.mark.parametrize("path", ["nobody__tenant", "text__tenant"])
@isolate_apps("tests.app")
def test_a_path_that_leads_nowhere_is_left_to_the_constraint(path: str) -> None:
    wrong = model({"text": models.TextField()}, constraints=[RLSConstraint(path=path, name="rls")])
    assert found(wrong) == []


@isolate_apps("tests.app")
def test_a_field_that_is_missing_is_left_to_the_constraint() -> None:
    missing = RLSConstraint(field="nobody", name="rls")
    assert found(model({}, constraints=[missing])) == []


@isolate_apps("tests.app")
def test_a_model_that_names_the_tenant_without_a_policy_is_found() -> None:
    thing = model({})
    ((identifier, text),) = found(thing)
    assert identifier == "tenantry.W154"
    assert "refers to the tenant by tenant, and has no policy; add RLSConstraint" in text
    for label in ("app.Thing", "app.thing"):
        with override_settings(RLS_TENANTS={"TENANT_MODEL": TENANT, "SHARED_MODELS": [label]}):
            assert found(thing) == []
    # Whether its table needs a policy is asked of the database.
    assert found(model({}, managed=False)) == []


def part(to: Any = Note, **options: Any) -> dict[str, Any]:
    options.setdefault("on_delete", models.CASCADE)
    return {"tenant": None, "of": models.ForeignKey(to, related_name="+", **options)}


@isolate_apps("tests.app")
@pytest.mark.parametrize(
    ("to", "called", "path"),
    [
        (Note, "app.Note", "of__tenant"),
        (Label, "app.Label", "of__customer"),
        (Book, "app.Book", "of__item_ptr__tenant"),
        (NewestFirst, "app.Item", "of__tenant"),
    ],
)
def test_a_part_of_a_protected_row_without_a_policy_is_found(
    to: Any, called: str, path: str
) -> None:
    for options in ({}, {"null": True}, {"on_delete": models.PROTECT}):
        assert found(model(part(to, **options))) == [
            (
                "tenantry.W158",
                f"refers to the protected {called} by of, and has no policy, so that every"
                f" tenant sees its rows; add RLSConstraint(path={path!r}) to its Meta.constraints,"
                " or if it is another package's, put AddRLSPolicy('app.Thing') into a migration,"
                " or name it in RLS_TENANTS['SHARED_MODELS']",
            )
        ]


# Since Django 6.1 the database can do what Django does.
@isolate_apps("tests.app")
@pytest.mark.parametrize(
    ("name", "is_found"),
    [
        (name, is_found)
        for name, is_found in (("CASCADE", True), ("DB_CASCADE", True), ("DB_SET_NULL", False))
        if hasattr(models, name)
    ],
)
def test_a_row_that_ends_with_a_protected_one_is_part_of_it(name: str, *, is_found: bool) -> None:
    result = found(model(part(null=True, on_delete=getattr(models, name))))
    assert [each for each, _ in result] == (["tenantry.W158"] if is_found else [])


BY_DATABASE = ["DB_CASCADE", "DB_SET_NULL"]


def action(name: str) -> Any:
    """Return Django's `on_delete` of that name, or before Django 6.1 what looks like it."""

    def by_database(*args: Any) -> None:
        """Do nothing."""

    by_database.__name__ = name
    vars(by_database)["on_delete_sql"] = None
    return getattr(models, name, by_database)


def refers(to: Any, name: str, **options: Any) -> dict[str, Any]:
    options = {"null": True, "related_name": "+", **options}
    return {"of": models.ForeignKey(to, action(name), **options)}


@isolate_apps("tests.app")
@pytest.mark.parametrize("name", ["CASCADE", "SET_NULL", *BY_DATABASE])
def test_what_postgresql_does_to_rows_of_other_tenants_is_found(name: str) -> None:
    def result(to: Any, *constraints: Any, **options: Any) -> list[tuple[str, str]]:
        fields = refers(to, name, **options)
        return found(model(fields, constraints=[policy(), *constraints]))

    def wanted(fix: str) -> list[tuple[str, str]]:
        text = (
            f"has on_delete={name} on of: PostgreSQL applies no policies to that, and deletes or"
            f" changes the rows of other tenants, too; {fix}{name.removeprefix('DB_')}"
        )
        return [("tenantry.W152", text)] if name in BY_DATABASE else []

    by_django = "let Django do it, by on_delete="
    either = f"add SameTenant(field='of'), or {by_django}"
    # Its key is the tenant.
    owned = models.OneToOneField(Tenant, models.CASCADE, primary_key=True, related_name="+")
    preferences = model({"tenant": owned}, constraints=[policy()])
    for to, fix in (
        (preferences, by_django),
        (User, by_django),
        ("app.Nowhere", by_django),
        (Tenant, by_django),
        (Book, by_django),
        (Note, either),
        (NewestFirst, either),
    ):
        assert result(to) == wanted(fix)
    assert result(Note, SameTenant(field="of", name="same")) == []
    assert result(Note, db_constraint=False) == []
    assert found(model(refers(Note, name), managed=False, constraints=[policy()])) == []


@isolate_apps("tests.app")
@pytest.mark.parametrize("name", ["CASCADE", *BY_DATABASE])
def test_what_goes_with_rows_of_its_own_tenant_is_not_found(name: str) -> None:
    owned = {"tenant": models.ForeignKey(Tenant, action(name), null=True)}
    assert found(model(owned, constraints=[policy()])) == []
    of = refers(Note, name, null=False) | {"tenant": None}
    assert found(model(of, constraints=[RLSConstraint(path="of__tenant", name="rls")])) == []
    link = models.OneToOneField(Item, action(name), parent_link=True, primary_key=True)
    child = type(
        "Child", (Item,), {"link": link, "Meta": type("Meta", (), {"app_label": "app"})} | MODULE
    )
    assert found(child) == []


@isolate_apps("tests.app")
def test_what_is_the_tenants_of_the_binding_after_a_deletion_is_found() -> None:
    key = models.ForeignKey(Tenant, action("DB_SET_DEFAULT"), db_default=CurrentTenant())
    ((identifier, text),) = found(model({"tenant": key}, constraints=[policy()]))
    assert identifier == "tenantry.W152"
    assert text.startswith("has on_delete=DB_SET_DEFAULT on tenant: PostgreSQL applies no policies")
    assert text.endswith("let Django do it, by on_delete=CASCADE or PROTECT")


@isolate_apps("tests.app")
def test_a_path_that_may_begin_nowhere_is_found() -> None:
    def result(path: str, **options: Any) -> list[tuple[str, str]]:
        fields = refers(Note, "CASCADE", **options) | {"tenant": None}
        return found(model(fields, constraints=[RLSConstraint(path=path, name="rls")]))

    # What the path leads through has a policy of its own, and a finding.
    assert result("of__parent__tenant", null=False) == []
    for path in ("of__tenant", "of__parent__tenant"):
        assert result(path) == [
            (
                "tenantry.W153",
                f"is protected by the path {path}, and of may be null: no tenant sees a row where"
                " it is, and what it refers to may be impossible to delete; set null=False on of,"
                " or protect the model by a foreign key to the tenant",
            )
        ]
    assert result("nothing__tenant") == []
    assert found(model({"of": key(null=True)}, constraints=[policy()])) == []


@isolate_apps("tests.app")
def test_what_is_a_part_of_another_packages_protected_row_is_found(settings: Any) -> None:
    assert found(model(part(Shared))) == []
    settings.RLS_TENANTS = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"app.Shared": "tenant_id"}}
    ((identifier, text),) = found(model(part(Shared)))
    assert identifier == "tenantry.W158"
    assert text.startswith("refers to the protected app.Shared by of, and has no policy, so that")
    assert "; give it a foreign key to the tenant with an RLSConstraint, or if it is" in text
    assert "put AddRLSPolicy('app.Thing') into a migration, or name it in" in text
    # Those are looked at in the database.
    link = models.OneToOneField(Shared, models.CASCADE, parent_link=True, primary_key=True)
    child = type(
        "Child",
        (Shared,),
        {"link": link, "__module__": __name__, "Meta": type("Meta", (), {"app_label": "app"})},
    )
    assert found(child) == []


def test_a_parent_that_only_its_child_protects_is_found(settings: Any) -> None:
    assert found(Document) == []
    settings.RLS_TENANTS = {"TENANT_MODEL": TENANT}
    ((identifier, text),) = found(Document)
    assert identifier == "tenantry.W158"
    assert text.startswith(
        "is a parent of the protected app.Contract, and has no policy, so that every tenant sees"
        " its part of the rows; give it a foreign key to the tenant with an RLSConstraint, or if"
    )
    settings.RLS_TENANTS = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"app.Document": "owner"}}
    assert found(Document) == []


@isolate_apps("tests.app")
def test_a_plain_column_that_names_the_tenant_is_found() -> None:
    plain = {"tenant": None, "owner": models.BigIntegerField(db_column="tenant_id")}
    ((identifier, text),) = found(model(plain))
    assert identifier == "tenantry.W154"
    assert text.startswith("has the column tenant_id, by which other models are protected, and has")
    assert "; add RLSConstraint(field='owner')" in text
    assert found(model(plain, constraints=[RLSConstraint(field="owner", name="rls")])) == []
    # Something else that is called so.
    text_field = {"tenant": None, "owner": models.TextField(db_column="tenant_id")}
    assert found(model(text_field)) == []


@isolate_apps("tests.app")
def test_a_part_that_refers_by_several_columns_is_found() -> None:
    of = models.ForeignObject(
        Invoice,
        models.DO_NOTHING,
        from_fields=("owner", "number"),
        to_fields=("tenant", "number"),
        related_name="+",
    )
    columns = {"owner": models.BigIntegerField(), "number": models.IntegerField()}
    ((identifier, text),) = found(model({"tenant": None, **columns, "of": of}))
    assert identifier == "tenantry.W158"
    assert text.startswith("refers to the protected app.Invoice by of, and has no policy, so that")
    assert "; give it a foreign key to the tenant with an RLSConstraint" in text


@isolate_apps("tests.app")
def test_what_a_generic_relation_of_a_protected_model_holds_is_found() -> None:
    fields = {"object_id": models.BigIntegerField(), "about": GenericForeignKey()}
    kind: Any = models.ForeignKey(ContentType, models.CASCADE, related_name="+")
    held = model({"tenant": None, "content_type": kind, **fields})
    assert found(held) == []
    meta = type("Meta", (), {"app_label": "app"})
    relation = {"things": GenericRelation(held), "__module__": __name__, "Meta": meta}
    type("Holder", (RLSProtectedModel,), relation)
    ((identifier, text),) = found(held)
    assert identifier == "tenantry.W158"
    assert text.startswith("is the target of a GenericRelation of the protected app.Holder, and")


@isolate_apps("tests.app")
def test_what_is_no_part_of_a_protected_row_is_not_found() -> None:
    assert found(model(part(Shared))) == found(model(part("app.Nowhere"))) == []
    assert found(model(part(null=True, on_delete=models.SET_NULL))) == []
    by_path = RLSConstraint(path="of__tenant", name="rls")
    assert found(model(part(), constraints=[by_path])) == []
    assert found(model(part(), managed=False)) == []
    given = {"TENANT_MODEL": TENANT, "SHARED_MODELS": ["app.Thing"]}
    with override_settings(RLS_TENANTS=given):
        assert found(model(part())) == []
    # Who refers to the tenant as well is told to compare that.
    assert [each for each, _ in found(model({"of": part()["of"]}))] == ["tenantry.W154"]


def test_what_another_package_has_is_protected_by_hand() -> None:
    given = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"app.Shared": "tenant_id"}}
    with override_settings(RLS_TENANTS=given):
        assert found(Shared) == []
    with override_settings(RLS_TENANTS={"TENANT_MODEL": TENANT}):
        assert [each for each, _ in found(Shared)] == ["tenantry.W158"]


def proxy_of(parent: Any, *, constraints: Any = ()) -> Any:
    options = {"app_label": "app", "proxy": True, "constraints": [*constraints]}
    meta = type("Meta", (), options)
    return type(f"ProxyOf{parent.__name__}{len(constraints)}", (parent,), {"Meta": meta} | MODULE)


@isolate_apps("tests.app")
def test_a_proxy_that_protects_nothing_is_found() -> None:
    thing = model({})
    assert found(proxy_of(thing)) == []
    assert found(proxy_of(thing, constraints=[policy()])) == [
        (
            "tenantry.E159",
            "is a proxy with an RLSConstraint, for which no migration makes a policy, so that every"
            " tenant may see the rows of app.Thing; move the RLSConstraint to app.Thing, or if that"
            " is another package's, protect it by AddRLSPolicy",
        )
    ]


@isolate_apps("tests.app")
def test_a_proxy_of_what_is_protected_is_not_found() -> None:
    safe = model({}, constraints=[policy()])
    assert found(proxy_of(safe, constraints=safe._meta.constraints)) == []
    by_hand = proxy_of(Shared, constraints=[RLSConstraint(field="note", name="rls")])
    assert [each for each, _ in found(by_hand)] == ["tenantry.E159"]
    given = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"app.Shared": "tenant_id"}}
    with override_settings(RLS_TENANTS=given):
        assert found(by_hand) == []


@isolate_apps("tests.app")
def test_a_relation_to_the_tenant_has_the_advice_that_it_can_take() -> None:
    thing = model(
        {"tenant": models.TextField(), "tenants": models.ManyToManyField(Tenant, related_name="+")}
    )
    assert found(thing) == []
    through = thing.tenants.through
    ((identifier, text),) = found(through)
    assert identifier == "tenantry.W154"
    assert "write a model for the relation, with an RLSConstraint, as its through" in text
    shared = {"TENANT_MODEL": TENANT, "SHARED_MODELS": ["app.Thing"]}
    with override_settings(RLS_TENANTS=shared):
        assert found(through) == []
    # Of the user model, which need not be named.
    with override_settings(AUTH_USER_MODEL="app.Thing"):
        assert found(through) == []


@isolate_apps("tests.app")
def test_a_model_that_names_a_proxy_of_the_tenant_is_found() -> None:
    class Customer(Tenant):
        class Meta:
            app_label = "app"
            proxy = True

    thing = model({"tenant": models.ForeignKey(Customer, models.CASCADE, related_name="+")})
    assert [each for each, _ in found(thing)] == ["tenantry.W154"]


@override_settings(AUTH_USER_MODEL="auth.User")
def test_the_user_model_is_shared() -> None:
    assert [each for each, _ in found(User)] == ["tenantry.W154"]
    given = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"app.User": "tenant_id"}}
    with override_settings(RLS_TENANTS=given):
        assert [each for each, _ in found(User)] == ["tenantry.W155"]


def protected(first: Any = None, **attributes: Any) -> Any:
    attributes.setdefault("Meta", type("Meta", (), {"app_label": "app"}))
    bases = (first, RLSProtectedModel) if first else (RLSProtectedModel,)
    return type("Safe", bases, {**attributes, "__module__": __name__})


@isolate_apps("tests.app")
def test_a_protected_model_without_its_tenant_is_refused() -> None:
    nothing: dict[str, Any] = {"tenant": None}
    message = r"app.Safe is an RLSProtectedModel without the foreign key 'tenant' in its table"
    for attributes in (nothing, {"tenant": "text"}, {"tenant": models.ManyToManyField(Tenant)}):
        with pytest.raises(RLSConfigurationError, match=message):
            protected(**attributes)
    # Django takes the field of the parent that has a table, which nothing protects.
    with pytest.raises(RLSConfigurationError, match=message):
        protected(first=model({}))


@pytest.mark.filterwarnings("ignore:Model 'app.safe' was already registered")
@isolate_apps("tests.app")
def test_a_protected_model_may_have_its_tenant_elsewhere() -> None:
    options = {"app_label": "app", "constraints": [RLSConstraint(field="customer", name="other")]}
    other = protected(tenant=None, customer=key(), Meta=type("Meta", (), options))
    (constraint,) = other._meta.constraints
    assert constraint.field == "customer"

    def child_of(parent: Any, name: str) -> Any:
        return type(name, (parent,), {"Meta": type("Meta", (), {"app_label": "app"})} | MODULE)

    for number, parent in enumerate((other, protected())):
        child = child_of(parent, f"Child{number}")
        grandchild = child_of(child, f"Grandchild{number}")
        assert child._meta.constraints == grandchild._meta.constraints == []


@pytest.mark.filterwarnings("ignore:Model 'app.safe' was already registered")
@isolate_apps("tests.app")
def test_a_tenant_that_is_declared_behind_the_base_is_refused() -> None:
    def abstract(name: str, *bases: Any, **fields: Any) -> Any:
        meta = type("Meta", (), {"app_label": "app", "abstract": True})
        return type(name, bases, {"Meta": meta, **fields, **MODULE})

    mixin = abstract("Mixin", models.Model, tenant=key(null=True))
    assert protected(first=mixin)._meta.get_field("tenant").null
    behind = abstract("Behind", RLSProtectedModel, mixin)
    assert protected(first=behind, tenant=key())
    message = "app.Safe has the foreign key 'tenant' of RLSProtectedModel.+put Mixin before"
    with pytest.raises(RLSConfigurationError, match=message):
        protected(first=behind)


UNIQUE: dict[str, tuple[Fields, dict[str, Any], bool]] = {
    "a field": (lambda: {"code": models.TextField(unique=True)}, {}, True),
    "unique_together": (
        lambda: {"a": models.TextField(), "b": models.TextField()},
        {"unique_together": [("a", "b")]},
        True,
    ),
    "a constraint": (lambda: {"code": models.TextField()}, {"constraints": [unique("code")]}, True),
    "an expression": (
        lambda: {"code": models.TextField()},
        {"constraints": [models.UniqueConstraint(Lower("code"), name="once")]},
        True,
    ),
    "an expression with the tenant": (
        lambda: {"code": models.TextField()},
        {"constraints": [models.UniqueConstraint(Lower("code"), "tenant", name="once")]},
        False,
    ),
    "a constraint with the tenant": (
        lambda: {"code": models.TextField()},
        {"constraints": [unique("tenant", "code")]},
        False,
    ),
    "unique_together with the tenant": (
        lambda: {"a": models.TextField()},
        {"unique_together": [("tenant", "a")]},
        False,
    ),
    "a key that somebody chooses": (
        lambda: {"code": models.TextField(primary_key=True)},
        {},
        True,
    ),
    "a key that nobody chooses": (
        lambda: {"code": models.TextField(primary_key=True, default=token_hex)},
        {},
        False,
    ),
    "a key that the database makes": (
        lambda: {"code": models.TextField(primary_key=True, db_default=Value("x"))},
        {},
        False,
    ),
    "a key of several fields": (
        lambda: {
            "pk": models.CompositePrimaryKey("a", "b"),
            "a": models.TextField(),
            "b": models.TextField(),
        },
        {},
        True,
    ),
    "a key of several fields with the tenant": (
        lambda: {"pk": models.CompositePrimaryKey("tenant_id", "a"), "a": models.TextField()},
        {},
        False,
    ),
    "an exclusion": (lambda: {"room": models.IntegerField()}, {"constraints": [exclusion()]}, True),
    "an exclusion with the tenant": (
        lambda: {"room": models.IntegerField()},
        {"constraints": [exclusion(("tenant", "="))]},
        False,
    ),
    "an exclusion with other tenants": (
        lambda: {"room": models.IntegerField()},
        {"constraints": [exclusion((models.F("tenant"), "<>"))]},
        True,
    ),
    "an expression with the key": (
        lambda: {"code": models.TextField()},
        {"constraints": [models.UniqueConstraint(Lower("code"), models.F("pk"), name="once")]},
        False,
    ),
    "an expression with a key of several fields": (
        lambda: {
            "pk": models.CompositePrimaryKey("tenant_id", "a"),
            "a": models.TextField(),
        },
        {"constraints": [models.UniqueConstraint(Lower("a"), models.F("pk"), name="once")]},
        False,
    ),
    "a UUID": (lambda: {"code": models.UUIDField(unique=True)}, {}, False),
    "the tenant": (lambda: {"tenant": key(unique=True)}, {}, False),
}


@pytest.mark.parametrize("name", UNIQUE)
@isolate_apps("tests.app")
def test_what_is_unique_over_all_tenants_is_found(name: str) -> None:
    fields, options, is_found = UNIQUE[name]
    options = {**options, "constraints": [policy(), *options.get("constraints", [])]}
    result = found(model(fields(), **options))
    assert [each for each, _ in result] == (["tenantry.W155"] if is_found else []), result
    assert not is_found or "make it unique together with tenant" in result[0][1]


@isolate_apps("tests.app")
def test_a_primary_key_that_somebody_chooses_cannot_hold_the_tenant_too() -> None:
    thing = model({"code": models.TextField(primary_key=True)}, constraints=[policy()])
    ((_, text),) = found(thing)
    assert "take a primary key that nobody chooses, and make it unique together with te" in text


@isolate_apps("tests.app")
def test_what_is_unique_in_the_table_of_a_child_is_found() -> None:
    parent = model({}, constraints=[policy()])
    fields = {"code": models.TextField(unique=True)}
    meta = type("Meta", (), {"app_label": "app"})
    child = type("Child", (parent,), {**fields, "Meta": meta, "__module__": __name__})
    assert found(child) == [
        (
            "tenantry.W155",
            "is unique by code over all tenants, so that a tenant learns what another has; move it"
            " to app.Thing, and make it unique together with the tenant there",
        )
    ]


@isolate_apps("tests.app")
def test_what_is_unique_at_the_end_of_a_path_is_found() -> None:
    def line(*constraints: Any) -> Any:
        fields = {
            "tenant": None,
            "note": models.ForeignKey(Note, models.CASCADE, related_name="+"),
            "code": models.TextField(),
        }
        path = RLSConstraint(path="note__tenant", name="rls")
        return model(fields, constraints=[path, *constraints])

    assert found(line(unique("note", "code"))) == []
    ((identifier, text),) = found(line(unique("code")))
    assert identifier == "tenantry.W155"
    assert text.endswith("; make it unique together with note")


def test_what_is_unique_in_the_table_of_another_package_is_found(settings: Any) -> None:
    relation: Any = Group.permissions.through
    names = {"auth.Group": "tenant_id", "auth.Group_permissions": "tenant_id"}
    settings.RLS_TENANTS = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": names}
    assert found(Group, relation) == [
        (
            "tenantry.W155",
            "is unique by name over all tenants, so that a tenant learns what another has; let the"
            " package take a model of yours, with the tenant in its constraints",
        )
    ]
    # A column that the model knows.
    settings.RLS_TENANTS = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"app.User": "tenant_id"}}
    assert [text.partition("; ")[2] for _, text in found(User)] == [
        "make it unique together with tenant"
    ]
    settings.RLS_TENANTS = {"TENANT_MODEL": TENANT, "EXTERNAL_MODELS": {"auth.Group": "name"}}
    assert found(Group) == []


@isolate_apps("tests.app")
def test_an_unmanaged_model_with_a_policy_is_looked_at() -> None:
    fields = {"code": models.TextField(unique=True)}
    ((identifier, _),) = found(model(fields, managed=False, constraints=[policy()]))
    assert identifier == "tenantry.W155"


def test_labels_that_name_nothing_are_found() -> None:
    given = {
        "TENANT_MODEL": TENANT,
        "SHARED_MODELS": ["APP.shared", "app.Shard", "app.Note_tags", "zzz.Qqq"],
        "STRICT_MODE_EXCLUDE": ["app.Note", "app.note", "app", "App", "zzz"],
    }
    with override_settings(RLS_TENANTS=given):
        said = [(each.id, f"{each.msg} {each.hint}") for each in check_labels()]
    assert [identifier for identifier, _ in said] == ["tenantry.W157"] * len(said)
    shared, excluded = "RLS_TENANTS['SHARED_MODELS']", "RLS_TENANTS['STRICT_MODE_EXCLUDE']"
    assert [text for _, text in said] == [
        f"{shared} names 'app.Shard', which is not installed. write 'app.Shared'.",
        f"{shared} names 'app.Note_tags', which is not installed. write 'app.Note'.",
        f"{shared} names 'zzz.Qqq', which is not installed. correct it, or remove it.",
        f"{excluded} names 'app.note', which is not installed. write 'app.Note'.",
        f"{excluded} names 'App', which is not installed. write 'app'.",
        f"{excluded} names 'zzz', which is not installed. correct it, or remove it.",
    ]
