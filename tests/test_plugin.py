"""Tests of a project: who they run as, and what the plugin for pytest says and shows."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.db import connections, transaction

from example_asgi.servers import Postgres
from tenantry import aclose_pools, aconnection, admin_context, tenant_context
from tenantry.backends.postgresql.trace import flushes
from tenantry.exceptions import RLSConfigurationError
from tenantry.testing import as_owner, assert_role_is_bound, assert_sql
from tests.app.models import Note, Tenant
from tests.fix_docs import OWNER, SOURCE, Reader

Tenants = tuple[Tenant, Tenant]


@pytest.fixture
def tested(reader: Reader, superuser: psycopg.Connection[Any]) -> Any:
    """Return a reader whose owner may create databases."""
    superuser.execute(f"ALTER ROLE {OWNER} CREATEDB")
    yield reader
    superuser.execute(f"ALTER ROLE {OWNER} NOCREATEDB")
    for (name,) in superuser.execute(
        "SELECT datname::text FROM pg_database WHERE datname LIKE 'test\\_notebook%'"
    ).fetchall():
        superuser.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


def test_the_guide_does_what_it_says(tested: Reader) -> None:
    done = tested.follow("how-to/test-your-project.md")
    assert done.count("console") == 5


def configure(reader: Reader, more: str = "") -> None:
    """Name the owner of a project's test database."""
    settings = reader.folder / "notebook" / "settings.py"
    owner = f'\nDATABASES["default"]["TEST"] = {{"OWNER": {{"USER": "{OWNER}"}}}}\n'
    settings.write_text(settings.read_text() + owner + more)


def run_pytest(reader: Reader, test: str, ini: str = "", **environment: str) -> str:
    """Run tests of a project; return what pytest says."""
    (reader.folder / "test_it.py").write_text(
        "import pytest\nfrom notes.models import Note, Tenant\n\n\n" + test
    )
    (reader.folder / "pytest.ini").write_text(
        f"[pytest]\nDJANGO_SETTINGS_MODULE = notebook.settings\n{ini}"
    )
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "test_it.py"],
        cwd=reader.folder,
        env=replace(reader, environment=reader.environment | environment).environment,
        capture_output=True,
        text=True,
        check=False,
    ).stdout


USES_DATABASE = "@pytest.mark.django_db\ndef test_it():\n    assert Tenant.objects.count() == 0\n"


def test_a_superuser_is_refused_and_told(tested: Reader) -> None:
    output = run_pytest(tested, USES_DATABASE, NOTEBOOK_DB_USER="postgres")
    assert "1 error" in output
    assert "prove nothing: the role postgres is a superuser, whom no policy binds" in output
    assert "DATABASES['default']['TEST']['OWNER']" in output


MIRROR = """\
DATABASES["mirror"] = DATABASES["default"] | {
    "OPTIONS": {"pool": {"min_size": 1}, "pool_mode": "transaction"},
    "TEST": {"MIRROR": "default"},
}
"""


def test_the_pool_of_a_mirror_does_not_keep_the_test_database(tested: Reader) -> None:
    configure(tested, MIRROR)
    # Without a warning.
    assert "1 passed in" in run_pytest(tested, USES_DATABASE)


def test_every_test_of_a_superuser_is_refused(tested: Reader) -> None:
    again = USES_DATABASE.replace("test_it", "test_again")
    case = """

from django.test import TestCase

class Case(TestCase):
    def test_it(self):
        assert Tenant.objects.count() == 0
"""
    output = run_pytest(tested, USES_DATABASE + "\n" + again + case, NOTEBOOK_DB_USER="postgres")
    assert "3 errors" in output
    assert "passed" not in output
    assert output.count("prove nothing: the role postgres is a superuser") >= 3


def test_a_superuser_of_an_engine_that_inherits_from_ours_is_refused(tested: Reader) -> None:
    heir = tested.folder / "heir"
    heir.mkdir()
    (heir / "base.py").write_text("from tenantry.backends.postgresql.base import DatabaseWrapper\n")
    configure(tested, 'DATABASES["default"]["ENGINE"] = "heir"\n')
    assert "1 passed" in run_pytest(tested, USES_DATABASE)
    output = run_pytest(tested, USES_DATABASE, NOTEBOOK_DB_USER="postgres")
    assert "prove nothing: the role postgres is a superuser" in output


