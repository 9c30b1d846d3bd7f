"""What the documentation says is what happens: its code is run, its tables are compared."""

from __future__ import annotations

import ast
import configparser
import inspect
import os
import re
import signal
import tomllib
from contextlib import suppress
from dataclasses import MISSING, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.utils.module_loading import import_string

import tenantry
from example_asgi.servers import PgBouncer, Postgres
from tenantry import (
    asgi,
    exceptions,
    operations,
    resolvers,
    testing,
)
from tenantry.backends.postgresql.apply import prefix
from tenantry.backends.postgresql.options import OWN
from tenantry.binding import Binding
from tenantry.conf import RLSTenants
from tenantry.contrib import admin, drf, ninja
from tenantry.policies.ddl import LATEST, Shape
from tenantry.policies.ddl import unprotect as remove
from tenantry.policies.references import Reference, depend
from tests.fix_docs import APP, DOCS, SOURCE, Reader, blocks, table
from tests.fix_faults import wait_for

# The tutorial, and the how-to guides, which start where it ends.


def test_the_tutorial_does_what_it_says(tutorial: tuple[Reader, list[str]]) -> None:
    _, done = tutorial
    assert done.count("pycon") >= 5
    assert done.count("console") >= 5


GUIDES = [
    "protect-a-model",
    "refuse-foreign-keys",
    "protect-users",
    "protect-other-packages",
    "share-rows",
    "find-the-tenant",
    "serve-other-asgi-apps",
    "use-rest-framework",
    "use-ninja",
    "cache-and-store-files",
    "audit",
    "find-missing-rows",
    "operate",
    "use-the-admin",
    "write-raw-sql",
    "background-code",
]
if find_spec("django_async_backend"):
    GUIDES.append("async-orm")
if find_spec("django.tasks"):
    GUIDES.append("django-tasks")


@pytest.mark.parametrize("page", GUIDES)
def test_a_guide_does_what_it_says(page: str, reader: Reader) -> None:
    assert "pycon" in reader.follow(f"how-to/{page}.md")


LOGGED = """\
>>> from django.contrib.admin.models import LogEntry
>>> from django.test import Client
>>> from notes.models import Tenant, User
>>> from tenantry import tenant_context
>>> acme, globex = Tenant.objects.order_by("name")
>>> ada = Client(SERVER_NAME="localhost")
>>> ada.force_login(User.objects.get(username="ada"))
>>> ada.post("/admin/notes/note/add/", {"title": "Buy glue"}).status_code
302
>>> for tenant in (acme, globex):
...     with tenant_context(tenant.pk):
...         LogEntry.objects.filter(object_repr="Buy glue").count()
1
0
"""


def test_the_admin_writes_a_log_that_is_protected(reader: Reader) -> None:
    reader.follow("how-to/protect-other-packages.md")
    reader.follow("how-to/use-the-admin.md")
    reader.run_session(LOGGED)


def test_every_guide_is_followed() -> None:
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    pages = [path.stem for path in (DOCS / "how-to").glob("*.md")]
    assert pages
    for page in pages:
        assert f'"{page}"' in tests or f"how-to/{page}.md" in tests, page


def test_the_guide_to_shapes_does_what_it_says(modern_reader: Reader) -> None:
    assert modern_reader.follow("how-to/choose-a-shape.md").count("pycon") == 2


@pytest.mark.parametrize("page", ["run-commands", "export-and-delete"])
def test_a_guide_to_commands_does_what_it_says(page: str, reader: Reader) -> None:
    assert reader.follow(f"how-to/{page}.md").count("console") >= 5


def test_the_guide_to_pgbouncer_does_what_it_says(
    reader: Reader, postgres: Postgres, directory: Path
) -> None:
    page = "how-to/deploy-behind-pgbouncer.md"
    ini = configparser.ConfigParser()
    ini.read_string(next(block.text for block in blocks(page) if block.language == "ini"))
    settings: dict[str, Any] = dict(ini["pgbouncer"])
    # The server of the tests asks for no passwords.
    del settings["auth_type"], settings["auth_file"]
    with PgBouncer(postgres, directory / "docs", users=[APP], **settings) as pooler:
        pooled = {"PGHOST": pooler.host, "PGPORT": str(pooler.port)}
        # The page says where PostgreSQL itself is.
        direct = {"PGPORT=5432": f"PGHOST={postgres.host} PGPORT={postgres.port}"}
        through = replace(reader, environment=reader.environment | pooled, meant=direct)
        done = through.follow(page)
    assert done.count("pycon") == 1


def run_block(page: str, caption: str, dsn: str) -> None:
    """Run the SQL of a page for another project, one statement after the other."""
    [text] = [block.text for block in blocks(page) if block.caption == caption]
    with psycopg.connect(dsn, autocommit=True) as connection:
        for statement in text.replace("notebook", "managed").split(";"):
            if statement.strip():
                connection.execute(statement.encode())


