"""Projects with data adopt tenantry as the how-to guides say, while requests are served."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import psycopg
import pytest

from example_asgi.servers import Postgres
from tests.fix_docs import APP, DATABASE, OWNER, SESSION, Block, Reader
from tests.fix_faults import wait_for

pytestmark = [pytest.mark.guc_shape, pytest.mark.slow]

Run = Callable[[], str]
ROWS = 100_000
WAITING = (
    "SELECT max(pid) FROM pg_stat_activity WHERE datname = current_database()"
    " AND usename = %s AND wait_event_type = 'Lock'"
)
# Those that a batch must not have.
TOO_MUCH = {
    "ShareUpdateExclusiveLock",
    "ShareLock",
    "ShareRowExclusiveLock",
    "ExclusiveLock",
    "AccessExclusiveLock",
}


@dataclass(frozen=True)
class Site:
    """Be a site that serves requests while its reader follows a page."""

    reader: Reader
    app: psycopg.Connection[Any]
    superuser: psycopg.Connection[Any]

    def value(self, sql: str, *parameters: object) -> Any:
        row = self.superuser.execute(sql.encode(), parameters).fetchone()
        assert row
        return row[0]

    def seen(self, table: str, tenant: object = "", *, admin: bool = False) -> int:
        """Return how many rows of a table the app role sees in a binding."""
        with self.app.transaction():
            self.app.execute("SELECT set_config('rls.current_tenant', %s, true)", [str(tenant)])
            self.app.execute("SELECT set_config('rls.is_admin', %s, true)", [str(admin).lower()])
            row = self.app.execute(f"SELECT count(*) FROM {table}".encode()).fetchone()
        assert row
        return int(row[0])

    def serve(self) -> None:
        """Read and write orders as requests do; a lock that keeps them waiting is an error."""
        with self.app.transaction(force_rollback=True):
            self.app.execute("SET LOCAL rls.current_tenant = '1'")
            assert self.app.execute("SELECT FROM shop_order WHERE id = 7").rowcount == 1
            self.app.execute("UPDATE shop_order SET placed = placed WHERE id = 7")
            self.app.execute(
                "INSERT INTO shop_order (author_id, placed) SELECT id, now()"
                " FROM notes_user WHERE username = 'ada'"
            )

    @contextmanager
    def started(self, command: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
        """Run a command beside the block; kill it if the block fails."""
        process = subprocess.Popen(
            ["sh", "-c", command],
            cwd=self.reader.folder,
            env=self.reader.environment | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        with process:
            try:
                yield process
            except BaseException:
                kill(process)
                raise

    def waiting(self, *, but: object = None) -> Any:
        """Return the server session of the owner that waits for a lock, when there is one."""
        wait_for(lambda: self.value(WAITING, OWNER) not in (None, but), 30)
        return self.value(WAITING, OWNER)

    # Around the commands of the page.

    def tried_again(self, run: Run) -> str:
        """Let a request keep the table longer than the command waits for it."""
        with self.started("sh migrate.sh shop 0002", LOCK_TIMEOUT="200ms") as process:
            with self.app.transaction():
                self.app.execute("SELECT FROM shop_order LIMIT 1")
                first = self.waiting()
                self.waiting(but=first)
            output, _ = process.communicate(timeout=60)
        assert "canceling statement due to lock timeout" in output
        assert process.returncode == 0, output
        return output

    def interrupted(self, run: Run) -> str:
        """Kill the command in the middle of its work, then run it again."""
        with self.app.transaction():
            self.app.execute("SELECT FROM shop_order WHERE id = %s FOR UPDATE", [ROWS // 2])
            with self.started("sh migrate.sh shop 0003", LOCK_TIMEOUT="0") as process:
                pid = self.waiting()
                locks = self.superuser.execute(
                    "SELECT mode FROM pg_locks WHERE pid = %s AND locktype = 'relation'"
                    " AND relation::regclass::text LIKE ANY ('{shop%%,notes%%}')",
                    [pid],
                )
                modes = {mode for (mode,) in locks}
                assert "RowExclusiveLock" in modes
                assert not modes & TOO_MUCH
                self.serve_beside()
                kill(process)
            self.superuser.execute("SELECT pg_terminate_backend(%s)", [pid])
            wait_for(lambda: self.value(WAITING, OWNER) is None)
        stamped = self.value("SELECT count(tenant_id) FROM shop_order WHERE id <= %s", ROWS)
        assert 0 < stamped < ROWS // 2
        first = self.value("SELECT xmin::text FROM shop_order WHERE id = 1")
        output = run()
        assert self.value("SELECT count(*) FROM shop_order WHERE tenant_id IS NULL") == 0
        assert self.value("SELECT xmin::text FROM shop_order WHERE id = 1") == first
        return output

    def serve_beside(self) -> None:
        """Serve from another session than the one that is in a transaction."""
        with psycopg.connect(self.app.info.dsn, autocommit=True) as other:
            other.execute("SET lock_timeout = '1s'")
            replace(self, app=other).serve()

    def beside_a_request(self, run: Run) -> str:
        """Let a request have what it wrote while the command runs."""
        with self.app.transaction():
            self.app.execute("UPDATE shop_order SET placed = placed WHERE id = 7")
            return run()

    def without_a_scan(self, run: Run) -> str:
        """See that PostgreSQL needs not look at the rows."""
        notices: list[str] = []

        def note(notice: psycopg.errors.Diagnostic) -> None:
            notices.append(notice.message_primary or "")

        self.superuser.add_notice_handler(note)
        with self.superuser.transaction(force_rollback=True):
            self.superuser.execute("SET LOCAL client_min_messages = debug1")
            self.superuser.execute("ALTER TABLE shop_order ALTER tenant_id SET NOT NULL")
        self.superuser.remove_notice_handler(note)
        assert any("sufficient to prove that it does not contain nulls" in each for each in notices)
        return run()

    def patient(self, run: Run) -> str:
        """Let the command wait for a transaction, and others be served while it does."""
        with self.started("LOCK_TIMEOUT=0 sh migrate.sh shop 0007") as process:
            with self.app.transaction():
                self.app.execute("UPDATE shop_order SET placed = placed WHERE id = 8")
                self.waiting()
                self.serve_beside()
            output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return output


def kill(process: subprocess.Popen[str]) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def site(reader: Reader, postgres: Postgres) -> Iterator[Site]:
    with (
        psycopg.connect(postgres.dsn(APP, DATABASE), autocommit=True) as app,
        psycopg.connect(postgres.dsn("postgres", DATABASE), autocommit=True) as superuser,
    ):
        app.execute("SET lock_timeout = '1s'")
        yield Site(reader, app, superuser)


def filenode(site: Site) -> Any:
    return site.value("SELECT pg_relation_filenode('shop_order')")


def test_a_project_with_data_adopts_while_it_serves(site: Site) -> None:
    files: list[Any] = []

    def first(run: Run) -> str:
        files.append(filenode(site))
        return site.tried_again(run)

    around = {
        "shop 0002": first,
        "shop 0003": site.interrupted,
        "shop 0005": site.beside_a_request,
        "shop 0006": site.without_a_scan,
        "LOCK_TIMEOUT=0": site.patient,
    }
    reader = replace(site.reader, around=around)
    reader.follow("how-to/adopt-with-data.md")
    assert files == [filenode(site)], "the table was rewritten"
    wrong = (
        "SELECT count(*) FROM shop_order JOIN notes_user u ON u.id = author_id"
        " WHERE shop_order.tenant_id IS DISTINCT FROM u.tenant_id"
    )
    assert site.value(wrong) == 0
    assert site.value("SELECT count(*) FROM shop_order") == ROWS + 1
    assert site.seen("shop_order") == 0
    assert site.seen("shop_order", 1) == ROWS / 2 + 1
    assert site.seen("shop_order", 2) == ROWS / 2
    assert site.seen("shop_order", admin=True) == ROWS + 1
    constraints = site.superuser.execute(
        "SELECT conname, convalidated FROM pg_constraint WHERE contype IN ('c', 'f')"
        " AND conrelid = 'shop_order'::regclass AND conname NOT LIKE '%author%'"
    )
    assert constraints.fetchall() == [("order_tenant", True)]
    assert site.value(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'order_tenant_placed'::regclass"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege), site.app.transaction():
        site.app.execute("SET LOCAL rls.current_tenant = '2'")
        site.app.execute(
            "INSERT INTO shop_order (tenant_id, author_id, placed)"
            " SELECT 1, id, now() FROM notes_user WHERE username = 'grace'"
        )

    reader = site.reader
    reader.run_commands("$ python manage.py makemigrations --check\n")
    reader.run_commands("$ sh migrate.sh shop 0001\n")
    assert not site.value(
        "SELECT count(*) FROM pg_attribute"
        " WHERE attrelid = 'shop_order'::regclass AND attname = 'tenant_id'"
    )
    assert site.seen("shop_order") == ROWS + 1
    reader.run_commands("$ sh migrate.sh shop\n")
    assert site.value(wrong) == 0
    assert site.seen("shop_order") == 0
    assert site.seen("shop_order", 2) == ROWS / 2


# From other packages. What they leave in a database is made by hand.

RLS_TENANTS_MODELS = """\
from django.db import models


