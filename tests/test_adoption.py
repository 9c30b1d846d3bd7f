"""Projects with data adopt tenantry as the how-to guides say, while requests are served."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.fix_docs import DATABASE, DOCS, OWNER, SESSION, Block, Reader
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


# From other packages. What they leave in a database is made by hand.

RLS_TENANTS_MODELS = """\
from django.db import models


class Contact(models.Model):
    tenant = models.ForeignKey("notes.Tenant", on_delete=models.CASCADE)
    name = models.TextField()
    readers = models.ManyToManyField("notes.User")
"""
RLS_TENANTS_ROWS = """\
INSERT INTO crm_contact (tenant_id, name) VALUES (1, 'a'), (1, 'b'), (2, 'c');
INSERT INTO crm_contact_readers (contact_id, user_id)
  SELECT c.id, u.id FROM crm_contact c JOIN notes_user u ON u.username = 'ada';
"""
RLS_TENANTS_POLICIES = """\
ALTER TABLE crm_contact ENABLE ROW LEVEL SECURITY;
ALTER TABLE crm_contact FORCE ROW LEVEL SECURITY;
CREATE POLICY crm_contact_tenant_isolation_policy ON crm_contact
  USING (CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true
    ELSE tenant_id = nullif((SELECT current_setting('rls.current_tenant', true)), '')::int END)
  WITH CHECK (CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true
    ELSE tenant_id = nullif((SELECT current_setting('rls.current_tenant', true)), '')::int END);
ALTER TABLE crm_contact_readers ENABLE ROW LEVEL SECURITY;
ALTER TABLE crm_contact_readers FORCE ROW LEVEL SECURITY;
CREATE POLICY crm_contact_readers_m2m_rls_policy ON crm_contact_readers
  USING (CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true
    ELSE EXISTS (SELECT 1 FROM crm_contact WHERE id = contact_id AND
      tenant_id = nullif((SELECT current_setting('rls.current_tenant', true)), '')::int) END)
  WITH CHECK (CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true
    ELSE EXISTS (SELECT 1 FROM crm_contact WHERE id = contact_id AND
      tenant_id = nullif((SELECT current_setting('rls.current_tenant', true)), '')::int) END)
"""
OLD_POLICY_NEW_BINDING = """\
>>> from crm.models import Contact
>>> from tenantry import tenant_context
>>> Contact.objects.count()
0
>>> with tenant_context(1):
...     Contact.objects.count(), Contact.readers.through.objects.count()
(2, 2)
"""
MULTITENANT_MODELS = """\
from django.db import models


class Product(models.Model):
    store = models.ForeignKey("notes.Tenant", on_delete=models.CASCADE)
    name = models.TextField()

    class Meta:
        unique_together = [("id", "store")]


class Purchase(models.Model):
    store = models.ForeignKey("notes.Tenant", on_delete=models.CASCADE)
    product = models.ForeignKey(Product, on_delete=models.CASCADE)
"""
MULTITENANT_ROWS = """\
INSERT INTO crm_product (store_id, name) VALUES (1, 'a'), (2, 'b');
INSERT INTO crm_purchase (store_id, product_id) SELECT store_id, id FROM crm_product;
"""
# As one schema of django-tenants: keys begin with 1 in each.
SCHEMA = """\
CREATE SCHEMA {0};
CREATE TABLE {0}.crm_company (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE,
  parent_id bigint REFERENCES {0}.crm_company);
CREATE TABLE {0}.crm_tag (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, name text NOT NULL);
CREATE TABLE {0}.crm_company_tags (
  id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
  company_id bigint NOT NULL REFERENCES {0}.crm_company,
  tag_id bigint NOT NULL REFERENCES {0}.crm_tag);