def test_the_roles_are_made_without_a_superuser(
    postgres: Postgres, superuser: psycopg.Connection[Any]
) -> None:
    has_admin = superuser.info.server_version >= 160000
    superuser.execute("CREATE ROLE manager LOGIN CREATEROLE CREATEDB")
    try:
        run_block("how-to/deploy-behind-pgbouncer.md", "managed.sql", postgres.dsn("manager"))
        run_block("tutorial.md", "privileges.sql", postgres.dsn("manager", "managed"))
        if has_admin:
            run_block("how-to/choose-a-shape.md", "admin.sql", postgres.dsn("manager"))
        with psycopg.connect(postgres.dsn("managed_owner", "managed")) as owner:
            owner.execute("CREATE SCHEMA own; CREATE TABLE note (id serial)")
        with psycopg.connect(postgres.dsn("managed_app", "managed")) as app:
            app.execute("INSERT INTO note DEFAULT VALUES")
            if has_admin:
                app.execute("SET ROLE managed_admin")
    finally:
        superuser.execute("DROP DATABASE IF EXISTS managed WITH (FORCE)")
        for role in ("managed_owner", "managed_app", "managed_admin", "manager"):
            superuser.execute(f"DROP ROLE IF EXISTS {role}".encode())


def test_the_guide_to_celery_does_what_it_says(reader: Reader, broker: str) -> None:
    page = "how-to/celery.md"
    redis = {"NOTEBOOK_REDIS_URL": broker.replace("/0", "/1")}
    try:
        done = replace(reader, environment=reader.environment | redis).follow(page)
    finally:
        left = reader.folder / "celery.pid"
        if left.exists():
            process = int(left.read_text())
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)
            # It removes the file as it ends.
            wait_for(lambda: not left.exists(), 20)
    assert done.count("pycon") == 1


# The reference.


def test_the_settings_are_those_that_are_read() -> None:
    documented = {}
    for name, default, _ in table("reference/settings.md", "RLS_TENANTS"):
        known = re.fullmatch(r"`(.+)`", default)
        documented[name.strip("`").lower()] = ast.literal_eval(known[1]) if known else None
    defaults = {
        field.name: field.default if field.default_factory is MISSING else field.default_factory()
        for field in fields(RLSTenants)
    }
    assert defaults.pop("tenant_model") is MISSING
    assert documented.pop("tenant_model") is None
    assert documented == defaults


def test_the_options_are_those_that_are_read() -> None:
    documented = [
        name.strip("`") for name, _, _ in table("reference/settings.md", "Other settings")
    ]
    assert sorted(documented) == sorted(OWN)


def test_the_loggers_are_those_that_log() -> None:
    modules = "".join(path.read_text() for path in (SOURCE / "tenantry").rglob("*.py"))
    found = re.findall(r'getLogger\("([\w.]+)"\)', modules)
    documented = [name.strip("`") for name, _ in table("reference/settings.md", "Loggers")]
    assert sorted(documented) == sorted(set(found))


def test_the_extras_are_those_that_can_be_installed() -> None:
    project = tomllib.loads((SOURCE.parent / "pyproject.toml").read_text())["project"]
    documented = names_in("reference/settings.md", "Extras")
    assert sorted(documented) == sorted(project["optional-dependencies"])


def emitted() -> set[str]:
    """Return the ids of all checks."""
    return {
        identifier
        for module in (SOURCE / "tenantry").rglob("*.py")
        for identifier in re.findall(r'"(tenantry\.[EWI]\d+)"', module.read_text())
    }


@pytest.mark.parametrize(
    "page",
    [
        "../README.md",
        "tutorial.md",
        "how-to/adopt-with-data.md",
        "how-to/migrate-from-django-multitenant.md",
        "how-to/migrate-from-django-tenants.md",
    ],
)
def test_who_writes_a_user_model_is_told_who_the_admin_is(page: str) -> None:
    text = " ".join((DOCS / page).read_text().split())
    assert "not for the administrator of one tenant" in text
    assert "of *all* tenants" in text


def test_every_check_is_named_by_a_test() -> None:
    folder = Path(__file__).parent
    tests = [*folder.glob("test_*.py"), folder / "breaks.py"]
    # Django has some of the same numbers: those of "models.E012" are not ours.
    ours = re.compile(r"(?:\btenantry\.|(?<!\.)\b)([EW]\d{3})\b")
    named = {found for each in tests for found in ours.findall(each.read_text())}
    assert {identifier.removeprefix("tenantry.") for identifier in emitted()} - named == set()


