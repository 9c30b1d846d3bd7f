"""Tenants on two servers: each is read and written on its own, and nothing lands on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest
from asgiref.sync import sync_to_async
from django.conf import settings as project_settings
from django.core.checks import run_checks
from django.core.management import CommandError, call_command
from django.db import ProgrammingError, connections, router, transaction
from django.db.models import Count, prefetch_related_objects

from example_asgi.servers import Postgres, ensure_admin_role, ensure_role, grant_by_default
from tenantry import (
    aclose_pools,
    aconnection,
    admin_context,
    arows,
    bypass_flag,
    tenant_context,
    with_rls_context,
)
from tenantry.exceptions import RLSConfigurationError, ScopeError
from tenantry.routers import ShardRouter
from tests.app.models import Author, Book, Document, Item, Note, Shared, Tag, Tenant, User
from tests.fix_aliases import Add
from tests.fix_checks import check
from tests.fix_docs import Reader
from tests.fix_lifecycle import command
from tests.fix_servers import DATABASE
from tests.fix_wire import Wire, recording

Tenants = tuple[Tenant, Tenant]
OF_A, OF_B = ["A 1", "A 2"], ["B 1", "B 2"]
WITHOUT_B = (
    "DELETE FROM app_note WHERE title ^@ 'B'; DELETE FROM app_author WHERE name = 'author of B'"
)


@dataclass
class Shards:
    """Where the tenants are: A on the first server, and B on the second."""

    a: Tenant
    b: Tenant
    # The aliases, whose messages the wires have.
    here: str
    there: str
    wire_here: Wire
    wire_there: Wire
    # The second server, to look at as nobody who is bound.
    superuser: psycopg.Connection[Any]

    def clear(self) -> None:
        """Connect, and forget what was seen."""
        for alias, wire in (self.here, self.wire_here), (self.there, self.wire_there):
            connections[alias].ensure_connection()
            wire.clear()

    @property
    def spoken_to(self) -> set[str]:
        """The aliases over whose wires anything has gone."""
        wires = {self.here: self.wire_here, self.there: self.wire_there}
        return {alias for alias, wire in wires.items() if wire.messages}

    def rows(self) -> list[tuple[Any, ...]]:
        """Return what the second server has of notes."""
        query = "SELECT id, tenant_id, title, author_id FROM app_note ORDER BY id"
        return self.superuser.execute(query).fetchall()


class Second(NamedTuple):
    """Another server with the same tables, and what goes to it."""

    server: Postgres
    wire: Wire
    superuser: psycopg.Connection[Any]


@pytest.fixture(scope="module")
def second(project: None, postgres: Postgres, directory: Path) -> Iterator[Second]:
    """Start a server of its own, and migrate it through an alias of its own."""
    with Postgres(directory / "second", bindir=postgres.bindir, fsync="off", jit="off") as server:
        for role in ("owner", "app"):
            ensure_role(server.dsn(), role)
        if project_settings.HAS_ADMIN_ROLE:
            ensure_admin_role(server.dsn(), "app_admin", members=["app", "owner"])
        with psycopg.connect(server.dsn(), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {DATABASE} OWNER owner".encode())
            connection.execute(f"REVOKE TEMPORARY ON DATABASE {DATABASE} FROM PUBLIC".encode())
        grant_by_default(server.dsn(dbname=DATABASE), owner="owner", to="app")
        connections.settings["second_owner"] = {
            **connections.settings["owner"],
            "HOST": str(server.host),
        }
        call_command("migrate", database="second_owner", verbosity=0, run_syncdb=True)
        connections["second_owner"].close()
        del connections["second_owner"], connections.settings["second_owner"]
        with (
            recording(server) as wire,
            psycopg.connect(server.dsn(dbname=DATABASE), autocommit=True) as superuser,
        ):
            yield Second(server, wire, superuser)


@pytest.fixture
def shards(
    tenants: Tenants,
    second: Second,
    proxy: Wire,
    superuser: psycopg.Connection[Any],
    alias: Add,
    settings: Any,
) -> Iterator[Shards]:
    """Return A on the first server and B on the second, whose rows have the same keys."""
    a, b = tenants
    superuser.execute(WITHOUT_B)
    second.superuser.execute("TRUNCATE app_tenant, app_user RESTART IDENTITY CASCADE")
    second.superuser.execute("INSERT INTO app_tenant VALUES (%s, 'B')", [b.pk])
    second.superuser.execute("INSERT INTO app_author (name, tenant_id) VALUES ('of B', %s)", [b.pk])
    second.superuser.execute(
        "INSERT INTO app_note (title, tenant_id, author_id) VALUES ('B 1', %s, 1), ('B 2', %s, 1)",
        [b.pk, b.pk],
    )
    there = alias("wire", HOST="127.0.0.1", PORT=str(second.wire.port))
    places = {a.pk: "wire", b.pk: there}
    settings.DATABASE_ROUTERS = ["tenantry.routers.ShardRouter"]
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARD_OF": places.__getitem__}
    found = Shards(a, b, "wire", there, proxy, second.wire, second.superuser)
    found.clear()
    yield found
    connections[there].close()


def titles() -> list[str]:
    return sorted(note.title for note in Note.objects.all())


# What goes where.


def use_everything() -> None:
    """Read and write in all ways; what it makes has no tenant's name."""
    author = Author.objects.get()
    note = Note.objects.create(title="new", author=author)
    assert list(author.note_set.filter(title="new")) == [note]
    assert Note.objects.select_related("author", "tenant").get(pk=note.pk).author == author
    assert [each.note_set.count() for each in Author.objects.prefetch_related("note_set")] == [3]
    note.title = "newer"
    note.save()
    note.refresh_from_db()
    Note.objects.bulk_create([Note(title="one"), Note(title="two")])
    assert Note.objects.get_or_create(title="one")[1] is False
    assert Note.objects.update_or_create(title="two", defaults={"author": author})[1] is False
    found = list(Note.objects.filter(title__in=["one", "two"]).iterator(chunk_size=1))
    assert Note.objects.bulk_update(found, ["title"]) == 2
    assert Note.objects.filter(author__in=Author.objects.all(), title="two").exists()
    assert Note.objects.aggregate(Count("pk")) == {"pk__count": 5}
    assert len(list(Note.objects.raw("SELECT * FROM app_note"))) == 5
    assert Note.objects.filter(title="one").delete()[0] == 1
    assert Note.objects.filter(title="two").update(title="too") == 1
    note.delete()
    # Rows without a tenant of their own: of a child, of its parent, and of a relation.
    book = Book.objects.create(name="book", pages=1)
    book.tags.add(Tag.objects.create(name="tag"))
    assert [tag.name for tag in Book.objects.get().tags.all()] == ["tag"]
    Item.objects.all().delete()
    Tag.objects.all().delete()
    Note.objects.filter(title="too").delete()
    assert not Book.objects.exists()


