"""Projects with data adopt tenantry as the how-to guides say, while requests are served."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.fix_docs import DATABASE, DOCS, OWNER, Block, Reader
from tests.fix_site import ROWS, Run, Site

pytestmark = [pytest.mark.guc_shape, pytest.mark.slow]


def filenode(served: Site) -> Any:
    return served.value("SELECT pg_relation_filenode('shop_order')")


def test_a_project_with_data_adopts_while_it_serves(served: Site) -> None:
    files: list[Any] = []

    def first(run: Run) -> str:
        files.append(filenode(served))
        return served.tried_again(run)

    around = {
        "shop 0002": first,
        "shop 0003": served.interrupted,
        "shop 0005": served.beside_a_request,
        "shop 0006": served.without_a_scan,
        "LOCK_TIMEOUT=0": served.patient,
    }
    reader = replace(served.reader, around=around)
    reader.follow("how-to/adopt-with-data.md")
    assert files == [filenode(served)], "the table was rewritten"
    wrong = (
        "SELECT count(*) FROM shop_order JOIN notes_user u ON u.id = author_id"
        " WHERE shop_order.tenant_id IS DISTINCT FROM u.tenant_id"
    )
    assert served.value(wrong) == 0
    assert served.value("SELECT count(*) FROM shop_order") == ROWS + 1
    assert served.seen("shop_order") == 0
    assert served.seen("shop_order", 1) == ROWS / 2 + 1
    assert served.seen("shop_order", 2) == ROWS / 2
    assert served.seen("shop_order", admin=True) == ROWS + 1
    constraints = served.superuser.execute(
        "SELECT conname, convalidated FROM pg_constraint WHERE contype IN ('c', 'f')"
        " AND conrelid = 'shop_order'::regclass AND conname NOT LIKE '%author%'"
    )
    assert constraints.fetchall() == [("order_tenant", True)]
    assert served.value(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'order_tenant_placed'::regclass"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege), served.app.transaction():
        served.app.execute("SET LOCAL rls.current_tenant = '2'")
        served.app.execute(
            "INSERT INTO shop_order (tenant_id, author_id, placed)"
            " SELECT 1, id, now() FROM notes_user WHERE username = 'grace'"
        )

    reader = served.reader
    reader.run_commands("$ python manage.py makemigrations --check\n")
    reader.run_commands("$ sh migrate.sh shop 0001\n")
    assert not served.value(
        "SELECT count(*) FROM pg_attribute"
        " WHERE attrelid = 'shop_order'::regclass AND attname = 'tenant_id'"
    )
    assert served.seen("shop_order") == ROWS + 1
    reader.run_commands("$ sh migrate.sh shop\n")
    assert served.value(wrong) == 0
    assert served.seen("shop_order") == 0
    assert served.seen("shop_order", 2) == ROWS / 2


# And back: the steps of "Take tenantry out", by their numbers.

DATA_MIGRATION = """\
from django.db import migrations

from tenantry import admin_context


def forwards(apps, schema_editor):
    with admin_context():
        apps.get_model("notes", "Note").objects.filter(title="").delete()


class Migration(migrations.Migration):
    dependencies = [("notes", "0002_protect_the_log")]
    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
"""
KEEP_THE_LOG = """\
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("notes", "0004_unprotect")]
    operations = [migrations.RunSQL({sql!r})]
"""
UNBOUND = """\
>>> from django.contrib.admin.models import LogEntry
>>> from notes.models import Note
>>> Note.objects.count(), LogEntry.objects.count()
(3, 2)
"""
IN_EMPTY = f"""\
from {DATABASE}.settings import *