def test_a_database_that_is_there_already_is_asked_too(tested: Reader) -> None:
    conftest = """\
import pytest


@pytest.fixture(scope="session")
def django_db_setup():
    pass
"""
    (tested.folder / "conftest.py").write_text(conftest)
    test = USES_DATABASE.replace("== 0", "== 2")
    assert "1 passed" in run_pytest(tested, test)
    output = run_pytest(tested, test, NOTEBOOK_DB_USER="postgres")
    assert "1 error" in output
    assert "the role postgres is a superuser" in output


def test_a_database_that_tests_do_not_use_is_left_alone(tested: Reader) -> None:
    configure(
        tested, 'DATABASES["other"] = {**DATABASES["default"], "USER": "postgres", "PORT": "1"}\n'
    )
    assert "1 passed" in run_pytest(tested, USES_DATABASE)


def test_a_database_can_be_kept(tested: Reader, superuser: psycopg.Connection[Any]) -> None:
    configure(tested)
    for options in ("--reuse-db", "--reuse-db", "--reuse-db --create-db"):
        assert "1 passed" in run_pytest(tested, USES_DATABASE, f"addopts = {options}\n")
    names = superuser.execute("SELECT 1 FROM pg_database WHERE datname = 'test_notebook'")
    assert names.fetchone()


POOL = """
DATABASES["default"]["OPTIONS"] = {
    "pool": {"min_size": 1, "max_size": 2},
    "pool_mode": "transaction",
}
"""


def test_a_pool_for_transactions_is_tested_as_a_connection_is(tested: Reader) -> None:
    configure(tested, POOL)
    for tests, passed in ((CASES + MIGRATIONS, "11 passed"), (CASES, "8 passed")):
        assert passed in run_pytest(tested, tests, "addopts = --reuse-db\n")


def run_in(folder: Path, *arguments: str) -> str:
    """Run pytest where there is no project; return what it says."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={name: os.environ[name] for name in os.environ if not name.startswith("DJANGO_")}
        | {"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    ).stdout


@pytest.mark.parametrize("options", [[], ["-p", "no:django"]])
def test_where_django_is_not_configured_nothing_changes(tmp_path: Path, options: list[str]) -> None:
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --strict-config\n")
    (tmp_path / "test_it.py").write_text(
        "import pytest\n\n\n@pytest.fixture\ndef tenants():\n    return 7\n\n\n"
        "def test_it(tenants):\n    assert tenants == 7\n"
    )
    output = run_in(tmp_path, "-m", "pytest", "-q", *options)
    assert "1 passed" in output


def test_the_plugin_is_loaded_without_django(tmp_path: Path) -> None:
    program = (
        "import sys, tenantry.pytest_plugin\n"
        "print([name for name in sys.modules if name.startswith(('django', 'psycopg'))])"
    )
    assert run_in(tmp_path, "-c", program) == "[]\n"


def test_the_plugin_is_one_of_pytests() -> None:
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"tenantry": "tenantry.pytest_plugin"}


def test_a_superuser_is_let_through_where_the_ini_file_says_so(tested: Reader) -> None:
    ini = "tenantry_allow_exempt_role = true\n"
    assert "1 passed" in run_pytest(tested, USES_DATABASE, ini, NOTEBOOK_DB_USER="postgres")


def test_tests_without_a_database_are_not_asked(tested: Reader) -> None:
    test = "def test_it():\n    assert Note._meta.label == 'notes.Note'\n"
    assert "1 passed" in run_pytest(tested, test, NOTEBOOK_DB_USER="postgres")


def test_the_app_role_is_not_the_owner(tested: Reader) -> None:
    configure(tested)
    test = """\
from django.db import ProgrammingError, connection

@pytest.mark.django_db
@pytest.mark.parametrize("sql", ["TRUNCATE notes_note", "DROP TABLE notes_note"])
def test_it(sql):
    with connection.cursor() as cursor, pytest.raises(ProgrammingError):
        cursor.execute(sql)
"""
    assert "2 passed" in run_pytest(tested, test)


BILLING = """

class Invoice(RLSProtectedModel):
    class Meta:
        db_table = '"billing"."an invoice"'