class Contact(models.Model):
    tenant = models.ForeignKey("notes.Tenant", on_delete=models.CASCADE)
    name = models.TextField()
"""
RLS_TENANTS_ROWS = """\
INSERT INTO crm_contact (tenant_id, name) VALUES (1, 'a'), (1, 'b'), (2, 'c')
"""
RLS_TENANTS_POLICY = """\
ALTER TABLE crm_contact ENABLE ROW LEVEL SECURITY;
ALTER TABLE crm_contact FORCE ROW LEVEL SECURITY;
CREATE POLICY crm_contact_tenant_isolation_policy ON crm_contact
  USING (CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true
    ELSE tenant_id = nullif((SELECT current_setting('rls.current_tenant', true)), '')::int END)
  WITH CHECK (CASE WHEN (SELECT current_setting('rls.is_admin', true)) = 'true' THEN true
    ELSE tenant_id = nullif((SELECT current_setting('rls.current_tenant', true)), '')::int END)
"""
OLD_POLICY_NEW_BINDING = """\
>>> from crm.models import Contact
>>> from tenantry import tenant_context
>>> Contact.objects.count()
0
>>> with tenant_context(1):
...     Contact.objects.count()
2
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


def policies_of_contacts(site: Site) -> list[str]:
    """Return them, once it is sure that tenants see their own rows only."""
    assert [site.seen("crm_contact", tenant) for tenant in ("", 1, 2)] == [0, 2, 1]
    assert site.seen("crm_contact", admin=True) == 3
    return names_of_policies(site)