def test_a_tenant_is_read_and_written_on_its_own_server(shards: Shards) -> None:
    before = shards.rows()
    for tenant, alias, expected in (shards.a, shards.here, OF_A), (shards.b, shards.there, OF_B):
        shards.clear()
        with tenant_context(tenant.pk):
            assert titles() == expected
            assert {note._state.db for note in Note.objects.all()} == {alias}
            use_everything()
            assert titles() == expected
            with connections[router.db_for_read(Note)].cursor() as cursor:
                cursor.execute("SELECT count(*) FROM app_note")
                assert cursor.fetchone() == (2,)
        assert shards.spoken_to == {alias}
    assert shards.rows() == before


def test_what_is_not_protected_is_where_django_says(shards: Shards) -> None:
    """Rows of shared tables may be referred to, wherever they were read."""
    with tenant_context(shards.b.pk):
        assert Tenant.objects.get(name="B")._state.db == "default"
        user = User(tenant=shards.b)
        assert Document.objects.create(text="shared")._state.db == "default"
        note = Note.objects.create(title="B 3", tenant=shards.b)
        assert note._state.db == shards.there
        assert (note.tenant, user.tenant) == (shards.b, shards.b)
        note.delete()
    assert shards.rows()[-1][2] == "B 2"


def test_nobody_and_the_admin_are_where_django_says(shards: Shards) -> None:
    assert titles() == []
    assert shards.spoken_to == set()
    with admin_context():
        assert titles() == OF_A
        assert shards.spoken_to == set()
        notes = Note.objects.using(shards.there).order_by("pk")
        assert [note.title for note in notes] == OF_B
        notes[0].save()
        assert notes[0]._state.db == shards.there
        assert [each.note_set.count() for each in Author.objects.using(shards.there)] == [2]
    assert shards.spoken_to == {shards.there}


@pytest.mark.guc_shape
def test_a_bypass_flag_is_where_django_says(shards: Shards, settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "BYPASS_FLAGS": ["login"]}
    with bypass_flag("login"):
        assert router.db_for_read(Note) == "default"
        assert titles() == []


# When a router is asked.


