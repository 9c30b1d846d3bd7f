"""``RLSConstraint``: what it takes, what its checks find, and paths to the tenant."""

from __future__ import annotations

import inspect
import re
from textwrap import dedent
from typing import Any

import pytest
from django.db import ProgrammingError, connections, models
from django.test.utils import isolate_apps

from tenantry import (
    RawPredicate,
    RLSConstraint,
    RLSProtectedModel,
    SharedWith,
    TenantField,
    admin_context,
    tenant_context,
)
from tenantry.exceptions import RLSConfigurationError
from tests.app.models import Book, Item, NewestFirst, Note, Tenant
from tests.fix_migrations import Migrate
from tests.migrated import ORDER, SHARED, base, line
from tests.sql import run

Tenants = tuple[Tenant, Tenant]


def to_tenant() -> Any:
    return models.ForeignKey(Tenant, models.CASCADE, related_name="+")


@isolate_apps("tests.app")
def test_what_cannot_be_shared_is_found_by_a_check() -> None:
    class Unprotected(models.Model):
        row = models.ForeignKey("Row", models.CASCADE)
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"

    class Silent(models.Model):
        row = models.ForeignKey("Row", models.CASCADE)
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        recipient = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(
                    field="tenant",
                    name="silent",
                    extra_predicates=[RawPredicate("true"), TenantField("tenant")],
                )
            ]

    wrong: Any = "is_public"

    class Row(models.Model):
        tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")
        title = models.TextField()

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(
                    field="tenant",
                    name="row",
                    extra_predicates=[
                        TenantField("nobody"),
                        TenantField("title"),
                        RawPredicate(" "),
                        RawPredicate("true; DROP TABLE app_note"),
                        SharedWith("app.Missing", row="row", tenant="tenant"),
                        SharedWith("app.Unprotected", row="row", tenant="tenant"),
                        SharedWith("app.Silent", row="nothing", tenant="recipient"),
                        SharedWith("app.Silent", row="row", tenant="nobody"),
                        SharedWith("app.Silent", row="row", tenant="recipient"),
                        wrong,
                    ],
                    extra_bypass_flags=["unknown"],
                )
            ]

    constraint: Any = Row._meta.constraints[0]
    found = [(each.id, each.msg) for each in constraint._check(Row, connections["default"])]
    assert [id_ for id_, _ in found] == ["tenantry.E004"] * 10 + ["tenantry.E005"]
    for (_, message), part in zip(
        found,
        [
            "app.Row has no field 'nobody'",
            "app.Row.title is not a foreign key",
            "' ' is not a boolean expression",
            "DROP TABLE app_note' is not one boolean expression of SQL: it has a",
            "'app.Missing' is not a model",
            "app.Unprotected is not protected, so that anybody could share",
            "app.Silent has no field 'nothing'",
            "app.Silent has no field 'nobody'",
            "give its RLSConstraint extra_predicates=[TenantField('recipient')]",
            "'is_public' is not a SharedWith, TenantField or RawPredicate",
            "has bypass flags that nothing can set: unknown",
        ],
        strict=True,
    ):
        assert part in message


@isolate_apps("tests.app")
def test_a_foreign_key_to_another_model_than_it_should_be_is_found_by_a_check() -> None:
    class Person(models.Model):
        class Meta:
            app_label = "app"

    class Sent(models.Model):
        row = models.ForeignKey("Doc", models.CASCADE)
        other = models.ForeignKey(Person, models.CASCADE)
        lost = models.ForeignKey("app.Missing", models.CASCADE)
        tenant = to_tenant()
        recipient = to_tenant()

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(
                    field="tenant", name="sent", extra_predicates=[TenantField("recipient")]
                )
            ]

    def sent(row: str = "row", recipient: str = "recipient", **more: Any) -> SharedWith:
        return SharedWith("app.Sent", row=row, tenant=recipient, **more)

    class Doc(models.Model):
        tenant = to_tenant()
        person = models.ForeignKey(Person, models.CASCADE)

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(
                    field="tenant",
                    name="doc",
                    extra_predicates=[
                        TenantField("person"),
                        sent("other"),
                        sent("lost"),
                        sent(recipient="other"),
                        sent(owner="recipient"),
                        sent(owner="tenant"),
                    ],
                )
            ]

    class Part(models.Model):
        doc = models.ForeignKey(Doc, models.CASCADE)

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(path="doc__tenant", name="p", extra_predicates=[sent()])]

    found = checked(Doc)
    assert [id_ for id_, _ in found] == ["tenantry.E004"] * 5
    for (_, message), part in zip(
        found,
        [
            "app.Doc.person refers to app.Person, and not to the tenant, app.Tenant; name a",
            "app.Sent.other refers to app.Person, and not to app.Doc; name the foreign key to app",
            "app.Sent.lost refers to app.Missing, which is not a model",
            "app.Sent.other refers to app.Person, and not to the tenant, app.Tenant",
            "app.Sent is protected by tenant, and not by recipient; say SharedWith(owner='tenant')",
        ],
        strict=True,
    ):
        assert part in message
    assert [message for _, message in checked(Part)] == [
        "app.Part cannot be shared: app.Sent.row refers to app.Doc, and not to app.Part; name the"
        " foreign key to app.Part in SharedWith(row=...)."
    ]