"""
BILLING_SCHEMA = """\
from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("notes", "0001_initial")]
    operations = [migrations.RunSQL("CREATE SCHEMA billing", "DROP SCHEMA billing")]
"""
INVOICES = """\
from notes.models import Invoice


@pytest.mark.django_db
def test_it(as_tenant):
    assert Invoice.objects.create().tenant_id == as_tenant.pk
    assert Invoice.objects.update(tenant=as_tenant) == 1
    assert Invoice.objects.get().delete()
"""


def test_tables_in_a_schema_of_their_own_can_be_used(tested: Reader) -> None:
    notes = tested.folder / "notes"
    (notes / "models.py").write_text((notes / "models.py").read_text() + BILLING)
    (notes / "migrations" / "0002_billing.py").write_text(BILLING_SCHEMA)
    tested.run_commands("$ python manage.py makemigrations notes\n")
    configure(tested)
    assert "1 passed" in run_pytest(tested, INVOICES)


LEDGER = """

class Ledger(models.Model):
    class Meta:
        managed = False
        db_table = '"theirs"."ledger"'
"""
LEDGERS = """\
from django.db import ProgrammingError
from notes.models import Ledger


@pytest.mark.django_db
def test_it(as_tenant):
    Note.objects.create(title="ours")
    with pytest.raises(ProgrammingError, match="permission denied for schema theirs"):
        Ledger.objects.count()
"""


def test_schemas_of_others_are_left_alone(
    tested: Reader, superuser: psycopg.Connection[Any], postgres: Postgres
) -> None:
    models = tested.folder / "notes" / "models.py"
    models.write_text(models.read_text() + LEDGER)
    configure(tested, 'DATABASES["default"]["TEST"]["TEMPLATE"] = "of_others"\n')
    superuser.execute("CREATE DATABASE of_others IS_TEMPLATE true")
    try:
        with psycopg.connect(postgres.dsn(dbname="of_others")) as connection:
            connection.execute("CREATE SCHEMA theirs; CREATE TABLE theirs.ledger (id bigint)")
        assert "1 passed" in run_pytest(tested, LEDGERS)
    finally:
        superuser.execute("ALTER DATABASE of_others IS_TEMPLATE false")
        superuser.execute("DROP DATABASE of_others WITH (FORCE)")


CASE = """\
from django.test import TestCase


class Case(TestCase):
    def test_it(self):
        pass
"""

MIGRATIONS = """\
from django.core.management import call_command
from django.db import ProgrammingError, connection
from django.db.transaction import TransactionManagementError
from tenantry.testing import as_owner, assert_rls_enabled, rls_as_tenant


def role():
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        return cursor.fetchone()[0]


def use_the_tables():
    assert role() == "notebook_app"
    assert_rls_enabled(Note)
    with rls_as_tenant(Tenant.objects.create(name="one")):
        assert Note.objects.create(title="ours").tenant_id


def migrate_away_and_back():
    call_command("migrate", "notes", "zero", verbosity=0)
    call_command("migrate", verbosity=0)


@pytest.mark.django_db(transaction=True)
def test_the_tables_are_made_again():
    with pytest.raises(ProgrammingError, match="must be owner"):
        migrate_away_and_back()
    with as_owner():
        assert role() == "notebook_owner"
        migrate_away_and_back()
    use_the_tables()


@pytest.mark.django_db(transaction=True)
def test_the_tables_can_be_used_though_the_block_has_failed():
    with pytest.raises(ZeroDivisionError), as_owner():
        migrate_away_and_back()
        1 / 0
    use_the_tables()


@pytest.mark.django_db
def test_a_transaction_is_not_ended():
    with pytest.raises(TransactionManagementError, match="use a TransactionTestCase"), as_owner():
        pass
    assert role() == "notebook_app"
"""


def test_migrations_are_tested_as_the_owner(tested: Reader) -> None:
    configure(tested)
    assert "3 passed" in run_pytest(tested, MIGRATIONS)


IN_A_SCOPE = """\
from django.db import connection
from tenantry.testing import as_owner


@pytest.mark.django_db(transaction=True)
def test_it(as_tenant):
    with as_owner(), connection.cursor() as cursor:
        cursor.execute("CREATE TABLE made (id integer)")
    with connection.cursor() as cursor:
        cursor.execute("SELECT FROM made")