def test_a_queryset_is_read_where_the_scope_says_that_evaluates_it(shards: Shards) -> None:
    with tenant_context(shards.a.pk):
        notes = Note.objects.order_by("pk").values_list("title", flat=True)
        of_user = Note.objects.for_user(User(tenant=shards.b)).order_by("pk")
    with tenant_context(shards.b.pk):
        assert list(notes.all()) == OF_B
    with tenant_context(shards.a.pk):
        assert list(notes.all()) == OF_A
    shards.clear()
    for around in (nullcontext(), tenant_context(shards.a.pk), admin_context()):
        with around:
            assert [note.title for note in of_user.all()] == OF_B
            assert [note.title for note in of_user.iterator(1)] == OF_B
            assert (of_user.count(), of_user.filter(title="B 1").exists()) == (2, True)
            note = of_user.all()[0]
            assert of_user.bulk_update([note], ["title"]) == 1
            assert of_user.update(author=None) == 2
            assert of_user.get_or_create(title="B 1")[1] is False
    assert shards.spoken_to == {shards.there}


def test_the_cursor_of_a_user_is_that_of_its_server(shards: Shards) -> None:
    """Django asks whether it may be a server-side one before there is a step."""
    connections[shards.there].settings_dict["DISABLE_SERVER_SIDE_CURSORS"] = True
    of_user = Note.objects.for_user(User(tenant=shards.b))
    assert len(list(of_user.iterator(chunk_size=1))) == 2
    assert not any("DECLARE" in query for query in shards.wire_there.queries)


@with_rls_context
def titles_of(*, as_user: Any) -> list[str]:
    return titles()


async def test_async_code_is_where_the_scope_says(shards: Shards) -> None:
    try:
        async with tenant_context(shards.b.pk):
            assert [note.title async for note in Note.objects.order_by("pk").aiterator(1)] == OF_B
            assert await Note.objects.acount() == 2
            note = await Note.objects.acreate(title="B 3")
            assert await arows(Note.objects.filter(pk=note.pk).values_list("title")) == [("B 3",)]
            async with aconnection(using=router.db_for_write(Note)) as connection:
                await connection.execute("DELETE FROM app_note WHERE id = %s", [note.pk])
            assert await Note.objects.acount() == 2
        user = User(tenant=shards.b)
        of_user = Note.objects.for_user(user).order_by("pk").values_list("title")
        assert await arows(of_user) == [(title,) for title in OF_B]
        assert await sync_to_async(titles_of)(as_user=user) == OF_B
        assert shards.spoken_to == {shards.there}
    finally:
        await aclose_pools()


# Whose keys are the same on both servers.


USES: dict[str, Callable[[Note], object]] = {
    "save": Note.save,
    "save some fields": partial(Note.save, update_fields=["title"]),
    "delete": Note.delete,
    "refresh": Note.refresh_from_db,
    "follow a key": lambda note: note.parent,
    "follow one back": lambda note: list(note.note_set.all()),
    "create what refers to it": lambda note: note.note_set.create(title="new"),
    "refer to it": lambda note: Note(title="new", parent=note),
    "update many": lambda note: Note.objects.bulk_update([Note(pk=2), note], ["title"]),
    "prefetch": lambda note: prefetch_related_objects([note], "note_set"),
    "validate": Note.full_clean,
}


@pytest.mark.parametrize("use", USES)
def test_a_row_of_one_server_is_not_taken_for_that_of_another(use: str, shards: Shards) -> None:
    before = shards.rows()
    with tenant_context(shards.a.pk):
        note = Note.objects.get(title="A 1")
        Note.objects.filter(title="A 2").update(parent=note)
        note.parent_id = note.pk
    assert (note.pk, note.author_id) == before[0][::3]
    note.title = "of A"
    shards.clear()
    refused = f"a Note from the database 'wire' is used as tenant {shards.b.pk}, whose rows are in"
    with tenant_context(shards.b.pk), pytest.raises(ScopeError, match=refused):
        USES[use](note)
    assert shards.rows() == before
    assert shards.there not in shards.spoken_to
    with tenant_context(shards.a.pk):
        USES[use](note)


