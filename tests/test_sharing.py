"""Rows that tenants read beyond their own: shared ones, and under a bypass flag."""

from __future__ import annotations

import pickle
from contextlib import nullcontext
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

from tenantry import (
    RawPredicate,
    RLSConstraint,
    SharedWith,
    TenantField,
    admin_context,
    bypass_flag,
    tenant_context,
)
from tenantry.exceptions import NoTenantContextError, RLSConfigurationError
from tests import settings as test_settings
from tests.app.models import Note, Tenant
from tests.fix_checks import broken
from tests.fix_migrations import Migrate
from tests.migrated import (
    FLAG,
    SHARE,
    SHARED,
    STRAY,
    add_stray_policies,
    base,
    paper,
    paper_alter,
    papers,
    tenant,
    titles,
)
from tests.sql import run

Tenants = tuple[Tenant, Tenant]
SHARED_AGAIN = SharedWith(model="migrated.Share", tenant="recipient", row="paper")


def check_readers(objects: Any, owner: Tenant, other: Tenant, *, shared: str) -> None:
    """Check that `other` reads one more row of `owner`, `shared`, and writes none."""
    own = ["private", shared]
    with tenant_context(owner.pk):
        assert titles(objects.all()) == titles(objects.including_shared()) == sorted(own)
        with pytest.raises(ProgrammingError, match="row-level security"):
            run("UPDATE migrated_paper SET tenant_id = %s", [other.pk])
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


# Bypass flags.


def test_a_flag_reads_one_table_and_writes_nothing(
    tenants: Tenants, migrate: Migrate, settings: Any
) -> None:
    a, _ = tenants
    settings.RLS_TENANTS = {**FLAG, "BYPASS_FLAGS": ["login", "audit"]}
    objects = papers(migrate(paper(extra_bypass_flags=["login"]), base()))
    with tenant_context(a.pk):
        objects.create(title="of a")
    assert titles(objects.all()) == []
    with bypass_flag("audit"):
        assert titles(objects.all()) == run("SELECT title FROM migrated_paper") == []
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
    with pytest.raises(
        RLSConfigurationError, match=r"'login' is not in .*which is \[\]; add it there"
    ):
        bypass_flag("login")
    for value in ("login", ["Login"], ["admin"], [""], [1]):
        settings.RLS_TENANTS = {**FLAG, "BYPASS_FLAGS": value}
        with pytest.raises(RLSConfigurationError, match="a list of names such as 'login'"):
            bypass_flag("login")