"""
SEALED = """\
RLS_TENANTS |= {"SEALED": True, "SEAL_KEYS": ["a secret that is long enough for a test"]}
"""


def test_the_owner_grants_as_nobody_in_whatever_scope(tested: Reader) -> None:
    configure(tested, SEALED)
    output = run_pytest(tested, IN_A_SCOPE, "addopts = --no-migrations\n")
    assert "1 passed" in output, output


def test_without_an_owner_the_tests_are_it(tested: Reader) -> None:
    test = """\
from tenantry.testing import as_owner

@pytest.mark.django_db(transaction=True)
def test_it():
    with as_owner():
        assert Tenant.objects.count() == 0
"""
    assert "1 passed" in run_pytest(tested, test, NOTEBOOK_DB_USER=OWNER)


def test_who_may_not_create_a_test_database_is_told_of_the_owner(tested: Reader) -> None:
    command = [sys.executable, "manage.py", "test", "--noinput"]
    (tested.folder / "notes" / "tests.py").write_text(CASE)

    def told() -> str:
        done = subprocess.run(
            command,
            cwd=tested.folder,
            env=tested.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert "permission denied to create database" in done.stderr
        return done.stderr

    assert "by its login, in DATABASES['default']['TEST']['OWNER']: {'USER'" in told()
    configure(tested, 'DATABASES["default"]["TEST"]["OWNER"]["USER"] = "notebook_app"\n')
    assert "run ALTER ROLE notebook_app CREATEDB, or name another role in" in told()


def test_only_a_test_database_has_an_owner_that_tests_may_be(tenants: Tenants) -> None:
    with pytest.raises(RLSConfigurationError, match="nothing says that 'tenantry' is one"):
        as_owner().__enter__()


SEQUENCES = """\
from django.contrib.sites.models import Site
from django.core.management import call_command
from django.test import TransactionTestCase


class SharedRowTests(TransactionTestCase):
    reset_sequences = True

    def test_a(self):
        assert Tenant.objects.create(name="first").pk == 1
        call_command("dumpdata", "sites", output="sites.json")

    test_b = test_a


class FixtureTests(TransactionTestCase):
    fixtures = ["sites.json"]

    def test_it(self):
        known = Site.objects.get()
        assert Site.objects.create(domain="example.org", name="another").pk == known.pk + 1
"""


def test_sequences_can_be_set_in_a_test_database(tested: Reader) -> None:
    configure(
        tested,
        'INSTALLED_APPS += ["django.contrib.sites"]\nSITE_ID = 1\nFIXTURE_DIRS = [BASE_DIR]\n',
    )
    assert "3 passed" in run_pytest(tested, SEQUENCES)


MIGRATION = """\
from django.db import migrations
from tenantry import tenant_context


def welcome(apps, schema_editor):
    tenant = apps.get_model("notes", "Tenant").objects.create(name="First")
    with tenant_context(tenant.pk):
        apps.get_model("notes", "Note").objects.create(title="Welcome")


class Migration(migrations.Migration):
    dependencies = [("notes", "%s")]
    operations = [migrations.RunPython(welcome)]
"""
SERIALIZED = """\
from django.test import TransactionTestCase
from tenantry.testing import rls_as_tenant


class MigratedRowTests(TransactionTestCase):
    serialized_rollback = True

    def test_a(self):
        with rls_as_tenant(Tenant.objects.get()):
            assert Note.objects.get().title == "Welcome"

    test_b = test_a
"""


@pytest.mark.parametrize("more", ["", 'RLS_TENANTS["STRICT_MODE"] = True\n'])
def test_rows_that_migrations_made_can_be_brought_back(more: str, tested: Reader) -> None:
    configure(tested, more)
    folder = tested.folder / "notes" / "migrations"
    last = max(path.stem for path in folder.glob("0*.py"))
    (folder / "0100_welcome.py").write_text(MIGRATION % last)
    assert "2 passed" in run_pytest(tested, SERIALIZED)


def test_an_owner_that_is_no_login_is_refused(settings: Any) -> None:
    connection = connections["default"]
    for owner in ("notebook_owner", {"PASSWORD": "x"}, {"USER": "x", "HOST": "y"}):
        connection.settings_dict["TEST"]["OWNER"] = owner
        try:
            creation: Any = connection.creation
            with pytest.raises(RLSConfigurationError, match="a dict of 'USER' and 'PASSWORD'"):
                creation.owner()
        finally:
            del connection.settings_dict["TEST"]["OWNER"]


CASES = """\
from django.test import SimpleTestCase
from notes.models import User
from tenantry.binding import UNBOUND, current_binding
from tenantry.testing import TenantTestCase, TenantTransactionTestCase