WRITES: list[Callable[[Note], object]] = [
    Note.save,
    partial(Note.save, force_insert=True),
    lambda note: Note.objects.bulk_create([note]),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_new_row_of_another_tenant_is_refused_by_the_database(
    write: Callable[[Note], object], shards: Shards
) -> None:
    before = shards.rows()
    refused = pytest.raises(ProgrammingError, match="row-level security")
    with tenant_context(shards.b.pk), refused:
        write(Note(title="of A", tenant_id=shards.a.pk))
    assert shards.rows() == before


@pytest.mark.parametrize("write", WRITES)
def test_a_new_row_that_refers_to_one_server_is_not_written_on_the_other(
    write: Callable[[Note], object], shards: Shards
) -> None:
    before = shards.rows()
    with tenant_context(shards.a.pk):
        new = Note(title="of A", author=Author.objects.get())
    with tenant_context(shards.b.pk), pytest.raises(ScopeError, match="database 'wire' is used as"):
        write(new)
    assert shards.rows() == before


def test_rows_of_two_servers_do_not_refer_to_each_other(shards: Shards) -> None:
    with tenant_context(shards.a.pk):
        ours = Note.objects.get(title="A 1")
    with admin_context():
        theirs = Note.objects.using(shards.there).get(title="B 1")
        with pytest.raises(ValueError, match="the current database router prevents this relation"):
            theirs.parent = ours
        with pytest.raises(ValueError, match="different databases"):
            list(
                Note.objects.using(shards.there).filter(
                    author__in=Author.objects.using(shards.here)
                )
            )
        # A row that belongs to nobody may refer to one of a tenant; of two of them Django decides.
        assert Shared(text="shared", note=theirs).note == theirs
        tenant = Tenant.objects.using(shards.there).get()
        assert not router.allow_relation(User(tenant=shards.a), tenant)


# Transactions.


def test_a_block_costs_a_server_nothing_that_sees_no_statement(shards: Shards) -> None:
    """As ``ATOMIC_REQUESTS`` opens one on each."""
    before = shards.rows()
    on_both = transaction.atomic(using=shards.here), transaction.atomic(using=shards.there)
    failing = pytest.raises(ZeroDivisionError)
    with failing, tenant_context(shards.b.pk), on_both[0], on_both[1]:
        Note.objects.create(title="B 3")
        raise ZeroDivisionError
    assert shards.rows() == before
    assert shards.spoken_to == {shards.there}
    # BEGIN goes with the statement.
    assert shards.wire_there.round_trips == 2


def test_a_block_without_a_name_is_of_the_default_database(shards: Shards) -> None:
    failing = pytest.raises(ZeroDivisionError)
    with failing, tenant_context(shards.b.pk), transaction.atomic():
        Note.objects.create(title="B 3")
        raise ZeroDivisionError
    assert [title for *_, title, _ in shards.rows()] == [*OF_B, "B 3"]


# Settings.


class OfReplica(ShardRouter):
    """Read the first server through the default alias, as if that were a replica."""

    def db_for_read(self, model: Any, **hints: Any) -> str | None:
        shard = super().db_for_read(model, **hints)
        return "default" if shard == "wire" else shard

    def home(self, alias: str) -> str:
        return "wire" if alias == "default" else alias


def of_nobody(tenant: int) -> str:
    return "nowhere"


def by_a_query(tenant: int) -> str:
    return "default" if Note.objects.exists() else "wire"


async def in_async_code(tenant: int) -> str:
    return "default"


def test_a_replica_may_be_known_by_a_router_of_the_project(shards: Shards, settings: Any) -> None:
    with tenant_context(shards.a.pk):
        # Without one, an alias is a server of its own.
        note = Note.objects.using("default").get(title="A 1")
        with pytest.raises(ScopeError, match=r"database 'default' .* in 'wire'; .* say so by home"):
            note.save()
    settings.DATABASE_ROUTERS = [f"{__name__}.OfReplica"]
    with tenant_context(shards.a.pk):
        note = Note.objects.get(title="A 1")
        assert note._state.db == "default"
        note.title = "A 3"
        note.save()
        again = Note.objects.get(title="A 3")
        again.parent = note
        assert titles() == ["A 2", "A 3"]
        # What is shared is read where the row is from.
        tenant = again.tenant
        assert tenant._state.db == "default"
        User.objects.using("wire").create(username="of A").tenant = tenant
        tenant.save()
        assert tenant._state.db == "wire"
    with admin_context():
        again.save()
    assert again._state.db == "wire"
    assert shards.spoken_to == {shards.here}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            lambda tenant: None,
            r"returns None for the tenant \d+; it must return one of 'default', '.*', and query no",
        ),
        (lambda tenant: "nowhere", "returns 'nowhere' for the tenant "),
        (lambda tenant: 7, "returns 7 for the tenant "),
        ({}.__getitem__, r"fails for the tenant (\d+): KeyError\(\1\); it must return one of 'def"),
        (by_a_query, r"\['SHARD_OF'\] fails for the tenant \d+: RecursionError"),
        (in_async_code, "which is no function, or an async one; Django asks routers in sync code"),
        (f"{__name__}.OF_A", "is 'tests.test_shards.OF_A', which is no function, or an async one"),
        (f"{__name__}.nowhere", "is 'tests.test_shards.nowhere': Module .* does not define a"),
        ("nowhere.of", "is 'nowhere.of': No module named 'nowhere'; name a function by"),
        (None, "ShardRouter, and RLS_TENANTS lacks SHARD_OF; set it to a function that returns"),
    ],
)
def test_a_tenant_that_is_nowhere_is_an_error(
    given: Any, message: str, tenants: Tenants, settings: Any
) -> None:
    settings.DATABASE_ROUTERS = ["tenantry.routers.ShardRouter"]
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARD_OF": given}
    assert titles() == []
    with tenant_context(tenants[0].pk), pytest.raises(RLSConfigurationError, match=message):
        titles()


