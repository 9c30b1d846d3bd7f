"""Which rows are a tenant's own: by a column, by a path, by what they refer to."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.apps import apps
from django.contrib.auth.models import Group
from django.core.management import CommandError
from django.db import connections, models
from django.db.migrations import AddField, CreateModel
from django.db.migrations.state import ProjectState
from django.test.utils import isolate_apps

from tenantry import RLSConstraint, admin_context, tenant_context
from tenantry.lifecycle.export import export
from tenantry.lifecycle.removal import Removal
from tenantry.lifecycle.tables import ownership
from tenantry.operations import AddRLSPolicy
from tenantry.runs.fleet import Fleet
from tenantry.runs.ledger import Ledger
from tenantry.shapes import current
from tests import settings as test_settings
from tests.app.models import Tenant
from tests.fix_checks import broken
from tests.fix_lifecycle import Contents, command
from tests.fix_migrations import Migrate

Tenants = tuple[Tenant, Tenant]
SHARED = "CREATE POLICY shared ON migrated_{0} FOR SELECT USING (true)"


def key(to: str, **options: Any) -> Any:
    return models.ForeignKey(f"migrated.{to}", models.CASCADE, related_name="+", **options)


def model(
    name: str,
    *constraints: Any,
    bases: Any = (models.Model,),
    table: str | None = None,
    **fields: Any,
) -> CreateModel:
    fields = (
        fields if "part_ptr" in fields else {"id": models.AutoField(primary_key=True), **fields}
    )
    options = {"constraints": list(constraints), **({"db_table": table} if table else {})}
    return CreateModel(name, list(fields.items()), options, bases)


@pytest.fixture(params=[True, False], ids=["constrained", "loose"])
def owned(tenants: Tenants, migrate: Migrate, request: pytest.FixtureRequest) -> Any:
    """Return models: a column, a path of two steps, a ManyToManyField, and a child.

    The database knows what refers to what, or the models only.
    """
    owner = models.BigIntegerField()
    state = ProjectState()
    known = {"db_constraint": request.param}
    pointer = models.OneToOneField(
        "migrated.Part",
        models.CASCADE,
        parent_link=True,
        primary_key=True,
        auto_created=True,
        **known,
    )
    for each in [
        model("Whole", RLSConstraint(field="owner", name="whole_rls"), owner=owner),
        model(
            "Part", RLSConstraint(path="whole__owner", name="part_rls"), whole=key("Whole", **known)
        ),
        model(
            "Grain",
            RLSConstraint(path="part__whole__owner", name="g_rls"),
            part=key("Part", **known),
        ),
        model("Piece", bases=("migrated.Part",), part_ptr=pointer),
        model(
            "Set",
            RLSConstraint(field="owner", name="set_rls"),
            owner=owner,
            wholes=models.ManyToManyField("migrated.Whole", **known),
        ),
    ]:
        state = migrate(each, state)
    return state.apps


def number(owned: Any, tenant: Tenant, name: str, table: str) -> int:
    """Return how many rows of a model are a tenant's own."""
    found = owned.get_model("migrated", name)
    quote: Any = connections["default"].ops.quote_name
    condition, _ = ownership(found, quote)
    with tenant_context(tenant.pk), connections["default"].cursor() as cursor:
        cursor.execute(f"SELECT count(*) FROM {table} WHERE {condition}")
        count: int = cursor.fetchone()[0]
        return count


ROWS = """
INSERT INTO migrated_whole (id, owner) VALUES (1, {a}), (2, {b});
INSERT INTO migrated_part (id, whole_id) VALUES (1, 1), (2, 2), (3, 2);
INSERT INTO migrated_grain (part_id) VALUES (1), (2), (2), (3);
INSERT INTO migrated_piece (part_ptr_id) VALUES (1), (2);
INSERT INTO migrated_set (id, owner) VALUES (1, {a}), (2, {b});
INSERT INTO migrated_set_wholes (set_id, whole_id) VALUES (1, 1), (1, 2), (2, 2);
"""