@isolate_apps("tests.app")
def test_what_documents_a_share_is_a_model_that_django_takes() -> None:
    class Tenant(models.Model):
        class Meta:
            app_label = "app"

    class Note(RLSProtectedModel):
        class Meta:
            app_label = "app"

    sample = re.search(r"::\n\n(.*?)\n\n(?=\S)", inspect.getdoc(SharedWith) or "", re.DOTALL)
    assert sample is not None
    named: dict[str, Any] = {"__name__": "tests.app.models", "Tenant": Tenant, "Note": Note}
    named |= {"RLSProtectedModel": RLSProtectedModel, "RLSConstraint": RLSConstraint}
    named |= {"TenantField": TenantField}
    named |= {"ForeignKey": models.ForeignKey, "CASCADE": models.CASCADE}
    exec(dedent(sample[1]), named)
    assert named["NoteShare"].check() == []


@isolate_apps("tests.app")
def test_the_owner_of_a_shared_row_is_a_column() -> None:
    class Sent(models.Model):
        row = models.ForeignKey("Part", models.CASCADE)
        tenant = to_tenant()
        recipient = to_tenant()

        class Meta:
            app_label = "app"

    class Part(models.Model):
        note = models.ForeignKey(Note, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"
            constraints = [
                RLSConstraint(
                    path="note__tenant",
                    name="part",
                    extra_predicates=[SharedWith("app.Sent", row="row", tenant="recipient")],
                )
            ]

    ((_, message),) = checked(Part)
    assert "the RLSConstraint has a path; give the model a foreign key to the tenant" in message


def checked(model: Any) -> list[tuple[str, str]]:
    constraint: Any = model._meta.constraints[0]
    return [(each.id, each.msg) for each in constraint._check(model, connections["default"])]


@isolate_apps("tests.app")
def test_a_constraint_that_does_not_lead_to_the_tenant_is_found_by_a_check() -> None:
    def fields(**given: Any) -> Any:
        meta = type("Meta", (), {"app_label": "app", "constraints": given.pop("rls", [])})
        return {**given, "Meta": meta, "__module__": __name__}

    def to(model: Any, **options: Any) -> Any:
        return models.ForeignKey(model, models.CASCADE, related_name="+", **options)

    def made(name: str, *, by: str | None = None, path: str | None = None, **given: Any) -> Any:
        rls = [RLSConstraint(field=by, path=path, name=name)] if by or path else []
        return type(name, (models.Model,), fields(rls=rls, **given))

    person = made("Person", age=models.IntegerField())
    branch = type("Branch", (Tenant,), fields())
    plain = made("Plain", by="n", n=models.BigIntegerField())
    holder = made("Holder", t=to(Tenant), p=to(person), n=models.BigIntegerField())
    odd = made("Odd", by="n", n=models.IntegerField())
    good = [
        made("A1", by="t", t=to(Tenant)),
        made("A2", by="t", t=to(branch)),
        made("A3", by="h", h=models.BigIntegerField()),
        made("A4", path="h__t", h=to(holder)),
        made("A5", path="h__t__id", h=to(holder)),
        made("A6", path="h__n", h=to(plain)),
        made("A7", by="t", t=to("app.Nobody")),
        made("A8", path="t__x", t=to("app.Nobody")),
    ]
    assert [(each.__name__, checked(each)) for each in good if checked(each)] == []
    for model, part in (
        (made("B1", by="p", p=to(person)), "by p: app.B1.p refers to app.Person, and not to the"),
        (made("B2", path="h__p", h=to(holder)), "by h__p: app.Holder.p refers to app.Person"),
        (made("B3", path="h__n", h=to(holder)), "app.Holder.n is not a foreign key to the tenant"),
        (made("B4", path="p__age", p=to(person)), "app.Person.age is not a foreign key to the"),
        (made("B5", path="h__n", h=to(odd)), "app.Odd.n is of type int, and a tenant id of type b"),
    ):
        ((id_, message),) = checked(model)
        assert id_ == "tenantry.E007"
        assert part in message


def test_a_path_leads_to_the_tenant(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    state = migrate(line("up__tenant"), migrate(ORDER, base()))
    state = migrate(line("up__up__tenant", "Part", "Line"), state)
    order, row, part = (
        state.apps.get_model("migrated", name)._default_manager
        for name in ("Order", "Line", "Part")
    )
    made = {}
    for each in tenants:
        with tenant_context(each.pk):
            made[each] = order.create()
            part.create(up=row.create(up=made[each]))
    for model, table in ((row, "migrated_line"), (part, "migrated_part")):
        count = f"SELECT count(*) FROM {table}"
        assert (model.count(), run(count)) == (0, [(0,)])
        for each in tenants:
            with tenant_context(each.pk):
                assert (model.count(), run(count)) == (1, [(1,)])
        with admin_context():
            assert (model.count(), run(count)) == (2, [(2,)])
    with tenant_context(a.pk):
        assert "IN (SELECT o1." in str(part.all().query)
        assert [each.up.up for each in part.select_related("up__up")] == [made[a]]
        with pytest.raises(ProgrammingError, match="row-level security"):
            row.create(up_id=made[b].pk)
        with pytest.raises(ProgrammingError, match="row-level security"):
            row.update(up_id=made[b].pk)
        assert row.filter(up_id=made[b].pk).delete()[0] == 0


def test_a_path_that_leads_nowhere_is_found_by_a_check(tenants: Tenants) -> None:

    for path, id_, part in (
        ("author__nobody", "tenantry.E001", "app.Author has no field 'nobody'"),
        ("author__note", "tenantry.E002", "app.Author.note is not a column of the model's own"),
        ("title__tenant", "tenantry.E003", "app.Note.title is not a foreign key"),
        ("tagging__tenant", "tenantry.E001", "app.Note has no field 'tagging'"),
    ):
        constraint = RLSConstraint(path=path, name="n")
        [found] = constraint._check(Note, connections["default"])
        assert found.id == id_
        assert part in found.msg


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ({"field": "nobody"}, "Name the foreign key to the tenant in RLSConstraint(field=...)."),
        ({"path": "author__nobody"}, "at the end, in RLSConstraint(path='order__tenant')."),
        ({"path": "author.tenant"}, "at the end, in RLSConstraint(path='author__tenant')."),
    ],
)
def test_a_check_says_how_a_way_to_the_tenant_is_named(given: Any, hint: str) -> None:
    [found] = RLSConstraint(**given, name="n")._check(Note, connections["default"])
    assert found.id == "tenantry.E001"
    assert found.hint is not None
    assert found.hint.endswith(hint)