INSERT INTO {0}.crm_company (name, parent_id) VALUES ('head', NULL), ('branch', 1);
INSERT INTO {0}.crm_tag (name) VALUES ('{0} one'), ('{0} two');
INSERT INTO {0}.crm_company_tags (company_id, tag_id) VALUES (1, 1), (2, 2);
GRANT USAGE ON SCHEMA {0} TO notebook_owner;
GRANT SELECT ON ALL TABLES IN SCHEMA {0} TO notebook_owner;
"""


def start_crm(reader: Reader, models: str = "") -> None:
    """Give the reader an app, perhaps with models and their migration."""
    reader.run_commands("$ python manage.py startapp crm\n")
    settings = 'INSTALLED_APPS += ["crm"]\n'
    reader.write(Block("python", "notebook/settings.py, at the end", settings))
    if models:
        reader.write(Block("python", "crm/models.py", models))
        reader.run_commands("$ python manage.py makemigrations crm\n" + MIGRATE)


MIGRATE = f"$ NOTEBOOK_DB_USER={OWNER} python manage.py migrate crm\n"


def policies_of_contacts(served: Site) -> list[str]:
    """Return them, once it is sure that tenants see their own rows only."""
    for table in ("crm_contact", "crm_contact_readers"):
        assert [served.seen(table, tenant) for tenant in ("", 1, 2)] == [0, 2, 1]
        assert served.seen(table, admin=True) == 3
    return names_of_policies(served)


def names_of_policies(served: Site) -> list[str]:
    found = served.superuser.execute(
        "SELECT polname FROM pg_policy WHERE polrelid IN"
        " ('crm_contact'::regclass, 'crm_contact_readers'::regclass) ORDER BY polname"
    )
    return [name for (name,) in found]


def test_a_table_of_django_rls_tenants_stays_protected(served: Site) -> None:
    old = ["crm_contact_readers_m2m_rls_policy", "crm_contact_tenant_isolation_policy"]
    new = ["tenantry_isolation", "tenantry_isolation"]
    start_crm(served.reader, RLS_TENANTS_MODELS)
    served.superuser.execute(RLS_TENANTS_ROWS.encode())
    served.superuser.execute(RLS_TENANTS_POLICIES.encode())

    def hand_over(run: Run) -> str:
        """Hold the migration when all of its statements are done and nothing is committed."""
        served.reader.run([sys.executable, "-W", "error", "-c", SESSION], OLD_POLICY_NEW_BINDING)
        assert policies_of_contacts(served) == old
        with psycopg.connect(served.superuser.info.dsn) as other:
            other.execute("LOCK django_migrations IN SHARE MODE")
            with served.started(MIGRATE.removeprefix("$ ")) as process:
                served.waiting()
                for table in ("crm_contact", "crm_contact_readers"):
                    with pytest.raises(psycopg.errors.LockNotAvailable):
                        served.seen(table, 1)
                assert names_of_policies(served) == old
                other.rollback()
                output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert policies_of_contacts(served) == new
        return run()

    reader = replace(served.reader, around={"migrate crm": hand_over})
    reader.follow("how-to/migrate-from-django-rls-tenants.md")
    served.reader.run_commands(f"$ NOTEBOOK_DB_USER={OWNER} python manage.py migrate crm 0001\n")
    assert policies_of_contacts(served) == old
    served.reader.run_commands(MIGRATE)
    assert policies_of_contacts(served) == new


def test_a_project_of_django_multitenant_is_protected(served: Site) -> None:
    start_crm(served.reader, MULTITENANT_MODELS)
    served.superuser.execute(MULTITENANT_ROWS.encode())
    served.reader.follow("how-to/migrate-from-django-multitenant.md")
    for table in ("crm_product", "crm_purchase"):
        assert [served.seen(table, tenant) for tenant in ("", 1, 2)] == [0, 1, 1]


def test_schemas_of_django_tenants_become_one(served: Site) -> None:
    for schema in ("acme", "globex"):
        served.superuser.execute(SCHEMA.format(schema).encode())
    start_crm(served.reader)
    served.reader.follow("how-to/migrate-from-django-tenants.md")
    for table in ("crm_company", "crm_tag", "crm_company_tags"):
        assert [served.seen(table, tenant) for tenant in ("", 1, 2)] == [0, 2, 2]
    found = served.superuser.execute(
        "SELECT c.tenant_id, c.name, p.name, p.tenant_id, t.name, t.tenant_id FROM crm_company c"
        " JOIN crm_company_tags ON company_id = c.id JOIN crm_tag t ON t.id = tag_id"
        " LEFT JOIN crm_company p ON p.id = c.parent_id ORDER BY c.id"
    )
    assert found.fetchall() == [
        (1, "head", None, None, "acme one", 1),
        (1, "branch", "head", 1, "acme two", 1),
        (2, "head", None, None, "globex one", 2),
        (2, "branch", "head", 2, "globex two", 2),
    ]
    # New keys begin after the copied ones, and a tenant is not copied twice.
    with served.app.transaction():
        served.app.execute("SET LOCAL rls.current_tenant = '2'")
        row = served.app.execute(
            "INSERT INTO crm_tag (name) VALUES ('new') RETURNING id"
        ).fetchone()
    assert row == (5,)
    command = f"NOTEBOOK_DB_USER={OWNER} python manage.py copy_schema acme 1"
    with served.started(command) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "crm.Company has rows of Acme already" in output
    assert served.seen("crm_company", 1) == 2


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
    migrate = MIGRATE.removesuffix(" crm\n")
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
