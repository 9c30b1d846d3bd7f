"""Rows that tenants read beyond their own: shared ones, and under a bypass flag."""

from __future__ import annotations

import inspect
import pickle
import re
from contextlib import nullcontext
from textwrap import dedent
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from django.db import (
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
    connections,
    models,
    transaction,
)
from django.db.migrations import (
    AddConstraint,
    CreateModel,
    RemoveConstraint,
    SeparateDatabaseAndState,
)
from django.db.migrations.autodetector import MigrationAutodetector
from django.db.migrations.graph import MigrationGraph
from django.db.migrations.questioner import MigrationQuestioner
from django.db.migrations.state import ProjectState
from django.db.models.sql import Query
from django.test.utils import isolate_apps

from tenantry import (
    CurrentTenant,
    RawPredicate,
    RLSConstraint,
    RLSManager,
    RLSProtectedModel,
    SharedWith,
    TenantField,
    admin_context,
    bypass_flag,
    tenant_context,
)
from tenantry.exceptions import NoTenantContextError, RLSConfigurationError
from tests import settings as test_settings
from tests.app.models import Book, Item, NewestFirst, Note, Tenant
from tests.fix_checks import broken
from tests.fix_migrations import Migrate
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
FLAG = {**test_settings.RLS_TENANTS, "BYPASS_FLAGS": ["login"]}


def key(**options: Any) -> Any:
    return models.ForeignKey("app.Tenant", models.CASCADE, related_name="+", **options)


def to_tenant() -> Any:
    return models.ForeignKey(Tenant, models.CASCADE, related_name="+")


def tenant() -> Any:
    return key(db_default=CurrentTenant())


def base() -> ProjectState:
    """Return a state with the tenant model, whose table is there."""
    state = ProjectState()
    fields: list[tuple[str, Any]] = [
        ("id", models.BigAutoField(primary_key=True)),
        ("name", models.TextField()),
    ]
    CreateModel("Tenant", fields).state_forwards("app", state)
    return state


def paper(*predicates: Any, **more: Any) -> CreateModel:
    fields = {
        "id": models.BigAutoField(primary_key=True),
        "tenant": tenant(),
        "partner": key(null=True),
        "is_public": models.BooleanField(db_default=False),
        "title": models.TextField(),
    }
    constraint = RLSConstraint(
        field="tenant", extra_predicates=list(predicates), name="paper_rls", **more
    )
    return CreateModel(
        "Paper",
        list(fields.items()),
        {"constraints": [constraint]},
        managers=[("objects", RLSManager())],
    )


SHARE = CreateModel(
    "Share",
    [
        ("id", models.BigAutoField(primary_key=True)),
        ("tenant", tenant()),
        ("paper", models.ForeignKey("migrated.Paper", models.CASCADE)),
        ("recipient", key()),
    ],
    {
        "constraints": [
            RLSConstraint(
                field="tenant", extra_predicates=[TenantField("recipient")], name="share_rls"
            )
        ]
    },
)
SHARED = SharedWith("migrated.Share", row="paper", tenant="recipient")
SHARED_AGAIN = SharedWith(model="migrated.Share", tenant="recipient", row="paper")


def papers(state: ProjectState) -> Any:
    manager: Any = RLSManager()
    manager.model = state.apps.get_model("migrated", "Paper")
    return manager.using("default")


def titles(queryset: Any) -> list[str]:
    return sorted(queryset.values_list("title", flat=True))


def check_readers(objects: Any, owner: Tenant, other: Tenant, *, shared: str) -> None:
    """Check that `other` reads one more row of `owner`, `shared`, and writes none."""
    own = ["private", shared]
    with tenant_context(owner.pk):
        assert titles(objects.all()) == titles(objects.including_shared()) == sorted(own)
    with tenant_context(other.pk):
        assert titles(objects.all()) == []
        assert titles(objects.including_shared()) == [shared]
        assert titles(objects.including_shared() | objects.including_shared()) == [shared]
        assert titles(objects.including_shared().filter(title__contains="i")) == []
        assert run("SELECT title FROM migrated_paper") == [(shared,)]
        row = objects.including_shared().get()
        assert objects.including_shared().update(title="x") == 0
        assert run("UPDATE migrated_paper SET title = 'x'") == 0
        assert run("DELETE FROM migrated_paper WHERE id = %s", [row.pk]) == 0
        assert run("SELECT title FROM migrated_paper FOR UPDATE") == []
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("INSERT INTO migrated_paper (title, tenant_id) VALUES ('x', %s)", [owner.pk])
    assert titles(objects.including_shared()) == run("SELECT title FROM migrated_paper") == []
    with admin_context():
        assert titles(objects.all()) == titles(objects.including_shared()) == sorted(own)