class FirstTests(TenantTestCase):
    @classmethod
    def setUpTestData(cls):
        super().setUpTestData()
        cls.note = Note.objects.create(title="ours")

    def test_a(self):
        Note.objects.create(title="another")
        assert Note.objects.count() == 2
        assert self.note.tenant_id == self.tenant.pk == current_binding().tenant_id

    def test_b(self):
        assert [note.pk for note in Note.objects.all()] == [self.note.pk]

    def test_requests_are_their_users(self):
        other = self.create_tenant("two")
        self.client.force_login(User.objects.create_user("grace", tenant=other))
        assert self.client.get("/").json() == {"notes": []}


class SecondTests(SimpleTestCase):
    def test_it(self):
        assert current_binding() == UNBOUND


class ThirdTests(TenantTransactionTestCase):
    def test_a(self):
        assert Note.objects.create(title="ours").tenant_id == self.tenant.pk

    test_b = test_a

    async def test_c(self):
        assert await Note.objects.acount() == 0


class FourthTests(SecondTests):
    pass
"""


def test_test_cases_are_tenants_and_leave_nothing_behind(tested: Reader) -> None:
    configure(tested)
    assert "8 passed" in run_pytest(tested, CASES)


def test_a_tenant_that_needs_more_is_said(tested: Reader) -> None:
    models = tested.folder / "notes" / "models.py"
    text = models.read_text()
    field = "    name = models.TextField(unique=True)\n"
    assert field in text
    models.write_text(text.replace(field, field + "    seats = models.IntegerField()\n"))
    configure(tested)
    output = run_pytest(tested, "def test_it(tenants):\n    pass\n", "addopts = --no-migrations\n")
    assert "notes.Tenant needs a value for 'seats'" in output
    assert "override the fixture tenant_factory, which returns a function that" in output


# What was sent.


@pytest.mark.unsealed
def test_every_statement_of_a_block_is_seen(tenants: Tenants) -> None:
    connections["default"].close()
    with tenant_context(tenants[0].pk):
        with assert_sql("app_note", "LIMIT 21", count=2, bound_to=tenants[0]) as wire:
            list(Note.objects.all())
            repr(Note.objects.all())
        with assert_sql(count=2) as forged, transaction.atomic():
            Note.objects.filter(title="A 1").update(title='it\'s "odd"\nF\t9\tQuery\t "')
        with assert_sql("odd") as again:
            list(Note.objects.filter(title='odd\n"é"'))
    assert all("SELECT" in statement for statement in wire.statements)
    # What a value says is no message of its own.
    assert "F\t9\tQuery" in forged.statements[0]
    assert forged.statements[1].endswith("COMMIT")
    assert 'odd\n"é"' in again.statements[0]


@pytest.mark.unsealed
def test_a_role_that_is_assumed_is_part_of_the_binding(tenants: Tenants, settings: Any) -> None:
    settings.RLS_TENANTS = {**settings.RLS_TENANTS, "ADMIN_ROLE": "app_admin"}
    connection = connections["default"]
    connection.close()
    connection.settings_dict["OPTIONS"]["assume_role"] = "app"
    try:
        with tenant_context(tenants[0].pk), assert_sql(bound_to=tenants[0]) as wire:
            Note.objects.count()
        assert "role" in wire.statements[-1]
    finally:
        connection.close()
        del connection.settings_dict["OPTIONS"]["assume_role"]


@pytest.mark.unsealed
def test_what_is_not_so_is_said_with_what_was_sent(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk):
        with (
            pytest.raises(AssertionError, match="no statement has 'DELETE'; sent:\n"),
            assert_sql("DELETE"),
        ):
            Note.objects.count()
        with pytest.raises(AssertionError, match="1 messages, not 2"), assert_sql(count=2):
            Note.objects.count()
        with (
            pytest.raises(AssertionError, match="not bound to"),
            assert_sql(bound_to=tenants[1]),
        ):
            Note.objects.count()
    with pytest.raises(AssertionError, match="not bound to"), assert_sql(bound_to=tenants[0]):
        Note.objects.count()
    with pytest.raises(AssertionError, match="nothing was sent"), assert_sql(bound_to=tenants[0]):
        pass
    with admin_context(), pytest.raises(ZeroDivisionError), assert_sql("never"):
        _ = 1 / 0


def test_where_bindings_are_sealed_it_is_said(settings: Any) -> None:
    settings.RLS_TENANTS = {
        **settings.RLS_TENANTS,
        "SEALED": True,
        "SEAL_KEYS": ["a secret that is long enough for a test"],
    }
    with pytest.raises(ValueError, match="assert on rows"), assert_sql(bound_to=1):
        pass


@pytest.mark.unsealed
@pytest.mark.parametrize("using", ["default", "wire_server_side"])
def test_what_is_sent_in_a_transaction_and_with_parameters_is_bound(
    tenants: Tenants, using: str
) -> None:
    a, b = tenants
    notes = Note.objects.using(using)
    insert = "INSERT INTO app_author (name) VALUES (%s)"
    with tenant_context(a.pk):
        # The first time, a savepoint goes in another way than later.
        for _ in range(2):
            with assert_sql("app_note", bound_to=a, using=using), transaction.atomic(using):
                notes.count()
                with transaction.atomic(using):
                    notes.filter(title="x").update(title="y")
                    with transaction.atomic(using):
                        notes.exists()
        with connections[using].cursor() as cursor:
            with assert_sql("INSERT INTO app_author", bound_to=a, using=using):
                cursor.executemany(insert, [("one",), ("two",)])
            with assert_sql("SELECT 1", bound_to=a, using=using), cursor.connection.pipeline():
                cursor.execute("SELECT 1")
                cursor.execute("SELECT 2")
            with (
                pytest.raises(AssertionError, match=r"not bound to .*: SELECT .*set_config"),
                assert_sql(bound_to=a, using=using),
                tenant_context(b.pk),
            ):
                cursor.executemany(insert, [("one",), ("two",)])
            with (
                pytest.raises(AssertionError, match=r"not bound to .*: .*set_config"),
                assert_sql(bound_to=a, using=using),
                cursor.connection.pipeline(),
            ):
                cursor.execute("SELECT 1")
                with tenant_context(b.pk):
                    cursor.execute("SELECT 2")
    connections[using].close()


async def test_an_async_connection_can_be_watched(tenants: Tenants) -> None:
    try:
        with assert_sql("SELECT title", using="pooled") as wire:
            async with tenant_context(tenants[0].pk), aconnection("pooled") as connection:
                wire.watch(connection)
                wire.watch(connection)
                await connection.execute("SELECT title FROM app_note WHERE id = %s", [1])
        assert len([each for each in wire.statements if "SELECT title" in each]) == 1
    finally:
        await aclose_pools()


def test_parameters_on_the_server_do_not_hide_the_statement(tenants: Tenants) -> None:
    with tenant_context(tenants[0].pk), assert_sql(using="wire_server_side") as wire:
        list(Note.objects.using("wire_server_side").filter(title="A 1\n", pk=3))
    assert any("app_note" in each and "$3" in each for each in wire.statements)
    connections["wire_server_side"].close()


@pytest.mark.parametrize("count", [0, 1, 3, 12])
def test_the_text_of_a_parse_is_found_whatever_follows(count: int) -> None:
    sql = b'SELECT 1, "a" 1 2\n" 3 4'
    length = 4 + len(b"name") + 1 + len(sql) + 1 + 2 + 4 * count
    line = b'F\t%d\tParse\t "name" "%s" %d%s\n' % (length, sql, count, b" 25" * count)
    assert list(flushes(line + b"F\t4\tSync\n" + line)) == [[sql.decode()], [sql.decode()]]


def test_the_role_of_these_tests_is_bound() -> None:
    assert_role_is_bound()