def test_a_database_that_is_not_bound_is_an_error(
    tenants: Tenants, settings: Any, alias: Add
) -> None:
    stock = alias("default", ENGINE="django.db.backends.postgresql")
    settings.DATABASE_ROUTERS = ["tenantry.routers.ShardRouter"]
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "SHARD_OF": lambda tenant: stock}
    with tenant_context(tenants[0].pk), pytest.raises(RLSConfigurationError, match="whose ENGINE"):
        titles()


def test_the_router_and_the_setting_go_together(settings: Any) -> None:
    with_setting = {**settings.RLS_TENANTS, "SHARD_OF": f"{__name__}.of_nobody"}
    without, ours = settings.RLS_TENANTS, ["tenantry.routers.ShardRouter"]
    for tenants, routers, found in (
        (without, [], []),
        (with_setting, ours, []),
        (with_setting, [f"{__name__}.OfReplica"], []),
        (with_setting, [], ["RLS_TENANTS['SHARD_OF'] is asked by no router, so that all tenants"]),
        (without, ours, ["DATABASE_ROUTERS has a ShardRouter that cannot tell where a tenant's"]),
    ):
        settings.RLS_TENANTS, settings.DATABASE_ROUTERS = tenants, routers
        messages = [each for each in run_checks(tags=["models"]) if each.id == "tenantry.E191"]
        assert [
            each.msg[: len(start)] for each, start in zip(messages, found, strict=True)
        ] == found


# Commands.


def test_commands_find_the_rows_of_a_tenant(shards: Shards, tmp_path: Path) -> None:
    path_a, path_b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    command("export_tenant", "--by", "name", "A", "--output", path_a)
    assert '"A 1"' in path_a.read_text()
    command("export_tenant", shards.b.pk, "--output", path_b)
    assert '"B 1"' in path_b.read_text()
    output, status = check("--database", shards.there, "--fail-level", "WARNING")
    assert (output.endswith(" OK, 0 wrong\n"), status) == (True, 0), output
    # Of a table that is not protected, the rows go that are there, too.
    shards.superuser.execute(
        "INSERT INTO app_shared (id, text, note_id) SELECT 1, 'on B', min(id) FROM app_note"
    )
    Shared.objects.create(pk=1, text="kept")
    # Its row of the default database is left, until somebody names that.
    left = f"delete these with: python manage.py delete_tenant {shards.b.pk} --database default\n"
    for options, is_left in (
        (["--dry-run"], True),
        (["--keep-tenant", "--yes"], False),
        (["--yes"], True),
    ):
        text = command("delete_tenant", "--by", "name", "B", "--also", "app.Shared", *options)
        assert text.endswith(left) == is_left
    assert shards.rows() == []
    assert Shared.objects.get().text == "kept"
    Shared.objects.all().delete()
    assert Tenant.objects.filter(name="B").exists()
    with pytest.raises(CommandError, match=f"no tenant whose pk is .* database '{shards.there}';"):
        command("delete_tenant", shards.b.pk, "--yes")
    # So it goes where the tenant is; the app role may not end it.
    shards.clear()
    with pytest.raises(CommandError, match="the role may not move the sequences"):
        command("import_tenant", path_b)
    assert shards.spoken_to == {shards.there}


def test_the_guide_does_what_it_says(reader: Reader, second: Second) -> None:
    server = second.server
    meant = {"PGHOST=berlin.example.com": f"PGHOST={server.host} PGPORT={server.port}"}
    environment = reader.environment | {"NOTEBOOK_BERLIN_HOST": server.host}
    done = Reader(reader.folder, environment, meant).follow("how-to/spread-tenants-over-servers.md")
    assert done.count("pycon") >= 3