# Whether somebody else's policies show, and take, every row, which the restrictive ones are for.
STRAY = [False, pytest.param(True, marks=pytest.mark.admin_role)]


def add_stray_policies(*tables: str) -> None:
    for table in tables:
        sql = f"CREATE POLICY stray ON migrated_{table} USING (true) WITH CHECK (true)"
        run(sql, alias="owner")


@pytest.mark.parametrize("is_stray", STRAY)
def test_a_partner_reads_what_names_it(is_stray: bool, tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(migrate(paper(TenantField("partner")), base()))
    if is_stray:
        add_stray_policies("paper")
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="for b", partner_id=b.pk)
    check_readers(objects, a, b, shared="for b")


@pytest.mark.parametrize("sliced", ["left", "right"])
def test_a_slice_has_what_is_shared_in_an_operator(
    sliced: str, tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    objects = papers(migrate(paper(TenantField("partner")), base()))
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="for b", partner_id=b.pk)
    with tenant_context(b.pk):
        objects.create(title="own")

    def pair(rows: Any, others: Any) -> Any:
        return (rows[:9], others) if sliced == "left" else (others, rows[:9])

    user: Any = SimpleNamespace(is_authenticated=True, is_tenant_admin=False, rls_tenant_id=b.pk)
    for found, scope in (
        (objects.including_shared(), tenant_context(b.pk)),
        (objects.for_user(user).including_shared(), nullcontext()),
    ):
        rows = found.order_by("pk")
        with scope:
            one, other = pair(rows, rows)
            assert titles(one | other) == ["for b", "own"]
            one, other = pair(rows, rows.filter(title="own"))
            assert titles(one ^ other) == ["for b"]


COMMENT = CreateModel(
    "Comment",
    [
        ("id", models.BigAutoField(primary_key=True)),
        ("tenant", tenant()),
        ("paper", models.ForeignKey("migrated.Paper", models.CASCADE)),
    ],
    {"constraints": [RLSConstraint(field="tenant", name="comment_rls")]},
)