DATABASES["default"]["NAME"] = "notebook_empty"
"""
# As good as uninstalled: the folder of a project comes before all others.
UNINSTALLED = "raise ImportError('tenantry is not installed')\n"
STILL_THERE = """\
>>> from django.contrib.admin.models import CHANGE, LogEntry
>>> from notes.models import Note, Tenant, User
>>> acme, globex = Tenant.objects.order_by("name")
>>> Note.objects.filter(tenant=acme).count(), Note.objects.filter(tenant=globex).count()
(2, 1)
>>> Note.objects.create(tenant=globex, title="By name").tenant_id == globex.pk
True
>>> root = User.objects.get(username="root")
>>> entry = LogEntry.objects.create(user=root, action_flag=CHANGE, object_repr="nobody's")
>>> LogEntry.objects.filter(pk=entry.pk).count()
1
"""


def rewrite(reader: Reader, name: str, *replaced: tuple[str, str]) -> None:
    """Replace what a file of the project says once."""
    path = reader.folder / name
    text = path.read_text()
    for old, new in replaced:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path.write_text(text)


def in_empty(served: Site, command: str) -> tuple[int, str]:
    """Run a command of manage.py as the owner in a new database; return its status and output."""
    served.superuser.execute("DROP DATABASE IF EXISTS notebook_empty WITH (FORCE)")
    served.superuser.execute(f"CREATE DATABASE notebook_empty OWNER {OWNER}".encode())
    environment = {"DJANGO_SETTINGS_MODULE": f"{DATABASE}.in_empty", "NOTEBOOK_DB_USER": OWNER}
    try:
        with served.started(f"python manage.py {command}", **environment) as process:
            output, _ = process.communicate(timeout=120)
    finally:
        served.superuser.execute("DROP DATABASE notebook_empty WITH (FORCE)")
    return process.returncode, output


def test_a_project_takes_tenantry_out(served: Site) -> None:
    page = (DOCS / "how-to/adopt-with-data.md").read_text()
    section = page.split("\n## Take tenantry out\n")[1]
    assert re.findall(r"^(\d)\. ", section, re.MULTILINE) == [*"1234567"]
    reader = served.reader
    migrate = f"$ NOTEBOOK_DB_USER={OWNER} python manage.py migrate"
    reader.follow("how-to/protect-other-packages.md")
    (reader.folder / "notes/tags.py").unlink()
    (reader.folder / "notes/migrations/0003_alter_protection_of_the_log.py").unlink()
    reader.write(Block("python", "notes/migrations/0003_stamp.py", DATA_MIGRATION))
    reader.write(Block("python", f"{DATABASE}/in_empty.py", IN_EMPTY))
    reader.run_commands(f"{migrate}\n")
    # 1
    field = "    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE)\n"
    rewrite(
        reader,
        "notes/models.py",
        ("from tenantry import RLSProtectedModel\n", ""),
        ("class Note(RLSProtectedModel):\n", f"class Note(models.Model):\n{field}"),
    )
    reader.run_commands("$ python manage.py makemigrations notes --name unprotect\n")
    # 2
    rewrite(reader, f"{DATABASE}/settings.py", ('RLS_TENANTS["EXTERNAL_MODELS"] = ', "_ = "))
    printed = reader.run(["python", "manage.py", "sqlmigrate", "notes", "0002", "--backwards"])
    dropped = 'DROP COLUMN "tenant_id"'
    assert dropped in printed
    sql = printed.replace(dropped, 'ALTER COLUMN "tenant_id" DROP DEFAULT')
    sql = sql.replace("BEGIN;", "").replace("COMMIT;", "")
    keep = Block("python", "notes/migrations/0005_keep_the_log.py", KEEP_THE_LOG.format(sql=sql))
    reader.write(keep)
    # 3
    [left] = re.findall("`(SELECT .+?)`", section)
    assert len(served.superuser.execute(left.encode()).fetchall()) == 2
    reader.run_commands(f"{migrate}\n")
    assert served.superuser.execute(left.encode()).fetchall() == []
    # 4
    middleware = 'MIDDLEWARE += ["tenantry.middleware.RLSTenantMiddleware"]\n'
    rewrite(reader, f"{DATABASE}/settings.py", (middleware, ""))
    reader.run_session(UNBOUND)
    status, output = in_empty(served, "migrate")
    assert status == 0, output
    # 6 before 5: the old migrations need the settings.
    before = (reader.folder / f"{DATABASE}/settings.py").read_text()
    without = (
        ('INSTALLED_APPS += ["tenantry", "notes"]', 'INSTALLED_APPS += ["notes"]'),
        ('"tenantry.backends.postgresql"', '"django.db.backends.postgresql"'),
        ('RLS_TENANTS = {"TENANT_MODEL": "notes.Tenant"}\n', ""),
    )
    rewrite(reader, f"{DATABASE}/settings.py", *without)
    status, output = in_empty(served, "migrate")
    assert status == 1
    assert "RLS_TENANTS must be a dict with at least TENANT_MODEL" in output
    # 5
    (reader.folder / f"{DATABASE}/settings.py").write_text(before)
    for path in (reader.folder / "notes/migrations").glob("0*.py"):
        path.unlink()
    reader.run_commands("$ python manage.py makemigrations notes\n")
    # 6
    rewrite(reader, f"{DATABASE}/settings.py", *without)
    reader.write(Block("python", "tenantry.py", UNINSTALLED))
    reader.run_commands("$ python manage.py makemigrations --check\n")
    reader.run_commands(f"{migrate} --plan | tail -n 1\n  No planned migration operations.\n")
    status, output = in_empty(served, "migrate")
    assert status == 0, output
    # 7
    [drop] = re.findall("`(DROP SCHEMA .+?)`", section)
    reader.run_commands(f'$ psql -q -U {OWNER} -d {DATABASE} -c "{drop}"\n')
    reader.run_session(STILL_THERE)
    assert served.value("SELECT count(tenant_id) FROM django_admin_log") == 1
