"""Projects of other packages migrate as the guides say, with what those packages have made."""

from __future__ import annotations

import re
from typing import Any

import django
import pytest

from tests.fix_docs import OWNER, Block
from tests.fix_site import ROWS, Site

pytestmark = [pytest.mark.guc_shape, pytest.mark.slow]

MIGRATE = f"$ NOTEBOOK_DB_USER={OWNER} python manage.py migrate crm\n"
# The project before it has tenantry: the other package, and an app with rows.
BEFORE = """\
from notebook.settings import *

DATABASES["default"]["ENGINE"] = "{engine}"
INSTALLED_APPS = [*(name for name in INSTALLED_APPS if name not in ("tenantry", "crm")), {apps}]
"""
STOCK = "django.db.backends.postgresql"
AS_BEFORE = f"DJANGO_SETTINGS_MODULE=notebook.before NOTEBOOK_DB_USER={OWNER}"
# A constraint that is dropped and made again has another number.
FOREIGN_KEYS = """\
SELECT oid, pg_get_constraintdef(oid) FROM pg_constraint
WHERE contype = 'f' AND starts_with(conrelid::regclass::text, 'crm') ORDER BY 1"""


def build(served: Site, models: str, settings: str, *commands: str) -> None:
    """Let another package make an app's tables."""
    reader = served.reader
    write_app(served, "crm", models)
    reader.write(Block("python", "notebook/before.py", settings))
    for command in ("makemigrations crm", *commands):
        reader.run_commands(f"$ {AS_BEFORE} python manage.py {command}\n")
    installed = 'INSTALLED_APPS += ["crm"]\n'
    reader.write(Block("python", "notebook/settings.py, at the end", installed))


def write_app(served: Site, name: str, models: str) -> None:
    for path, text in (("__init__", ""), ("migrations/__init__", ""), ("models", models)):
        served.reader.write(Block("python", f"{name}/{path}.py", text))


def fill(served: Site, sql: str) -> None:
    """Insert rows that refer to others as they should, without a question for each."""
    served.superuser.execute(f"SET LOCAL session_replication_role = replica; {sql}".encode())


def edit_migration(served: Site, package: str, *replaced: tuple[str, str]) -> None:
    """Do what a guide says of old migrations, so that they do not need the package."""
    path = served.reader.folder / "crm/migrations/0001_initial.py"
    text = path.read_text()
    for pattern, new in (*replaced, (rf"^import {package}.*\n", "")):
        text, count = re.subn(pattern, new, text, flags=re.MULTILINE)
        assert count, pattern
    assert package not in text
    path.write_text(text)


def found(served: Site, sql: str) -> list[Any]:
    return served.superuser.execute(sql.encode()).fetchall()


# From django-multitenant.

MULTITENANT_MODELS = """\
from django.db import models
from django_multitenant.fields import TenantForeignKey
from django_multitenant.models import TenantModel


class Product(TenantModel):
    store = models.ForeignKey("notes.Tenant", on_delete=models.CASCADE)
    name = models.TextField()

    class Meta:
        unique_together = [("id", "store")]

    class TenantMeta:
        tenant_field_name = "store_id"


class Purchase(TenantModel):
    store = models.ForeignKey("notes.Tenant", on_delete=models.CASCADE)
    product = TenantForeignKey(Product, on_delete=models.CASCADE)

    class TenantMeta:
        tenant_field_name = "store_id"
"""
MULTITENANT_ROWS = f"""\
INSERT INTO crm_product (store_id, name)
  SELECT 1 + n % 2, 'product ' || n FROM generate_series(1, {ROWS // 2}) n;
INSERT INTO crm_purchase (store_id, product_id) SELECT store_id, id FROM crm_product;
"""


# Its own ENGINE names the tenant in foreign keys, and does not know how Django 6.1 writes them.
HAS_COMPOSITE_KEYS = django.VERSION < (6, 1)