def test_a_tenant_in_the_table_of_a_parent_is_found_by_a_check() -> None:
    constraint: Any = RLSConstraint(field="tenant", name="n")
    of_parent = (
        "Leave it to app.Item: rows of a child are protected with their parent's. A model that has"
        " it from an abstract base needs a Meta of its own."
    )
    for model, name, hint in (
        # Django refuses a second field of that name.
        (Book, "app.Book.tenant", of_parent),
        (Item, "app.Item.comments", "Declare a foreign key to the tenant on this model."),
    ):
        constraint.field = name.rpartition(".")[2]
        (found,) = constraint._check(model, connections["default"])
        assert found.id == "tenantry.E002"
        assert found.msg == f"{name} is not a column of the model's own table."
        assert found.hint == hint


@isolate_apps("tests.app")
def test_a_way_to_the_tenant_may_lead_through_a_proxy() -> None:
    class Chapter(models.Model):
        of = models.ForeignKey(NewestFirst, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"

    constraint: Any = RLSConstraint(path="of__tenant", name="n")
    assert constraint._check(Chapter, connections["default"]) == []
    assert constraint.way_of(Chapter).hops[0].table == "app_item"
    # That it makes no policy for a proxy is another check's to say.
    own: Any = RLSConstraint(field="tenant", name="n")
    assert own._check(NewestFirst, connections["default"]) == []


@isolate_apps("tests.app")
def test_a_path_through_a_child_is_told_the_link_to_its_parent() -> None:
    class Novel(Book):
        class Meta:
            app_label = "app"

    class Chapter(models.Model):
        book = models.ForeignKey(Book, models.CASCADE, related_name="+")
        novel = models.ForeignKey(Novel, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"

    class Page(models.Model):
        chapter = models.ForeignKey(Chapter, models.CASCADE, related_name="+")

        class Meta:
            app_label = "app"

    connection = connections["default"]
    for model, path, name, right in (
        (Chapter, "book__tenant", "app.Book.tenant", "book__item_ptr__tenant"),
        (Chapter, "novel__tenant", "app.Novel.tenant", "novel__book_ptr__item_ptr__tenant"),
        (Page, "chapter__book__tenant", "app.Book.tenant", "chapter__book__item_ptr__tenant"),
        (Book, "replaces__tenant", "app.Book.replaces", "item_ptr__replaces__tenant"),
    ):
        [found] = RLSConstraint(path=path, name="n")._check(model, connection)
        assert (found.id, found.msg) == (
            "tenantry.E002",
            f"{name} is not a column of the model's own table.",
        )
        assert found.hint == f"Name the link to the parent's table: RLSConstraint(path={right!r})."
        assert RLSConstraint(path=right, name="n")._check(model, connection) == []


@isolate_apps("tests.app")
def test_a_share_names_the_row_as_its_foreign_key_does() -> None:
    class Doc(models.Model):
        tenant = to_tenant()
        code = models.IntegerField(unique=True)

        class Meta:
            app_label = "app"
            constraints = [RLSConstraint(field="tenant", name="doc")]

    class Sent(models.Model):
        doc = models.ForeignKey(Doc, models.CASCADE, to_field="code")
        tenant = to_tenant()
        recipient = to_tenant()

        class Meta:
            app_label = "app"

    quote = connections["default"].ops.quote_name
    share = SharedWith("app.Sent", row="doc", tenant="recipient")
    assert 'share."doc_id" = "app_doc"."code" AND' in share.sql(Doc, '"app_doc"', "1", quote)


@pytest.mark.parametrize("label", ["nope", "app.Note.Share", "", None, Note])
def test_the_model_of_shares_is_named_by_its_label(label: Any) -> None:
    problem = SharedWith(label, row="note", tenant="recipient").problem(Note)
    assert problem == f"{label!r} is not the label of a model, such as 'app_label.Model'"


@pytest.mark.parametrize(
    ("option", "one", "wanted"),
    [
        ("extra_predicates", "is_public", "[RawPredicate('is_public')]"),
        ("extra_predicates", TenantField("partner"), "[TenantField(...)]"),
        ("extra_bypass_flags", "login", "['login']"),
    ],
)
def test_one_in_place_of_a_list_is_refused(option: str, one: Any, wanted: str) -> None:
    given: Any = {option: one}
    with pytest.raises(RLSConfigurationError, match="takes a list of") as caught:
        RLSConstraint(field="tenant", **given)
    assert str(caught.value).endswith(f"; write {option}={wanted}")


@pytest.mark.parametrize("given", [{}, {"field": "tenant", "path": "a__tenant"}])
def test_a_constraint_has_a_field_or_a_path(given: Any) -> None:
    with pytest.raises(RLSConfigurationError, match="takes a field or a path to the tenant"):
        RLSConstraint(**given)


def test_migrations_spell_all_of_it_out() -> None:
    constraint = RLSConstraint(
        field="tenant",
        name="n",
        extra_predicates=[TenantField("partner"), RawPredicate("x"), SHARED],
        extra_bypass_flags=["login"],
    )
    _, args, kwargs = constraint.deconstruct()
    again = RLSConstraint(*args, **kwargs)
    assert again == constraint == constraint.clone()
    assert again != RLSConstraint(field="tenant", name="n")
    assert again != RLSConstraint(path="a__tenant", name="n")
    assert RLSConstraint(path="a__tenant", name="n") == RLSConstraint(path="a__tenant", name="n")