def test_only_own_rows_are_deleted_and_with_them_what_refers_to_them(
    tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    state = migrate(COMMENT, migrate(paper(TenantField("partner")), base()))
    objects, comments = papers(state), state.apps.get_model("migrated", "Comment")._default_manager
    with tenant_context(a.pk):
        shared = objects.create(title="for b", partner_id=b.pk)
    with tenant_context(b.pk):
        own = objects.create(title="own")
        for each in (shared, own):
            comments.create(paper_id=each.pk)
        found = objects.including_shared()
        assert len(found) == 2
        assert found.update(title="mine") == 1
        assert titles(found.all()) == ["for b", "mine"]
        assert found.delete() == (2, {"migrated.Comment": 1, "migrated.Paper": 1})
        assert [each.title for each in found] == ["for b"]
        assert comments.get().paper_id == shared.pk
        assert found.delete.queryset_only
        assert found.delete.alters_data
        # Of an instance Django knows no queryset.
        assert found.get().delete()[1]["migrated.Comment"] == 1
        assert titles(objects.including_shared()) == ["for b"]


@pytest.mark.parametrize(
    ("action", "left"),
    [
        ("", [("B 1", True), ("B 2", False)]),
        ("ON DELETE CASCADE", [("B 2", False)]),
        ("ON DELETE SET NULL", [("B 1", False), ("B 2", False)]),
    ],
)
def test_what_the_database_does_on_delete_reaches_rows_of_others(
    action: str,
    left: list[tuple[str, bool]],
    tenants: Tenants,
    migrate: Migrate,
    arrange: psycopg.Connection[Any],
) -> None:
    """PostgreSQL applies no policies to it, and check W152 warns of it."""
    a, b = tenants
    migrate(paper(TenantField("partner")), base())
    add = f"ALTER TABLE app_note ADD COLUMN about bigint REFERENCES migrated_paper {action}"
    with broken(arrange, add, "ALTER TABLE app_note DROP COLUMN about"):
        with tenant_context(a.pk):
            run("INSERT INTO migrated_paper (title, partner_id) VALUES ('for b', %s)", [b.pk])
        with tenant_context(b.pk):
            run("UPDATE app_note SET about = (SELECT id FROM migrated_paper) WHERE title = 'B 1'")
        refused = nullcontext() if action else pytest.raises(IntegrityError)
        with tenant_context(a.pk), refused:
            run("DELETE FROM migrated_paper")
        with tenant_context(b.pk):
            assert run("SELECT title, about IS NOT NULL FROM app_note ORDER BY title") == left


@pytest.mark.parametrize("method", ["filter", "exclude"])
@pytest.mark.parametrize(
    "condition",
    [
        models.Q(comment=None),
        models.Q(comment__isnull=False),
        models.Q(comment__gt=0),
        models.Q(comment__in=[0]),
        models.Q(comment=None, title__contains="for"),
        models.Q(comment=None) | models.Q(title="own"),
        ~models.Q(comment=None),
    ],
    ids=str,
)
def test_what_refers_to_shared_rows_is_excluded_as_by_the_policy_alone(
    condition: models.Q,
    method: str,
    tenants: Tenants,
    migrate: Migrate,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = tenants
    state = migrate(COMMENT, migrate(paper(TenantField("partner")), base()))
    objects, comments = papers(state), state.apps.get_model("migrated", "Comment")._default_manager
    with tenant_context(a.pk):
        objects.create(title="private")
        rows = [objects.create(title=title, partner_id=b.pk) for title in ("for b", "for b, too")]
    user: Any = SimpleNamespace(is_authenticated=True, is_tenant_admin=False, rls_tenant_id=b.pk)
    with tenant_context(b.pk):
        rows += [objects.create(title="own"), objects.create(title="own, too")]
        for row in (rows[1], rows[3]):
            comments.create(paper_id=row.pk)
        found = getattr(objects.including_shared(), method)(condition)
        scoped = titles(found)
        with monkeypatch.context() as patch:
            patch.setattr("tenantry.backends.postgresql.compiler.protections", lambda apps: {})
            alone = titles(getattr(objects.all(), method)(condition))
        assert scoped == alone
        assert found.update(title="own") == len([title for title in alone if "own" in title])
    of_user = getattr(objects.for_user(user).including_shared(), method)(condition)
    assert [title for title in titles(of_user) if "for" in title] == [
        title for title in alone if "for" in title
    ]


def test_a_query_with_shared_rows_is_pickled() -> None:
    query = Note.objects.including_shared().query
    copy = pickle.loads(pickle.dumps(query))
    assert vars(copy).keys() == vars(query).keys()
    assert "tenantry_shared" in vars(type(copy)(Note))


def test_a_query_of_another_package_keeps_its_class(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(migrate(paper(TenantField("partner")), base()))
    with tenant_context(a.pk):
        objects.create(title="for b", partner_id=b.pk)

    class OtherQuery(Query):
        pass

    found = objects.all()
    found.query.__class__ = OtherQuery
    with tenant_context(b.pk):
        assert titles(found.including_shared()) == ["for b"]
        assert type(found.including_shared().query) is OtherQuery
        assert found.including_shared().update(title="mine") == 0


def test_an_instance_that_is_shared_is_read_again_where_it_was_found(
    tenants: Tenants, migrate: Migrate
) -> None:
    a, b = tenants
    objects = papers(migrate(paper(TenantField("partner")), base()))
    with tenant_context(a.pk):
        objects.create(title="for b", partner_id=b.pk)
    with tenant_context(b.pk):
        row = objects.including_shared().defer("title").get()
        with pytest.raises(row.DoesNotExist):
            row.refresh_from_db()
        with pytest.raises(row.DoesNotExist):
            assert row.title
        row.refresh_from_db(from_queryset=objects.including_shared())
        assert row.partner_id == b.pk
        row.refresh_from_db(fields=["title"], from_queryset=objects.including_shared())
        assert row.title == "for b"


@pytest.mark.parametrize("lock", [{}, {"of": ("self",)}, {"no_key": True}])
def test_shared_rows_are_not_found_to_be_locked(
    lock: dict[str, Any], tenants: Tenants, migrate: Migrate
) -> None:
    """PostgreSQL applies the policies for UPDATE to them, too: a limit that is documented."""
    a, b = tenants
    objects = papers(migrate(paper(TenantField("partner")), base()))
    with tenant_context(a.pk):
        objects.create(title="for b", partner_id=b.pk)
    with tenant_context(b.pk), transaction.atomic():
        objects.create(title="own")
        found = objects.including_shared()
        assert titles(found) == ["for b", "own"]
        assert titles(found.select_for_update(**lock)) == ["own"]
        assert run("SELECT title FROM migrated_paper FOR KEY SHARE") == [("own",)]


def test_a_union_cannot_be_asked_for_more(tenants: Tenants) -> None:
    """A test of Django, too: its own methods say so in the same way."""
    notes = Note.objects.all()
    with pytest.raises(NotSupportedError, match=r"QuerySet.including_shared\(\) after union\(\)"):
        notes.union(notes).including_shared()


def test_everybody_who_is_bound_reads_what_is_public(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(migrate(paper(RawPredicate("is_public")), base()))
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="open", is_public=True)
    check_readers(objects, a, b, shared="open")


def test_who_owns_a_row_shares_it(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    state = migrate(paper(), base())
    state = migrate(SHARE, state)
    # As one would: the table of shares refers to that of papers.
    after = migrate(paper_alter(SHARED), state)
    objects = papers(after)
    with tenant_context(a.pk):
        objects.create(title="private")
        row = objects.create(title="chosen")
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [row.pk, b.pk])
    check_readers(objects, a, b, shared="chosen")
    with tenant_context(b.pk):
        # A share of somebody else's row, to oneself.
        private = {"private": 1}
        with admin_context():
            private = objects.get(title="private").pk
        run("INSERT INTO migrated_share (paper_id, recipient_id) VALUES (%s, %s)", [private, b.pk])
        assert titles(objects.including_shared()) == ["chosen"]
        assert run("DELETE FROM migrated_share WHERE tenant_id = %s", [a.pk]) == 0
    with tenant_context(a.pk):
        run("DELETE FROM migrated_share")
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == []


def paper_alter(predicate: Any) -> Any:
    constraint = RLSConstraint(field="tenant", extra_predicates=[predicate], name="paper_rls")
    operations = [RemoveConstraint("paper", "paper_rls"), AddConstraint("paper", constraint)]
    return SeparateDatabaseAndState(operations, operations)


def test_predicates_of_the_same_values_are_equal() -> None:
    same = (TenantField("partner"), RawPredicate("is_public"), SHARED)
    again = (TenantField(field="partner"), RawPredicate(sql="is_public"), SHARED_AGAIN)
    assert same == again
    assert [hash(each) for each in same] == [hash(each) for each in again]
    assert TenantField("is_public") != RawPredicate("is_public") != RawPredicate("true")
    assert SharedWith("migrated.Share", row="paper", tenant="tenant") != SHARED
    assert TenantField("partner") != "partner"
    assert repr(TenantField("partner")) == "TenantField(field='partner')"


def state_of(*operations: Any) -> ProjectState:
    state = base()
    for operation in operations:
        operation.state_forwards("migrated", state)
    return state


def test_makemigrations_finds_no_change_where_there_is_none() -> None:
    predicates = (TenantField("partner"), RawPredicate("is_public"))
    old = state_of(paper(*predicates, SHARED), SHARE)
    same = state_of(paper(*predicates, SHARED_AGAIN), SHARE)
    assert changes(old, same) == set()
    assert changes(old, state_of(paper(*predicates), SHARE)) == {"migrated"}


def changes(old: ProjectState, new: ProjectState) -> set[str]:
    """Return the apps that get a migration."""
    questioner = MigrationQuestioner({"ask_initial": True})
    return set(MigrationAutodetector(old, new, questioner).changes(MigrationGraph()))


def changed_shape() -> Any:
    """Return the operations that makemigrations writes where the policies of both change."""
    settings: Any = {"guc_prefix": "other", "key_type": "bigint"}
    again = SHARE.options["constraints"][0].clone()
    again.guc_prefix, again.key_type = "other", "bigint"
    paper_again = RLSConstraint(
        field="tenant", extra_predicates=[SHARED], name="paper_rls", **settings
    )
    operations = [
        RemoveConstraint("share", "share_rls"),
        RemoveConstraint("paper", "paper_rls"),
        AddConstraint("paper", paper_again),
        AddConstraint("share", again),
    ]
    return SeparateDatabaseAndState(operations, operations)


def test_the_shape_of_policies_changes_under_a_share(tenants: Tenants, migrate: Migrate) -> None:
    state = migrate(SHARE, migrate(paper(), base()))
    state = migrate(paper_alter(SHARED), state)
    migrate(changed_shape(), state)
    text = (
        "SELECT pg_get_expr(polqual, polrelid) FROM pg_policy"
        " WHERE polrelid = 'migrated_paper'::regclass AND polname = 'tenantry_sharing'"
    )
    ((sql,),) = run(text, alias="owner")
    assert "(share.tenant_id = migrated_paper.tenant_id)" in sql
    assert "other.current_tenant" in sql


def test_a_migration_says_which_tenant_shares(settings: Any) -> None:
    path, args, kwargs = SHARED.deconstruct()
    assert (path, args) == ("tenantry.SharedWith", ("migrated.Share",))
    assert kwargs == {"row": "paper", "tenant": "recipient", "owner": "tenant"}
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "TENANT_FK_FIELD": "customer"}
    assert SharedWith(*args, **kwargs) == SHARED
    assert SharedWith("migrated.Share", row="paper", tenant="recipient").owner == "customer"


def test_several_predicates_add_up(tenants: Tenants, migrate: Migrate) -> None:
    a, b = tenants
    objects = papers(
        migrate(paper(TenantField("partner"), RawPredicate("is_public AND title <> 'no'")), base())
    )
    with tenant_context(a.pk):
        objects.create(title="private")
        objects.create(title="no", is_public=True)
        objects.create(title="open", is_public=True)
        objects.create(title="for b", partner_id=b.pk)
    with tenant_context(b.pk):
        assert titles(objects.including_shared()) == ["for b", "open"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "no_such_column",
            '"migrated_paper": column "no_such_column" does not exist',
        ),
        ("id", "argument of WHERE must be type boolean, not type bigint"),
        ("true) OR (true", "it closes a parenthesis that it has not opened"),
    ],
)
def test_a_predicate_that_postgresql_does_not_take_is_refused(
    text: str, reason: str, tenants: Tenants, migrate: Migrate
) -> None:
    message = (
        rf"^migrated.Paper cannot be protected by its constraint paper_rls: .*{reason}; correct it"
        " in the model and in this migration$"
    )
    state = migrate(paper(), base())
    with pytest.raises(RLSConfigurationError, match=message):
        migrate(paper_alter(RawPredicate(text)), state)