def test_tables_of_django_multitenant_are_protected(served: Site) -> None:
    engine = "django_multitenant.backends.postgresql" if HAS_COMPOSITE_KEYS else STOCK
    settings = BEFORE.format(engine=engine, apps='"crm"')
    build(served, MULTITENANT_MODELS, settings, "migrate crm")
    fill(served, MULTITENANT_ROWS)
    edit_migration(
        served,
        "django_multitenant",
        (r"django_multitenant.fields.TenantForeignKey", "models.ForeignKey"),
        (r"^ *bases=\(django_multitenant.*\n", ""),
        (r"^ *managers=\[\n.*django_multitenant.*\n *\],\n", ""),
    )
    keys = found(served, FOREIGN_KEYS)
    composite = "FOREIGN KEY (product_id, store_id) REFERENCES crm_product(id, store_id)"
    assert [composite in key for _, key in keys].count(True) == HAS_COMPOSITE_KEYS
    served.reader.follow("how-to/migrate-from-django-multitenant.md")
    assert found(served, FOREIGN_KEYS) == keys, "all rows were checked under a lock"
    for table in ("crm_product", "crm_purchase"):
        assert served.value(f"SELECT count(*) FROM {table}") == ROWS / 2
        assert [served.seen(table, tenant) for tenant in ("", 1, 2)] == [0, ROWS / 4, ROWS / 4]
        assert served.seen(table, admin=True) == ROWS / 2
    with served.app.transaction():
        served.app.execute("SET LOCAL rls.current_tenant = '2'")
        row = served.app.execute(
            "INSERT INTO crm_purchase (product_id) VALUES (1) RETURNING store_id"
        ).fetchone()
    assert row == (2,)


# From django-tenants.

TENANTS_MODELS = """\
from django.db import models


class Company(models.Model):
    name = models.TextField(unique=True)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE)
    tags = models.ManyToManyField("Tag")


class Tag(models.Model):
    name = models.TextField()
"""
CUSTOMERS = """\
from django_tenants.models import DomainMixin, TenantMixin


class Client(TenantMixin):
    pass


class Domain(DomainMixin):
    pass
"""
TENANTS_SETTINGS = """
DATABASE_ROUTERS = ["django_tenants.routers.TenantSyncRouter"]
TENANT_MODEL = "customers.Client"
TENANT_DOMAIN_MODEL = "customers.Domain"
TENANT_APPS = ["crm"]
SHARED_APPS = [name for name in INSTALLED_APPS if name != "crm"]
"""
MAKE_SCHEMAS = """\
import django
django.setup()
from customers.models import Client
for name in ("acme", "globex"):
    Client(schema_name=name).save(verbosity=0)
"""
COMPANIES, TAGS = ROWS // 5, ROWS // 10
TENANTS_ROWS = f"""\
INSERT INTO {{0}}.crm_company (name, parent_id)
  SELECT 'company ' || n, nullif(n / 2, 0) FROM generate_series(1, {COMPANIES}) n;
INSERT INTO {{0}}.crm_tag (name) SELECT '{{0}} ' || n FROM generate_series(1, {TAGS}) n;
INSERT INTO {{0}}.crm_company_tags (company_id, tag_id)
  SELECT n, 1 + n % {TAGS} FROM generate_series(1, {COMPANIES}) n;
"""
LINKED = """\
SELECT c.name, p.name, t.name FROM {0}.crm_company c
LEFT JOIN {0}.crm_company p ON p.id = c.parent_id
JOIN {0}.crm_company_tags l ON l.company_id = c.id JOIN {0}.crm_tag t ON t.id = l.tag_id"""