def test_shared_rows_are_not_owned(
    owned: Any, tenants: Tenants, arrange: psycopg.Connection[Any]
) -> None:
    a, b = tenants
    arrange.execute(ROWS.format(a=a.pk, b=b.pk).encode())
    names = ["whole", "part", "grain", "piece", "set", "set_wholes"]
    how = ";".join(SHARED.format(name) for name in names)
    back = ";".join(f"DROP POLICY shared ON migrated_{name}" for name in names)
    restrict = "APP_ROLE" in test_settings.RLS_TENANTS
    with broken(arrange, how, back):
        found = {
            tenant.name: {name: number(owned, tenant, name, f"migrated_{name}") for name in names}
            for tenant in tenants
        }
    # A row that names one of each tenant is of the tenant of the model that declares the field.
    both = 0 if restrict else 1
    assert found == {
        "A": {"whole": 1, "part": 1, "grain": 1, "piece": 1, "set": 1, "set_wholes": 1 + both},
        "B": {"whole": 1, "part": 2, "grain": 3, "piece": 1, "set": 1, "set_wholes": 1},
    }


def test_rows_by_paths_and_relations_go_and_come(
    owned: Any,
    tenants: Tenants,
    superuser: psycopg.Connection[Any],
    arrange: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Tenants without rows in the tables of other models.
    c, d = Tenant.objects.create(name="C"), Tenant.objects.create(name="D")
    arrange.execute(ROWS.format(a=c.pk, b=d.pk).replace("(1, 2), ", "").encode())
    names = ["grain", "part", "piece", "set", "set_wholes", "whole"]
    monkeypatch.setattr("tenantry.checks.inspection.apps", owned)

    def rows() -> dict[str, list[Any]]:
        return {
            name: superuser.execute(f"SELECT * FROM migrated_{name} ORDER BY 1".encode()).fetchall()
            for name in names
        }

    before = rows()
    # The row that it is a part of takes only the tenant's own along.
    for to in ("set", "whole"):
        cascade = f"FOREIGN KEY ({to}_id) REFERENCES migrated_{to} ON DELETE CASCADE"
        how = f"ALTER TABLE migrated_set_wholes ADD CONSTRAINT gone {cascade}"
        with broken(arrange, how, "ALTER TABLE migrated_set_wholes DROP CONSTRAINT gone"):
            refused = "the foreign key gone of migrated_set_wholes deletes or changes rows of other"
            assert (refused in command("delete_tenant", d.pk, "--dry-run")) is (to == "whole")
            connections["default"].close()
    path = tmp_path / "d.jsonl"
    with path.open("wb") as file:
        written = export(connections["default"], d, file)
    assert {name.removeprefix("migrated_"): number for name, number in written.items()} == {
        "app_tenant": 1,
        **{name: len(found) - 1 for name, found in before.items()},
    }
    command("delete_tenant", d.pk, "--yes")
    # What is left is the first row of each table, which is the other tenant's.
    assert rows() == {name: found[:1] for name, found in before.items()}
    command("import_tenant", path, "--database", "owner")
    assert rows() == before


def test_the_tenant_goes_last(
    tenants: Tenants, migrate: Migrate, monkeypatch: pytest.MonkeyPatch
) -> None:
    # By a name that comes before the tenant's own, and a column that is no foreign key.
    rule = RLSConstraint(field="owner", name="early_rls")
    early = model("Early", rule, table="aaa_migrated", owner=models.BigIntegerField())
    state = migrate(early, ProjectState())
    monkeypatch.setattr("tenantry.checks.inspection.apps", state.apps)
    removal = Removal(connections["default"], tenants[0])
    assert list(removal.doomed) == ["aaa_migrated", "app_tenant"]


@pytest.mark.parametrize(("null", "best"), [(True, "Part"), (False, "Grain")])
def test_what_a_path_goes_through_is_not_cut(
    null: bool,
    best: str,
    tenants: Tenants,
    migrate: Migrate,
    arrange: psycopg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    c = Tenant.objects.create(name="C")
    owner = models.BigIntegerField()
    state = ProjectState()
    for each in [
        model("Whole", RLSConstraint(field="owner", name="whole_rls"), owner=owner),
        model(
            "Part",
            RLSConstraint(field="owner", name="part_rls"),
            owner=owner,
            whole=key("Whole", null=null),
        ),
        model("Grain", RLSConstraint(path="part__whole__owner", name="g_rls"), part=key("Part")),
        # So that the foreign keys are a cycle.
        AddField("Whole", "best", key(best)),
    ]:
        state = migrate(each, state)
    arrange.execute(
        f"INSERT INTO migrated_whole (id, owner, best_id) VALUES (1, {c.pk}, 1);"
        f"INSERT INTO migrated_part (id, owner, whole_id) VALUES (1, {c.pk}, 1);"
        "INSERT INTO migrated_grain (part_id) VALUES (1)"
    )
    monkeypatch.setattr("tenantry.checks.inspection.apps", state.apps)
    assert command("delete_tenant", c.pk, "--yes").endswith("4 rows deleted\n")
    assert arrange.execute("SELECT count(*) FROM migrated_grain").fetchone() == (0,)


@pytest.fixture
def groups(
    tenants: Tenants, migrate: Migrate, settings: Any, superuser: psycopg.Connection[Any]
) -> Iterator[Tenants]:
    """Protect Django's own table of groups."""
    operation = AddRLSPolicy("auth.Group", "owner_id", tenant_model="app.Tenant", **current())
    migrate(operation, ProjectState.from_apps(apps))
    settings.RLS_TENANTS = {
        **test_settings.RLS_TENANTS,
        "EXTERNAL_MODELS": {"auth.Group": "owner_id"},
    }
    yield tenants
    superuser.execute("TRUNCATE auth_group CASCADE")


def test_rows_of_models_of_other_packages_go_and_come(
    groups: Tenants, contents: Callable[[], Contents], tmp_path: Path
) -> None:
    a, _ = groups
    for tenant in groups:
        with tenant_context(tenant.pk):
            Group.objects.create(name=f"of {tenant.name}")
    before = contents()
    assert len(before["auth_group"]) == 2
    path = tmp_path / "a.jsonl"
    file = io.BytesIO()
    assert export(connections["default"], a, file)["auth_group"] == 1
    assert b"of B" not in file.getvalue()
    path.write_bytes(file.getvalue())
    header = json.loads(file.getvalue().splitlines()[0])
    [table] = [each for each in header["tables"] if each["table"] == "auth_group"]
    assert table["columns"] == ["id", "name", "owner_id"]
    command("delete_tenant", a.pk, "--yes")
    assert len(contents()["auth_group"]) == 1
    command("import_tenant", path, "--database", "owner")
    assert contents() == before
    with pytest.raises(CommandError, match="which has rows in"):
        command("import_tenant", path, "--database", "owner")
    command("delete_tenant", a.pk, "--yes")


def test_tenants_who_see_only_themselves_stay_go_and_come(
    hidden: Tenants, contents: Callable[[], Contents], tmp_path: Path
) -> None:
    a, b = hidden
    assert not Tenant.objects.exists()
    before = contents()
    path = tmp_path / "a.jsonl"
    command("export_tenant", "A", "--by", "name", "--output", path)
    with admin_context():
        command("delete_tenant", a.pk, "--yes", "--keep-tenant")
    assert contents()["app_tenant"] == before["app_tenant"]
    assert len(contents()["app_note"]) == 2
    command("delete_tenant", a.pk, "--yes")
    assert command("run_for_all_tenants", "--list") == f"{b.pk}\t{b}\n"
    command("import_tenant", path, "--database", "owner")
    assert contents() == before


def test_commands_run_for_tenants_who_see_only_themselves(
    hidden: Tenants, processes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[list[str]] = []

    class Idle(Fleet):
        def __init__(self, command: list[str], tenants: list[str], ledger: Ledger) -> None:
            started.append(tenants)
            super().__init__(command, [], ledger)

    monkeypatch.setattr("tenantry.management.commands.run_for_all_tenants.Fleet", Idle)
    command("run_for_all_tenants", "check")
    command("run_for_all_tenants", "--only", hidden[1].pk, "check")
    assert started == [[str(each.pk) for each in hidden], [str(hidden[1].pk)]]


PARENTS = """
CREATE TABLE app_root (id bigint PRIMARY KEY);
CREATE TABLE app_org (root_ptr_id bigint PRIMARY KEY REFERENCES app_root);
CREATE TABLE app_place (place bigint PRIMARY KEY);
CREATE TABLE app_firm (key bigint PRIMARY KEY, org_id bigint NOT NULL);
CREATE TABLE app_shop (org_ptr_id bigint PRIMARY KEY, place_ptr_id bigint NOT NULL);
GRANT SELECT ON app_root, app_org, app_place, app_firm, app_shop TO app;
INSERT INTO app_root VALUES ({a}), ({b});
INSERT INTO app_org VALUES ({a}), ({b});
INSERT INTO app_place VALUES ({a}), ({b});
INSERT INTO app_firm VALUES ({a}, {b}), ({b}, {a});
INSERT INTO app_shop VALUES ({a}, {b}), ({b}, {a})
"""


@isolate_apps("tests.app")
def test_rows_of_a_tenants_parents_are_found_by_their_links(
    tenants: Tenants, arrange: psycopg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Root(models.Model):
        class Meta:
            app_label = "app"

    class Org(Root):
        class Meta:
            app_label = "app"

    class Place(models.Model):
        place = models.BigAutoField(primary_key=True)

        class Meta:
            app_label = "app"

    class Firm(Org):
        key = models.BigIntegerField(primary_key=True)
        org = models.OneToOneField(Org, models.CASCADE, parent_link=True)

        class Meta:
            app_label = "app"

    class Shop(Org, Place):
        class Meta:
            app_label = "app"

    a, b = (str(tenant.pk) for tenant in tenants)
    firm = {"app_firm": [[a, b]], "app_org": [[b]], "app_root": [[b]]}
    shop = {"app_shop": [[a, b]], "app_org": [[a]], "app_root": [[a]], "app_place": [[b]]}
    cases: list[Any] = [(Firm, firm, "app_org, app_root"), (Shop, shop, "app_place")]
    drop = "DROP TABLE app_shop, app_firm, app_place, app_org, app_root"
    with broken(arrange, PARENTS.format(a=a, b=b), drop):
        for model, expected, linked in cases:
            for module in ("tables", "removal"):
                name = f"tenantry.lifecycle.{module}.tenant_model"
                monkeypatch.setattr(name, lambda model=model: model)
            tenant = model(pk=tenants[0].pk)
            file = io.BytesIO()
            export(connections["default"], tenant, file)
            found = rows_of(file)
            assert {name: found[name] for name in expected} == expected
            with pytest.raises(CommandError, match=f"says which rows of {linked} are the ten"):
                Removal(connections["default"], tenant).require_safe()
            Removal(connections["default"], tenant, keep_tenant=True).require_safe()
        connections["default"].close()


def rows_of(file: io.BytesIO) -> dict[str, list[Any]]:
    """Return what a file holds, by table."""
    found: dict[str, list[Any]] = {}
    for line in map(json.loads, file.getvalue().splitlines()[1:-1]):
        if isinstance(line, dict):
            found[line["table"]] = []
        else:
            found[list(found)[-1]].append(line)
    return found