def test_sqlmigrate_asks_postgresql_for_nothing(project: None) -> None:
    state = base()
    operation = paper(RawPredicate("no_such_column"))
    operation.state_forwards("migrated", state)
    with connections["owner"].schema_editor(collect_sql=True) as editor:
        operation.database_forwards("migrated", editor, base(), state)
    assert any("no_such_column" in sql for sql in editor.collected_sql)


@pytest.mark.parametrize(
    "text",
    [
        "title = 'a;b'",
        "title = ')('",
        "title = 'it''s ;)'",
        r"title = E'it\'s ;)'",
        "title = $$;)$$ OR title = $tag$ $$ ;) $tag$",
        "title = '\"' AND \"title\" <> ''",
        "title /* ;) */ = 'x' -- ;)\n",
        "(id = 1) AND ((is_public))",
        "title LIKE '100%'",
    ],
)
def test_what_is_no_end_of_an_expression_may_be_in_it(
    text: str, tenants: Tenants, migrate: Migrate
) -> None:
    assert RawPredicate(text).problem(Note) is None
    migrate(paper(RawPredicate(text)), base())


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("id = 1) OR (true", "it closes a parenthesis that it has not opened"),
        ("(id = 1", "it does not close a parenthesis"),
        ("title = 'a'; true", "it has a semicolon"),
        ("title = 'a", "what begins with ' does not end"),
        (r"title = E'a\'", "what begins with E' does not end"),
        ('"title', 'what begins with " does not end'),
        ("true -- shared", "what begins with -- does not end"),
        ("true /* shared", "what begins with /* does not end"),
        ("true /* a /* b */", "what begins with /* does not end"),
        ("title = $a$ $b$", "what begins with $a$ does not end"),
    ],
)
def test_an_expression_ends_where_it_should(text: str, reason: str) -> None:
    problem = RawPredicate(text).problem(Note)
    assert problem == f"{text!r} is not one boolean expression of SQL: {reason}"


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
            constraints = [RLSConstraint(field="tenant", name="silent")]

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
                        SharedWith("app.Silent", row="row", tenant="recipient"),
                        wrong,
                    ],
                    extra_bypass_flags=["unknown"],
                )
            ]

    constraint: Any = Row._meta.constraints[0]
    found = [(each.id, each.msg) for each in constraint._check(Row, connections["default"])]
    assert [id_ for id_, _ in found] == ["tenantry.E004"] * 9 + ["tenantry.E005"]
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