# A model that refers to users, whom each schema has, too, and whose keys may be those of others.
VISITS = """

class Visit(RLSProtectedModel):
    user = models.ForeignKey("notes.User", null=True, on_delete=models.CASCADE)
    place = models.TextField()
    there = models.GeneratedField(
        expression=models.F("place"), output_field=models.TextField(), db_persist=True
    )
"""
OWN_USERS = f"""\
CREATE TABLE acme.notes_user (id int, username text);
INSERT INTO acme.notes_user VALUES (1, 'grace'), (2, 'ada');
CREATE TABLE acme.crm_visit (
  id int, user_id int, place text, there text GENERATED ALWAYS AS (place) STORED);
INSERT INTO acme.crm_visit (id, user_id, place) VALUES (1, 1, 'here'), (2, 2, 'there');
ALTER TABLE acme.notes_user OWNER TO {OWNER};
ALTER TABLE acme.crm_visit OWNER TO {OWNER};
INSERT INTO notes_tenant (name) VALUES ('Initech');
"""
VISITED = """\
SELECT place, there, username::text
FROM public.crm_visit JOIN public.notes_user u ON u.id = user_id ORDER BY place"""
KEYS = """KEYS = {"notes.User": "(SELECT p.id FROM public.notes_user p JOIN {schema}.notes_user u \
USING (username) WHERE u.id = {column})"}"""


def refused(served: Site, command: str) -> str:
    """Return what `copy_schema` says when it ends with an error."""
    command = f"NOTEBOOK_DB_USER={OWNER} python manage.py copy_schema {command}"
    with served.started(command) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1, output
    return output


def test_schemas_of_django_tenants_become_one(served: Site) -> None:
    apps = '"django_tenants", "customers", "crm"'
    settings = BEFORE.format(engine="django_tenants.postgresql_backend", apps=apps)
    write_app(served, "customers", CUSTOMERS)
    shared = ("makemigrations customers", "migrate_schemas --shared")
    build(served, TENANTS_MODELS, settings + TENANTS_SETTINGS, *shared)
    served.reader.write(Block("python", "make_schemas.py", MAKE_SCHEMAS))
    served.reader.run_commands(f"$ {AS_BEFORE} python make_schemas.py\n")
    for schema in ("acme", "globex"):
        fill(served, TENANTS_ROWS.format(schema))
    served.reader.follow("how-to/migrate-from-django-tenants.md")
    counts = {"crm_company": COMPANIES, "crm_tag": TAGS, "crm_company_tags": COMPANIES}
    for table, count in counts.items():
        assert [served.seen(table, tenant) for tenant in ("", 1, 2)] == [0, count, count]
        assert served.seen(table, admin=True) == 2 * count
    # What belonged together still does, and nothing else.
    for tenant, schema in ((1, "acme"), (2, "globex")):
        old, new = LINKED.format(schema), LINKED.format("public")
        new += f" WHERE {tenant} = ALL (ARRAY[c.tenant_id, t.tenant_id, p.tenant_id]) IS NOT FALSE"
        assert served.value(f"SELECT count(*) FROM ({new}) copied") == COMPANIES
        assert served.value(f"SELECT count(*) FROM ({old} EXCEPT {new}) lost") == 0
    # New keys begin after the copied ones, and a tenant is not copied twice.
    with served.app.transaction():
        served.app.execute("SET LOCAL rls.current_tenant = '2'")
        row = served.app.execute(
            "INSERT INTO crm_tag (name) VALUES ('new') RETURNING id"
        ).fetchone()
    assert row == (COMPANIES + TAGS + 1,)
    assert "crm.Company has rows of Acme already" in refused(served, "acme 1")
    assert served.seen("crm_company", 1) == COMPANIES
    # Nor are all tenants copied to one.
    assert "public is where the rows are copied to" in refused(served, "public 1")
    # Rows that refer to users of their own schema are not given to others.
    reader = served.reader
    reader.write(Block("python", "crm/models.py, at the end", VISITS))
    reader.run_commands(f"$ python manage.py makemigrations crm\n{MIGRATE}")
    served.superuser.execute(OWN_USERS.encode())
    found_out = "crm.Visit.user refers to notes.User of acme: name it in KEYS"
    assert found_out in refused(served, "acme 3")
    command = reader.folder / "crm/management/commands/copy_schema.py"
    command.write_text(re.sub("^KEYS = .*", lambda _: KEYS, command.read_text(), flags=re.M))
    reader.run_commands(f"$ NOTEBOOK_DB_USER={OWNER} python manage.py copy_schema acme 3\n")
    assert found(served, VISITED) == [("here", "here", "grace"), ("there", "there", "ada")]
