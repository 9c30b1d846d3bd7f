"""A tenant is deleted in batches, and no row of another one is, whatever is asked."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import psycopg
import pytest
from django.contrib.auth.models import Group
from django.core.management import CommandError
from django.db import connections, models
from django.db.models.signals import post_delete
from django.test.utils import isolate_apps

from tenantry import RawPredicate, admin_context
from tenantry.checks.policies import mend, policies_of
from tenantry.declared import constraint_of
from tenantry.lifecycle.removal import Removal
from tests.app.models import Note, Shared, Tenant, User
from tests.fix_aliases import Add
from tests.fix_checks import broken
from tests.fix_commands import manage
from tests.fix_lifecycle import Contents, command

Tenants = tuple[Tenant, Tenant]
Read = Callable[[], Contents]
ALSO = ("--also", "app.Shared")


def of(tenant: Tenant, contents: Contents) -> Contents:
    """Return the rows that name a tenant: its key, or what the rows of a library begin with."""
    key, name = tenant.pk, tenant.name
    names = re.compile(
        rf'"(tenant_id|cust_no)":{key}[,}}]|"pages":{key}0}}|:"{name} |:"{name}"|"author of {name}"'
    )
    return {table: list(filter(names.search, rows)) for table, rows in contents.items()}


@pytest.mark.parametrize(("batch", "alias"), [(1, "pool"), (2, "pooled"), (1000, "default")])
def test_all_rows_of_one_tenant_go(
    batch: int, alias: str, library: Tenants, contents: Read
) -> None:
    a, b = library
    before = contents()
    text = command("delete_tenant", a.pk, "--yes", "--batch", batch, "--database", alias, *ALSO)
    after = contents()
    number = sum(map(len, before.values())) - sum(map(len, after.values()))
    # And what is not protected, but was named.
    assert text.endswith(f"{number + 2} rows deleted\n")
    assert "app_shared: 2\n" in text
    assert sum(map(len, of(a, before).values())) == number
    for table, rows in after.items():
        assert set(rows) <= set(before[table])
        assert len(rows) * 2 == len(before[table]), table
    assert of(b, after) == of(b, before)
    assert not any(of(a, after).values())
    connections[alias].close()


class ToPrimary:
    """Writes by another alias of the same database."""

    def db_for_write(self, model: Any, **hints: Any) -> str:
        return "owner"


@pytest.mark.parametrize("routers", [[], [f"{__name__}.ToPrimary"]])
def test_a_dry_run_counts(
    routers: list[str], library: Tenants, contents: Read, settings: Any
) -> None:
    before = contents()
    # Without shards, all that is said is said of the database that was asked.
    settings.DATABASE_ROUTERS = routers
    a, _ = library
    text = command("delete_tenant", "A", "--by", "name", "--dry-run")
    number = sum(map(len, before.values())) // 2
    assert "app_note: 2\n" in text
    assert text.endswith(
        "app_shared.note_id: 2 rows refer to these, and would stop the deletion\n"
        f"{number} rows would be deleted\n"
    )
    text = command("delete_tenant", a.pk, "--dry-run", *ALSO)
    assert text.endswith(f"\n{number + 2} rows would be deleted\n")
    assert contents() == before


def test_the_tenant_can_stay(library: Tenants) -> None:
    a, _ = library
    User.objects.create(username="u", tenant=a)
    assert command("delete_tenant", a.pk, "--yes", "--keep-tenant", *ALSO).endswith("deleted\n")
    assert Tenant.objects.filter(pk=a.pk).exists()
    with admin_context():
        assert not Note.objects.filter(tenant=a).exists()
    # Again, there is nothing.
    again = command("delete_tenant", a.pk, "--yes", "--keep-tenant", *ALSO)
    assert again == "0 rows deleted\n"


LOG = (
    "CREATE TABLE log (note_id bigint REFERENCES app_note) PARTITION BY LIST (note_id);"
    "CREATE TABLE logged PARTITION OF log DEFAULT; GRANT SELECT ON log, logged TO app;"
    "INSERT INTO log SELECT id FROM app_note"
)


def test_rows_of_other_tables_stop_it(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    # Rows of partitions are those of their table.
    with broken(arrange, LOG, "DROP TABLE log"):
        text = command("delete_tenant", a.pk, "--dry-run", *ALSO)
        assert re.findall(r"(\w+)\.note_id: 2 rows refer to these", text) == ["log"]
        connections["default"].close()
    User.objects.create(username="of B", tenant=b)
    user = User.objects.create(username="of A", tenant=a)
    user.groups.add(Group.objects.create(name="group"))
    before = contents()
    message = r"(?=.*2 of app_shared.note_id)(?=.*1 of app_user.tenant_id).* nothing was deleted"
    with pytest.raises(CommandError, match=message):
        command("delete_tenant", a.pk, "--yes")
    assert contents() == before
    command("delete_tenant", a.pk, "--yes", *ALSO, "--also", "app.User")
    assert [each.username for each in User.objects.all()] == ["of B"]
    assert Shared.objects.count() == 2
    Group.objects.all().delete()


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("app.Nonsense", "which is not a model"),
        ("Shared", "which is not a model; name it as app_label.Model"),
        ("app.Note", "or it is pro"),
    ],
)
def test_what_goes_too_must_refer_to_a_tenant(label: str, message: str, library: Tenants) -> None:
    with pytest.raises(CommandError, match=message):
        command("delete_tenant", library[0].pk, "--yes", "--also", label)


@isolate_apps("tests.app")
def test_what_is_named_may_have_a_composite_key(
    library: Tenants, arrange: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Visit(models.Model):
        pk = models.CompositePrimaryKey("note_id", "number")
        note = models.ForeignKey(Note, models.CASCADE, related_name="+")
        number = models.IntegerField()

        class Meta:
            app_label = "app"

    monkeypatch.setattr("tenantry.lifecycle.removal.apps", Visit._meta.apps)
    a, b = library
    Shared.objects.all().delete()
    how = (
        "CREATE TABLE app_visit (note_id bigint REFERENCES app_note, number integer,"
        " PRIMARY KEY (note_id, number)); GRANT ALL ON app_visit TO app;"
        "INSERT INTO app_visit SELECT id, n FROM app_note, generate_series(1, 2) n"
    )
    with broken(arrange, how, "DROP TABLE app_visit"):
        command("delete_tenant", a.pk, "--yes", "--batch", 3, "--also", "app.Visit")
        left = arrange.execute(
            "SELECT tenant_id FROM app_visit v JOIN app_note n ON n.id = v.note_id"
        )
        assert left.fetchall() == [(b.pk,)] * 4
        connections["default"].close()


KEEP = (
    "CREATE FUNCTION keep_it() RETURNS trigger LANGUAGE plpgsql AS"
    " 'BEGIN UPDATE app_shared SET text = ''deleted'' WHERE id = OLD.id; RETURN NULL; END';"
    "CREATE TRIGGER keep_it BEFORE DELETE ON app_shared FOR EACH ROW EXECUTE FUNCTION keep_it()"
)


def test_what_is_named_and_does_not_go_stops_it(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    before = {name: len(rows) for name, rows in contents().items()}
    back = "DROP TRIGGER keep_it ON app_shared; DROP FUNCTION keep_it"
    with (
        broken(arrange, KEEP, back),
        pytest.raises(CommandError, match=r"2 rows of app.Shared are still there after delete\(\)"),
    ):
        command("delete_tenant", library[0].pk, "--yes", *ALSO)
    assert {name: len(rows) for name, rows in contents().items()} == before
    assert not Shared.objects.filter(text="deleted").exists()
    connections["default"].close()


def removal(tenant: Tenant, **options: Any) -> Removal:
    return Removal(connections["default"], tenant, also=["app.Shared"], **options)


def test_it_goes_on_where_it_was_interrupted(library: Tenants, contents: Read) -> None:
    a, b = library
    before = contents()
    batches = []

    def interrupt(table: str, number: int) -> None:
        batches.append(number)
        if len(batches) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        removal(a, batch=1).run(interrupt)
    between = contents()
    assert batches == [1] * 7
    # What was committed stays so.
    gone = sum(map(len, before.values())) - sum(map(len, between.values()))
    assert 5 <= gone <= 7
    assert of(b, between) == of(b, before)
    command("delete_tenant", a.pk, "--yes", *ALSO)
    assert not any(of(a, contents()).values())
    assert of(b, contents()) == of(b, before)


def test_a_broken_filter_deletes_nothing_of_others(library: Tenants, contents: Read) -> None:
    a, b = library
    Shared.objects.all().delete()
    before = contents()
    sabotaged = removal(a, keep_tenant=True)
    tables = sabotaged.found.tables
    for name, table in tables.items():
        if not table.is_tenants:
            tables[name] = replace(table, condition="true")
    tables.pop("app_shared")
    sabotaged.run(lambda table, number: None)
    after = contents()
    assert of(b, after) == of(b, before)
    assert not after["app_tag"] or all("B " in row for row in after["app_tag"])


def test_a_row_of_another_tenant_stops_it(
    library: Tenants, superuser: psycopg.Connection[Any], contents: Read
) -> None:
    a, b = library
    superuser.execute(
        "UPDATE app_note SET author_id = (SELECT id FROM app_author WHERE tenant_id = %s)"
        " WHERE tenant_id = %s",
        [a.pk, b.pk],
    )
    before = contents()
    message = r"violates foreign key constraint(?s:.)* change them as the admin, and run"
    with pytest.raises(CommandError, match=message):
        command("delete_tenant", a.pk, "--yes", *ALSO)
    assert of(b, contents()) == of(b, before)
    superuser.execute("UPDATE app_note SET author_id = NULL")
    command("delete_tenant", a.pk, "--yes", *ALSO)
    assert not any(of(a, contents()).values())


def test_a_row_that_another_tenant_shares_stops_it(
    library: Tenants,
    superuser: psycopg.Connection[Any],
    contents: Read,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a, b = library
    superuser.execute(
        "UPDATE app_note SET author_id = (SELECT id FROM app_author WHERE tenant_id = %s)"
        " WHERE tenant_id = %s",
        [a.pk, b.pk],
    )

    def mend_policies() -> None:
        with connections["owner"].cursor() as cursor:
            # Also the restrictive ones, which mend() leaves.
            for name in policies_of(cursor, "app_note"):
                cursor.execute(f"DROP POLICY {name} ON app_note")
            cursor.execute(mend(connections["owner"], cursor, Note))

    before = contents()
    says = "2 rows of other tenants in app_note refer to rows that .*, by author_id; .* nothing was"
    with monkeypatch.context() as patch:
        patch.setattr(constraint_of(Note), "extra_predicates", [RawPredicate("true")])
        mend_policies()
        try:
            with pytest.raises(CommandError, match=says):
                command("delete_tenant", a.pk, "--yes", *ALSO)
        finally:
            patch.undo()
            mend_policies()
    assert contents() == before


CASCADE = (
    "ALTER TABLE app_note ADD COLUMN tag_id bigint CONSTRAINT cascade_fk REFERENCES app_tag"
    " ON DELETE CASCADE"
)
SAME = (
    "ALTER TABLE app_tag ADD CONSTRAINT same_unique UNIQUE (tenant_id, id);"
    "ALTER TABLE app_note ADD CONSTRAINT same_fk FOREIGN KEY (tenant_id, tag_id)"
    " REFERENCES app_tag (tenant_id, id)"
)
DROP_SAME = (
    "ALTER TABLE app_note DROP CONSTRAINT same_fk; ALTER TABLE app_tag DROP CONSTRAINT same_unique"
)


def test_what_postgresql_cascades_to_is_refused(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, _ = library
    # Which keeps another column in its tenant.
    other = "ALTER TABLE app_note ADD COLUMN tag2_id bigint;" + SAME.replace("tag_id", "tag2_id")
    drop_other = f"{DROP_SAME}; ALTER TABLE app_note DROP COLUMN tag2_id"
    # Or the same column in the tenant of another row.
    another = SAME.replace("app_tag", "app_author")
    drop_another = DROP_SAME.replace("app_tag", "app_author")
    message = "foreign key cascade_fk of app_note deletes or"
    with broken(arrange, CASCADE, "ALTER TABLE app_note DROP COLUMN tag_id"):
        for how, back in ((other, drop_other), (another, drop_another)):
            with broken(arrange, how, back):
                before = contents()
                with pytest.raises(CommandError, match=message):
                    command("delete_tenant", a.pk, "--yes", *ALSO)
                with pytest.raises(CommandError, match=message):
                    removal(a).run(lambda table, number: None)
                assert contents() == before
            connections["default"].close()
        with broken(arrange, SAME, DROP_SAME):
            command("delete_tenant", a.pk, "--yes", *ALSO)
    assert not any(of(a, contents()).values())
    connections["default"].close()


@pytest.mark.parametrize(
    "how",
    [
        CASCADE.replace("CASCADE", "RESTRICT"),
        # Also before it is validated: it compares the tenant.
        f"ALTER TABLE app_note ADD COLUMN tag_id bigint; {SAME} ON DELETE CASCADE NOT VALID",
    ],
    ids=["restrict", "same tenant"],
)
def test_on_delete_that_reaches_no_other_tenant_is_let_be(
    how: str, library: Tenants, arrange: psycopg.Connection[Any]
) -> None:
    back = (
        "ALTER TABLE app_note DROP COLUMN tag_id;"
        "ALTER TABLE app_tag DROP CONSTRAINT IF EXISTS same_unique"
    )
    with broken(arrange, how, back):
        output = command("delete_tenant", library[0].pk, "--dry-run", *ALSO)
        assert "app_note" in output
        assert "it would be refused" not in output
        connections["default"].close()


def test_what_not_all_rows_keep_stops_no_cascade(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    kinds = ["NOT VALID"]
    if arrange.info.server_version >= 180000:
        kinds.append("NOT ENFORCED")
    # Which would keep the rows that are reached.
    Shared.objects.all().delete()
    with broken(arrange, CASCADE, "ALTER TABLE app_note DROP COLUMN tag_id"):
        arrange.execute(
            "UPDATE app_note SET tag_id = (SELECT min(id) FROM app_tag WHERE tenant_id = %s)"
            " WHERE tenant_id = %s",
            [a.pk, b.pk],
        )
        before = contents()
        for kind in kinds:
            with broken(arrange, f"{SAME} {kind}", DROP_SAME):
                message = "foreign key cascade_fk of app_note .*; validate same_fk, with Valid"
                with pytest.raises(CommandError, match=message):
                    command("delete_tenant", a.pk, "--yes", *ALSO)
                assert "it would be refused: the foreign key cascade_fk of app_note deletes" in (
                    command("delete_tenant", a.pk, "--dry-run", *ALSO)
                )
                connections["default"].close()
        assert contents() == before


@pytest.mark.parametrize("options", [[], ["--keep-tenant"]])
def test_on_delete_of_what_stays_reaches_nobody(
    options: list[str], library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    plan = "ADD COLUMN plan_id bigint DEFAULT 1 REFERENCES app_plan ON DELETE"
    how = (
        "CREATE TABLE app_plan (id bigint PRIMARY KEY); INSERT INTO app_plan VALUES (1);"
        f"ALTER TABLE app_tenant {plan} SET NULL; ALTER TABLE app_note {plan} CASCADE"
    )
    back = (
        "ALTER TABLE app_note DROP COLUMN plan_id; ALTER TABLE app_tenant DROP COLUMN plan_id;"
        "DROP TABLE app_plan"
    )
    with broken(arrange, how, back):
        before = contents()
        command("delete_tenant", a.pk, "--yes", *options, *ALSO)
        assert of(b, contents()) == of(b, before)
        assert not of(a, contents())["app_note"]
    connections["default"].close()


@pytest.mark.parametrize("action", ["CASCADE", "SET NULL"])
def test_what_postgresql_does_to_other_tenants_themselves_is_refused(
    action: str, library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    how = (
        "ALTER TABLE app_tenant ADD COLUMN parent_id bigint CONSTRAINT parent_fk"
        f" REFERENCES app_tenant ON DELETE {action};"
        f"UPDATE app_tenant SET parent_id = {a.pk} WHERE id = {b.pk}"
    )
    with broken(arrange, how, "ALTER TABLE app_tenant DROP COLUMN parent_id"):
        before = contents()
        message = "parent_fk of app_tenant deletes or .* does; drop its ON DELETE; nothing was"
        with pytest.raises(CommandError, match=message):
            command("delete_tenant", a.pk, "--yes", *ALSO)
        assert contents() == before
        # The tenant whose row does not go takes nobody along.
        command("delete_tenant", a.pk, "--yes", "--keep-tenant", *ALSO)
        assert contents()["app_tenant"] == before["app_tenant"]
    connections["default"].close()


BOTH = (
    "ALTER TABLE app_note ADD COLUMN tag_id bigint REFERENCES app_tag DEFERRABLE INITIALLY"
    " DEFERRED; UPDATE app_note n SET tag_id = (SELECT min(id) FROM app_tag t"
    " WHERE t.tenant_id = n.tenant_id); SET CONSTRAINTS ALL IMMEDIATE;"
    "ALTER TABLE app_note ALTER tag_id SET NOT NULL;"
    "ALTER TABLE app_tag ADD COLUMN note_id bigint REFERENCES app_note DEFERRABLE INITIALLY"
    " DEFERRED; UPDATE app_tag t SET note_id = (SELECT min(id) FROM app_note n"
    " WHERE t.tenant_id = n.tenant_id)"
)
BOTH_NOT_NULL = (
    f"{BOTH}; SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE app_tag ALTER note_id SET NOT NULL"
)
DROP_BOTH = "ALTER TABLE app_note DROP COLUMN tag_id; ALTER TABLE app_tag DROP COLUMN note_id"


@pytest.mark.parametrize("how", [BOTH, BOTH_NOT_NULL])
def test_tables_that_refer_to_each_other_go(
    how: str, library: Tenants, contents: Read, arrange: psycopg.Connection[Any], tmp_path: Any
) -> None:
    a, b = library
    path = tmp_path / "a.jsonl"
    with broken(arrange, how, DROP_BOTH):
        before = contents()
        command("export_tenant", a.pk, "--output", path)
        batches: list[tuple[str, int]] = []
        removal(a, batch=1).run(lambda *batch: batches.append(batch))
        after = contents()
        assert not any(of(a, after).values())
        assert of(b, after) == of(b, before)
        # Whole tables where it cannot be otherwise.
        assert (("app_note", 2) in batches) == (how is BOTH_NOT_NULL)
        Shared.objects.all().delete()
        command("import_tenant", path, "--database", "owner")
        assert contents() == before
    connections["default"].close()


BEST = (
    "ALTER TABLE app_item ADD COLUMN best_id bigint REFERENCES app_book (item_ptr_id) DEFERRABLE"
    " INITIALLY DEFERRED; UPDATE app_item i SET best_id = (SELECT min(item_ptr_id) FROM app_book b"
    " JOIN app_item j ON j.id = b.item_ptr_id WHERE j.tenant_id = i.tenant_id);"
    "SET CONSTRAINTS ALL IMMEDIATE; ALTER TABLE app_item ALTER best_id SET NOT NULL"
)


def test_children_go_before_their_parents_that_refer_to_them(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any], tmp_path: Any
) -> None:
    a, b = library
    path = tmp_path / "a.jsonl"
    with broken(arrange, BEST, "ALTER TABLE app_item DROP COLUMN best_id"):
        before = contents()
        command("export_tenant", a.pk, "--output", path)
        command("delete_tenant", a.pk, "--yes", *ALSO)
        assert not any(of(a, contents()).values())
        assert of(b, contents()) == of(b, before)
        command("import_tenant", path, "--database", "owner")
        assert contents() == before
    connections["default"].close()


OWNER = (
    "ALTER TABLE app_tenant ADD COLUMN owner_id bigint REFERENCES app_user DEFERRABLE INITIALLY"
    " DEFERRED; UPDATE app_tenant t SET owner_id = (SELECT min(id) FROM app_user u"
    " WHERE u.tenant_id = t.id); SET CONSTRAINTS ALL IMMEDIATE;"
    "ALTER TABLE app_tenant ALTER owner_id SET NOT NULL"
)
DROP_OWNER = "ALTER TABLE app_tenant DROP COLUMN owner_id"


@pytest.mark.parametrize("batch", [1, 1000])
def test_what_is_named_goes_where_the_tenant_refers_to_it(
    batch: int, library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    for tenant in library:
        for number in range(3):
            User.objects.create(username=f"{number} of {tenant.name}", tenant=tenant)
    deleted: list[str] = []

    def note(sender: Any, instance: User, **kwargs: Any) -> None:
        # After the tenant, whose model may protect its owner.
        assert not Tenant.objects.filter(pk=a.pk).exists()
        deleted.append(instance.username)

    with broken(arrange, OWNER, DROP_OWNER):
        before = contents()
        post_delete.connect(note, sender=User)
        try:
            command("delete_tenant", a.pk, "--yes", "--batch", batch, *ALSO, "--also", "app.User")
        finally:
            post_delete.disconnect(note, sender=User)
        assert of(b, contents()) == of(b, before)
        assert not any(of(a, contents()).values())
    assert sorted(deleted) == ["0 of A", "1 of A", "2 of A"]
    assert {each.tenant_id for each in User.objects.all()} == {b.pk}
    assert User.objects.count() == 3
    connections["default"].close()


KEPT = {
    "policy": (
        "CREATE POLICY keep ON app_tag AS RESTRICTIVE FOR DELETE USING (false)",
        "DROP POLICY keep ON app_tag",
    ),
    "trigger": (
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER keep BEFORE DELETE ON app_tag FOR EACH ROW EXECUTE FUNCTION keep()",
        "DROP FUNCTION keep CASCADE",
    ),
}


@pytest.mark.parametrize("by", KEPT)
def test_that_rows_are_still_there_is_said(
    by: str, library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    before = contents()
    with broken(arrange, *KEPT[by]):
        # Nothing refers to the rows that stay, and the tenant is kept.
        message = "rows of the tenant are still there, .*: 2 of app_tag. What has been deleted"
        with pytest.raises(CommandError, match=message):
            command("delete_tenant", a.pk, "--yes", "--keep-tenant", *ALSO)
        assert len(contents()["app_tag"]) == len(before["app_tag"])
        connections["default"].close()
    command("delete_tenant", a.pk, "--yes", *ALSO)
    assert not any(of(a, contents()).values())
    assert of(b, contents()) == of(b, before)


def test_a_database_of_another_engine_is_refused(
    library: Tenants, contents: Read, alias: Add, tmp_path: Any
) -> None:
    name = alias("default", ENGINE="django.db.backends.postgresql")
    before = contents()
    path = tmp_path / "a.jsonl"
    command("export_tenant", library[0].pk, "--output", path)
    for arguments in (
        ["delete_tenant", library[0].pk, "--yes", *ALSO],
        ["export_tenant", library[0].pk, "--output", tmp_path / "b.jsonl"],
        ["import_tenant", path],
    ):
        with pytest.raises(CommandError, match="which does not inherit from tenantry's; name"):
            command(*arguments, "--database", name)
    assert contents() == before
    assert [each.name for each in tmp_path.iterdir()] == ["a.jsonl"]


PARENTS = (
    "ALTER TABLE app_note ADD COLUMN above_id bigint REFERENCES app_note{}; UPDATE app_note n"
    " SET above_id = (SELECT min(id) FROM app_note m WHERE m.tenant_id = n.tenant_id)"
    " WHERE id <> (SELECT min(id) FROM app_note m WHERE m.tenant_id = n.tenant_id);"
    "SET CONSTRAINTS ALL IMMEDIATE;"
)
ONE_ROOT = {
    "index": "CREATE UNIQUE INDEX one_root ON app_note (tenant_id) WHERE above_id IS NULL",
    "expression": "CREATE UNIQUE INDEX one_root ON app_note (tenant_id, (coalesce(above_id, 0)))",
    "nulls": "CREATE UNIQUE INDEX one_root ON app_note (tenant_id, above_id) NULLS NOT DISTINCT",
    "check": (
        "ALTER TABLE app_note ADD CONSTRAINT one_root"
        " CHECK (above_id IS NOT NULL OR title LIKE '% 1')"
    ),
}


@pytest.mark.parametrize("deferred", [" DEFERRABLE INITIALLY DEFERRED", ""])
@pytest.mark.parametrize("rule", ONE_ROOT)
@pytest.mark.parametrize("batch", [1, 1000])
def test_a_tree_of_which_not_all_may_be_roots_goes(
    batch: int,
    rule: str,
    deferred: str,
    library: Tenants,
    contents: Read,
    arrange: psycopg.Connection[Any],
) -> None:
    a, b = library
    how = f"{PARENTS.format(deferred)}; {ONE_ROOT[rule]}"
    with broken(arrange, how, "ALTER TABLE app_note DROP COLUMN above_id CASCADE"):
        before = contents()
        command("delete_tenant", a.pk, "--yes", "--batch", batch, *ALSO)
        after = contents()
        assert not any(of(a, after).values())
        assert of(b, after) == of(b, before)
        connections["default"].close()


STUBBORN = (
    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN {} END';"
    "CREATE TRIGGER refuse BEFORE UPDATE ON app_item FOR EACH ROW EXECUTE FUNCTION refuse()"
)
STUBBORN_BY = {
    "error": (
        "RAISE integrity_constraint_violation USING MESSAGE = ''it is needed'';",
        "is needed",
    ),
    "default": ("NEW.replaces_id = OLD.replaces_id; RETURN NEW;", "1 rows of app_item have a val"),
}


@pytest.mark.parametrize("how", STUBBORN_BY)
def test_that_a_row_has_to_refer_to_another_one_is_said(
    how: str, library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    before = {table: len(rows) for table, rows in contents().items()}
    does, says = STUBBORN_BY[how]
    with (
        broken(arrange, STUBBORN.format(does), "DROP FUNCTION refuse CASCADE"),
        pytest.raises(CommandError, match=rf"{says}(?s:.)* Nothing was deleted; columns"),
    ):
        command("delete_tenant", library[0].pk, "--yes", *ALSO)
    assert {table: len(rows) for table, rows in contents().items()} == before
    connections["default"].close()


MAIN = (
    "ALTER TABLE app_tenant ADD COLUMN main_id bigint REFERENCES app_note DEFERRABLE INITIALLY"
    " DEFERRED; UPDATE app_tenant t SET main_id = (SELECT min(id) FROM app_note n"
    " WHERE n.tenant_id = t.id); SET CONSTRAINTS ALL IMMEDIATE"
)
DROP_MAIN = "ALTER TABLE app_tenant DROP COLUMN main_id"


def test_a_tenant_who_is_kept_lets_go_of_its_rows(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    # Whom nothing but the tenant names, and who is of another one.
    keeper = User.objects.create(username="keeper", tenant=b)
    keeps = (
        "ALTER TABLE app_tenant ADD COLUMN keeper_id bigint REFERENCES app_user;"
        f"UPDATE app_tenant SET keeper_id = {keeper.pk}"
    )
    with (
        broken(arrange, MAIN, DROP_MAIN),
        broken(arrange, keeps, "ALTER TABLE app_tenant DROP COLUMN keeper_id"),
    ):
        User.objects.create(username="of A", tenant=a)
        before = contents()
        command("delete_tenant", a.pk, "--yes", "--keep-tenant", *ALSO, "--also", "app.User")
        after = contents()
        assert of(b, after) == of(b, before)
        tenants = sorted(map(json.loads, after["app_tenant"]), key=lambda row: str(row["name"]))
        assert [row["main_id"] is None for row in tenants] == [True, False]
        assert [row["keeper_id"] for row in tenants] == [keeper.pk] * 2
        del after["app_tenant"]
        assert not any(of(a, after).values())
    assert [each.username for each in User.objects.all()] == ["keeper"]
    connections["default"].close()


def test_rows_that_a_tenant_who_is_kept_needs_stop_it(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    needs = f"{MAIN}; ALTER TABLE app_tenant ALTER main_id SET NOT NULL"
    for tenant in library:
        User.objects.create(username=f"of {tenant.name}", tenant=tenant)
    also = [*ALSO, "--also", "app.User"]
    with broken(arrange, needs, DROP_MAIN), broken(arrange, OWNER, DROP_OWNER):
        before = contents()
        text = command("delete_tenant", a.pk, "--dry-run", "--keep-tenant", *also)
        assert "app_tenant.main_id: 1 rows refer to these, and would stop the deletion\n" in text
        message = (
            r"row is kept, but refers to rows that would be deleted, and app_tenant.main_id,"
            r" app_tenant.owner_id cannot be NULL; .* without --keep-tenant; nothing was deleted"
        )
        with pytest.raises(CommandError, match=message):
            command("delete_tenant", a.pk, "--yes", "--keep-tenant", *also)
        assert contents() == before
        assert User.objects.count() == 2
        # Not by a row of another tenant.
        arrange.execute(
            "UPDATE app_tenant a SET main_id = b.main_id, owner_id = b.owner_id"
            " FROM app_tenant b WHERE b.id = %s",
            [b.pk],
        )
        command("delete_tenant", a.pk, "--yes", "--keep-tenant", *also)
        assert of(b, contents()) == of(b, before)
        assert len(contents()["app_tenant"]) == 2
    assert [each.username for each in User.objects.all()] == ["of B"]
    connections["default"].close()


@pytest.mark.parametrize(
    ("column", "action"), [("main_id", ""), ("parent_id", ""), ("parent_id", "ON DELETE RESTRICT")]
)
def test_rows_that_another_tenants_own_row_needs_stop_it(
    column: str, action: str, library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    parent = f"ALTER TABLE app_tenant ADD COLUMN parent_id bigint REFERENCES app_tenant {action}"
    drop = "ALTER TABLE app_tenant DROP COLUMN parent_id"
    with broken(arrange, MAIN, DROP_MAIN), broken(arrange, parent, drop):
        value = "id" if column == "parent_id" else "main_id"
        arrange.execute(
            f"UPDATE app_tenant SET {column} = (SELECT {value} FROM app_tenant WHERE id = %s)"
            " WHERE id = %s",
            [a.pk, b.pk],
        )
        before = contents()
        says = f"1 rows of other tenants in app_tenant refer to rows that .*, by {column}; let them"
        with pytest.raises(CommandError, match=f"{says} .*; nothing was deleted"):
            command("delete_tenant", a.pk, "--yes", *ALSO)
        assert "it would be refused: 1 rows of" in command(
            "delete_tenant", a.pk, "--dry-run", *ALSO
        )
        assert contents() == before
        arrange.execute(f"UPDATE app_tenant SET {column} = NULL WHERE id = %s", [b.pk])
        between = contents()
        command("delete_tenant", a.pk, "--yes", *ALSO)
        assert not any(of(a, contents()).values())
        assert of(b, contents()) == of(b, between)
    connections["default"].close()


# Asking first.


class Keyboard(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_it_asks_first(
    library: Tenants, contents: Read, monkeypatch: pytest.MonkeyPatch, processes: dict[str, str]
) -> None:
    a, _ = library
    before = contents()
    result = manage("delete_tenant", a.pk, *ALSO)
    assert (result.returncode, result.stderr.splitlines()[-1]) == (
        1,
        "CommandError: standard input is not a terminal, so nobody can confirm; pass --yes",
    )
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    with pytest.raises(CommandError, match="input is not a terminal"):
        command("delete_tenant", a.pk, *ALSO)
    monkeypatch.setattr("sys.stdin", Keyboard("y\n"))
    with pytest.raises(CommandError, match="nothing was deleted"):
        command("delete_tenant", a.pk, *ALSO)
    assert contents() == before
    monkeypatch.setattr("sys.stdin", Keyboard(f"{a.pk}\n"))
    assert command("delete_tenant", a.pk, "-v", "2", *ALSO).count(" deleted\n") > 5
    assert Tenant.objects.count() == 1


def test_a_batch_is_a_number_of_rows(library: Tenants) -> None:
    with pytest.raises(CommandError, match="--batch: 0 is too few; give 1 or more"):
        command("delete_tenant", library[0].pk, "--yes", "--batch", 0)


def test_a_database_that_is_not_migrated_is_refused(
    library: Tenants, arrange: psycopg.Connection[Any]
) -> None:
    hide, back = "ALTER TABLE app_tag RENAME TO hidden", "ALTER TABLE hidden RENAME TO app_tag"
    with broken(arrange, hide, back), pytest.raises(CommandError, match="lacks app_tag; run migr"):
        command("delete_tenant", library[0].pk, "--dry-run")


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Leave no row that TRUNCATE of the tenants does not reach."""
    yield
    connections.close_all()