def names_of_policies(site: Site) -> list[str]:
    found = site.superuser.execute(
        "SELECT polname FROM pg_policy WHERE polrelid = 'crm_contact'::regclass"
    )
    return [name for (name,) in found]


def test_a_table_of_django_rls_tenants_stays_protected(site: Site) -> None:
    old, new = ["crm_contact_tenant_isolation_policy"], ["tenantry_isolation"]
    start_crm(site.reader, RLS_TENANTS_MODELS)
    site.superuser.execute(RLS_TENANTS_ROWS.encode())
    site.superuser.execute(RLS_TENANTS_POLICY.encode())

    def hand_over(run: Run) -> str:
        """Hold the migration when all of its statements are done and nothing is committed."""
        site.reader.run([sys.executable, "-W", "error", "-c", SESSION], OLD_POLICY_NEW_BINDING)
        assert policies_of_contacts(site) == old
        with psycopg.connect(site.superuser.info.dsn) as other:
            other.execute("LOCK django_migrations IN SHARE MODE")
            with site.started(MIGRATE.removeprefix("$ ")) as process:
                site.waiting()
                with pytest.raises(psycopg.errors.LockNotAvailable):
                    site.seen("crm_contact", 1)
                assert names_of_policies(site) == old
                other.rollback()
                output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        assert policies_of_contacts(site) == new
        return run()

    reader = replace(site.reader, around={"migrate crm": hand_over})
    reader.follow("how-to/migrate-from-django-rls-tenants.md")
    site.reader.run_commands(f"$ NOTEBOOK_DB_USER={OWNER} python manage.py migrate crm 0001\n")
    assert policies_of_contacts(site) == old
    site.reader.run_commands(MIGRATE)
    assert policies_of_contacts(site) == new


def test_a_project_of_django_multitenant_is_protected(site: Site) -> None:
    start_crm(site.reader, MULTITENANT_MODELS)
    site.superuser.execute(MULTITENANT_ROWS.encode())
    site.reader.follow("how-to/migrate-from-django-multitenant.md")
    for table in ("crm_product", "crm_purchase"):
        assert [site.seen(table, tenant) for tenant in ("", 1, 2)] == [0, 1, 1]


def test_schemas_of_django_tenants_become_one(site: Site) -> None:
    for schema in ("acme", "globex"):
        site.superuser.execute(SCHEMA.format(schema).encode())
    start_crm(site.reader)
    site.reader.follow("how-to/migrate-from-django-tenants.md")
    for table in ("crm_company", "crm_tag", "crm_company_tags"):
        assert [site.seen(table, tenant) for tenant in ("", 1, 2)] == [0, 2, 2]
    found = site.superuser.execute(
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
    with site.app.transaction():
        site.app.execute("SET LOCAL rls.current_tenant = '2'")
        row = site.app.execute("INSERT INTO crm_tag (name) VALUES ('new') RETURNING id").fetchone()
    assert row == (5,)
    command = f"NOTEBOOK_DB_USER={OWNER} python manage.py copy_schema acme 1"
    with site.started(command) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "crm.Company has rows of Acme already" in output
    assert site.seen("crm_company", 1) == 2