# Bypass flags.


def test_a_flag_reads_one_table_and_writes_nothing(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    a, _ = tenants
    settings.RLS_TENANTS = FLAG
    objects = papers(migrate(paper(extra_bypass_flags=["login"]), base()))
    with tenant_context(a.pk):
        objects.create(title="of a")
    assert titles(objects.all()) == []
    with bypass_flag("login"):
        assert titles(objects.all()) == ["of a"]
        assert run("SELECT title FROM migrated_paper") == [("of a",)]
        with transaction.atomic():
            assert titles(objects.select_for_update()) == []
        assert run("SELECT count(*) FROM app_note") == [(0,)]
        assert objects.update(title="x") == 0
        assert run("DELETE FROM migrated_paper") == 0
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("INSERT INTO migrated_paper (title, tenant_id) VALUES ('x', %s)", [a.pk])
        with tenant_context(tenants[1].pk):
            assert titles(objects.all()) == run("SELECT title FROM migrated_paper") == []
    assert run("SELECT count(*) FROM migrated_paper") == [(0,)]


def test_strict_mode_lets_a_flag_read_its_table_only(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    settings.RLS_TENANTS = {**FLAG, "STRICT_MODE": True}
    state = migrate(paper(extra_bypass_flags=["login"]), base())
    objects = papers(state)
    with tenant_context(tenants[0].pk):
        objects.create(title="of a")
    with bypass_flag("login"):
        assert titles(objects.all()) == ["of a"]
        with pytest.raises(NoTenantContextError, match=r"app\.Note"):
            Note.objects.count()
    with pytest.raises(NoTenantContextError):
        titles(objects.all())


# Sealed, a flag is part of what is signed, and no parameter of its own.
@pytest.mark.unsealed
def test_a_flag_left_on_a_session_is_not_inherited(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    settings.RLS_TENANTS = FLAG
    objects = papers(migrate(paper(extra_bypass_flags=["login"]), base()))
    with tenant_context(tenants[0].pk):
        objects.create(title="of a")
    connection = connections["default"]
    connection.ensure_connection()
    connection.connection.execute("SET rls.bypass = 'login'")
    assert run("SELECT count(*) FROM migrated_paper") == [(0,)]
    with tenant_context(tenants[1].pk):
        assert run("SELECT count(*) FROM migrated_paper") == [(0,)]
    connection.close()


def test_a_flag_that_nobody_declared_is_refused(settings: Any) -> None:
    with pytest.raises(RLSConfigurationError, match=r"'login' is not in .*which is \[\]"):
        bypass_flag("login")
    for value in ("login", ["Login"], ["admin"], [""], [1]):
        settings.RLS_TENANTS = {**FLAG, "BYPASS_FLAGS": value}
        with pytest.raises(RLSConfigurationError, match="a list of names such as 'login'"):
            bypass_flag("login")


# Paths.


ORDER = CreateModel(
    "Order",
    [("id", models.BigAutoField(primary_key=True)), ("tenant", tenant())],
    {"constraints": [RLSConstraint(field="tenant", name="order_rls")]},
)


def line(path: str, name: str = "Line", to: str = "Order") -> CreateModel:
    fields: list[tuple[str, Any]] = [
        ("id", models.BigAutoField(primary_key=True)),
        ("up", models.ForeignKey(f"migrated.{to}", models.CASCADE)),
    ]
    constraint = RLSConstraint(path=path, name=f"{name.lower()}_rls")
    return CreateModel(name, fields, {"constraints": [constraint]})


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
    for model, name in ((Book, "app.Book.tenant"), (Item, "app.Item.comments")):
        constraint.field = name.rpartition(".")[2]
        (found,) = constraint._check(model, connections["default"])
        assert found.id == "tenantry.E002"
        assert found.msg == f"{name} is not a column of the model's own table."
        assert found.hint == "Declare a foreign key to the tenant on this model."


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