PARTITIONED = (
    "CREATE TABLE whole (LIKE app_book, PRIMARY KEY (item_ptr_id)) PARTITION BY LIST (item_ptr_id);"
    " ALTER TABLE whole ADD FOREIGN KEY (item_ptr_id) REFERENCES app_item DEFERRABLE INITIALLY"
    " DEFERRED; ALTER TABLE whole ATTACH PARTITION app_book DEFAULT"
)
NOT_PARTITIONED = "ALTER TABLE whole DETACH PARTITION app_book; DROP TABLE whole"


def test_a_table_that_is_a_partition_is_not_kept_by_its_parent(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, b = library
    before = contents()
    with broken(arrange, PARTITIONED, NOT_PARTITIONED):
        ends = {(each.table, each.target) for each in removal(a).found.references}
        assert ("app_book", "app_item") in ends
        assert "whole" not in {end for both in ends for end in both}
        command("delete_tenant", a.pk, "--yes", *ALSO)
        connections["default"].close()
    assert not any(of(a, contents()).values())
    assert of(b, contents()) == of(b, before)


def test_what_refers_to_the_parent_of_a_partition_stops_it(
    library: Tenants, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    a, _ = library
    before = contents()
    refer = (
        "CREATE TABLE refers (book_id int REFERENCES whole); GRANT SELECT ON refers TO app; INSERT"
        " INTO refers SELECT id FROM app_item JOIN app_book ON id = item_ptr_id WHERE tenant_id ="
        f" {a.pk} LIMIT 1"
    )
    with (
        broken(arrange, PARTITIONED, NOT_PARTITIONED),
        broken(arrange, refer, "DROP TABLE refers"),
    ):
        with pytest.raises(CommandError, match=r"of the tenant: 1 of refers\.book_id; delete or"):
            command("delete_tenant", a.pk, "--yes", *ALSO)
        connections["default"].close()
    assert contents() == before