def test_the_checks_are_those_that_exist() -> None:
    found = emitted()
    text = (DOCS / "reference/checks.md").read_text()
    start = r"^\((tenantry-[ew]\d+)\)=\n### (tenantry\.[EW]\d+)\n"
    sections = re.findall(start + r"(.*?)(?=^\(|^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert sorted(identifier for _, identifier, _ in sections) == sorted(found)
    for anchor, identifier, section in sections:
        assert anchor == identifier.lower().replace(".", "-")
        for part in ("Means", "Matters", "Fix", "Silence"):
            assert f"\n{part}: " in section, (identifier, part)


def test_everything_public_is_in_the_api() -> None:
    page = (DOCS / "reference/api.md").read_text()
    documented = re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)", page, re.MULTILINE)
    errors = [
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__
    ]
    public = {f"tenantry.{name}" for name in tenantry.__all__}
    public |= {f"tenantry.exceptions.{name}" for name in errors}
    public |= {f"tenantry.asgi.{name}" for name in asgi.__all__}
    public |= {"tenantry.middleware.RLSTenantMiddleware"}
    public |= {"tenantry.contrib.opentelemetry.TenantSpanProcessor"}
    public |= {"tenantry.routers.ShardRouter", "tenantry.routers.shard_of"}
    public |= {"tenantry.contrib.cache.make_key", "tenantry.contrib.cache.shared"}
    public |= {"tenantry.contrib.storage.TenantStorageMixin"}
    public |= {"tenantry.contrib.storage.TenantFileSystemStorage"}
    public |= {"tenantry.managers.RLSQuerySet.for_user"}
    public |= {"tenantry.managers.RLSQuerySet.including_shared", "tenantry.managers.RLSQuerySet"}
    public |= {"tenantry.binding.Binding", "tenantry.binding.current_binding"}
    public |= {f"tenantry.resolvers.{name}" for name in resolvers.__all__}
    public |= {"tenantry.contrib.celery.TenantTask", "tenantry.contrib.tasks.TenantTasks"}
    public |= {f"tenantry.operations.{name}" for name in operations.__all__}
    public |= {f"tenantry.testing.{name}" for name in testing.__all__}
    public |= {f"tenantry.contrib.drf.{name}" for name in drf.__all__}
    public |= {f"tenantry.contrib.ninja.{name}" for name in ninja.__all__}
    public |= {f"tenantry.contrib.admin.{name}" for name in admin.__all__}
    assert set(documented) == public


def test_signatures_leave_no_argument_out() -> None:
    page = (DOCS / "reference/api.md").read_text()
    found = re.findall(r"^\.\. autoclass:: ([\w.]+)\((.+)\)$", page, re.MULTILINE)
    assert len(found) > 10
    for name, given in found:
        function: Any = ast.parse(f"def documented({given}): ...").body[0]
        documented = [each.arg for each in (*function.args.args, *function.args.kwonlyargs)]
        cls = import_string(name)
        # What Django makes deconstructible has a __new__() that takes anything.
        names = getattr(cls, "_fields", None) or [*inspect.signature(cls.__init__).parameters][1:]
        assert documented == [*names], name


def test_the_policy_is_the_one_that_migrations_create() -> None:
    text = (DOCS / "reference/policy.md").read_text()
    found = re.findall(r"^```postgresql\n(.*?)\n```$", text, re.M | re.S)
    protect, unprotect, dependent, _, roles, _, sealed, _ = found
    shape = Shape("rls", "bigint")
    policies = shape.policies(f'"tenant_id" = {shape.tenant}')
    assert protect == shape.protect('"notes_note"', policies)
    assert unprotect == remove('"notes_note"', policies)
    parent = Reference('"note_ptr_id"', '"notes_note"', '"id"')
    assert depend('"notes_todo"', [parent], shape).endswith(dependent)
    assert f"`version={LATEST}`" in text
    shape = Shape("rls", "bigint", admin_role="notes_admin", app_role="notes_app")
    policies = shape.policies(f'"tenant_id" = {shape.tenant}')
    assert shape.protect('"notes_note"', policies).endswith(roles)
    shape = Shape("rls", "bigint", admin_role="notes_admin", sealed=True)
    policies = shape.policies(f'"tenant_id" = {shape.tenant}')
    assert shape.protect('"notes_note"', policies).endswith(sealed)


def names_in(page: str, heading: str) -> list[str]:
    """Return the names in the first column of the first table under a heading."""
    return [name for cell, *_ in table(page, heading) for name in re.findall("`(.+?)`", cell)]


def test_the_policies_are_called_what_the_page_says() -> None:
    shape = Shape("rls", "bigint", admin_role="notes_admin", app_role="notes_app")
    policies = shape.policies("true", "true", ["login"])
    assert names_in("reference/policy.md", "The policies of a table") == [r.name for r in policies]


def test_the_parameters_are_those_that_are_sent(settings: Any) -> None:
    sent: set[str] = set()
    for more in ({"BYPASS_FLAGS": ["login"]}, {"ADMIN_ROLE": "notes_admin"}):
        settings.RLS_TENANTS = {"TENANT_MODEL": "app.Tenant", **more}
        text = prefix(Binding(42, read_only=True), b"SELECT", 180000).text.decode()
        sent.update(re.findall(r"SET LOCAL (\S+?)=", text))
    assert sorted(names_in("reference/policy.md", "Parameters")) == sorted(sent)


@pytest.mark.parametrize("number", [180000, 150000])
def test_the_prefix_is_the_one_that_is_sent(number: int) -> None:
    text = (DOCS / "reference/statement-paths.md").read_text()
    sent = prefix(Binding(42), b"SELECT", number).text.decode()
    assert f"```postgresql\n{sent}SELECT ...\n```" in text
