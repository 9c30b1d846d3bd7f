"""Projects and servers that are refused: a clear error, and nothing sent."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.db import connections

from tenantry import aclose_pools, aconnection
from tests.fix_servers import announcing
from tests.fix_wire import Wire

ROOT = Path(__file__).parent.parent
ENGINE = "tenantry.backends.postgresql"

PROJECT = """
import sys
{before}
from django.conf import settings
settings.configure(**{settings!r})
import django
django.setup()
from django.db import OperationalError, connection
try:
    connection.ensure_connection()
except OperationalError:
    sys.exit("tried")
"""

# What an environment that has only psycopg2 looks like.
WITHOUT_PSYCOPG = """
import importlib.abc

class NoPsycopg(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "psycopg":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoPsycopg())
"""

OLD_PSYCOPG = """
import psycopg
psycopg.__version__ = "3.1.20"
"""

CHECKS = """
from django.conf import settings
from tests import settings as given
settings.configure(
    SECRET_KEY="only for tests",
    INSTALLED_APPS={apps!r},
    DATABASES={{"default": given.database()}},
    RLS_TENANTS={{"TENANT_MODEL": "app.Tenant"}},
    AUTH_USER_MODEL="app.User",
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
import django
django.setup()
from django.apps import apps
from tenantry import RLSConstraint
# Before Django 6, checks ask constraints only together with a database.
print([
    found.id
    for model in apps.get_models(include_auto_created=True)
    for constraint in model._meta.constraints
    if isinstance(constraint, RLSConstraint)
    for found in constraint._check(model, None)
])
"""

FORK = """
import asyncio, os
from asgiref.sync import sync_to_async
from tenantry.hops import loop_of_hop

def hop():
    if (child := os.fork()) == 0:
        os._exit(10 + (loop_of_hop() is not None))
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

print(asyncio.run(sync_to_async(hop)()))
"""


class Server:
    """A server that closes every connection at once, and counts them."""

    def __init__(self) -> None:
        self.connections = 0
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.socket.settimeout(60)
        self.thread = threading.Thread(target=self.accept)
        self.thread.start()

    @property
    def port(self) -> int:
        port: int = self.socket.getsockname()[1]
        return port

    def accept(self) -> None:
        while True:
            connection, _ = self.socket.accept()
            with connection:
                if connection.recv(1) == b"!":
                    return
                self.connections += 1

    def close(self) -> None:
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"!")
        self.thread.join(10)
        self.socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    yield server
    server.close()


def error_of(server: Server, before: str = "", engine: str = ENGINE, **settings: object) -> str:
    """Return how a project ends that starts and connects to `server`."""
    database = {
        "ENGINE": engine,
        "NAME": "nowhere",
        "HOST": "127.0.0.1",
        "PORT": str(server.port),
        "OPTIONS": {"sslmode": "disable", "gssencmode": "disable"},
    }
    settings = {
        "SECRET_KEY": "only for tests",
        "INSTALLED_APPS": ["django.contrib.contenttypes", "django.contrib.auth", "tenantry"],
        "DATABASES": {"default": database},
        "RLS_TENANTS": {"TENANT_MODEL": "auth.Group"},
    } | settings
    code = PROJECT.format(before=before, settings=settings)
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 1
    return result.stderr.strip().splitlines()[-1]


def test_a_project_with_the_right_settings_starts_and_connects(server: Server) -> None:
    assert error_of(server) == "tried"
    assert server.connections == 1


def test_a_project_without_our_engine_does_not_start(server: Server) -> None:
    error = error_of(server, engine="django.db.backends.postgresql")
    assert error.startswith(
        "django.core.exceptions.ImproperlyConfigured: tenantry is in INSTALLED_APPS, but no"
        " database uses its ENGINE"
    )
    assert f"set DATABASES['default']['ENGINE'] = {ENGINE!r}" in error
    assert server.connections == 0


@pytest.mark.parametrize(
    ("rls_tenants", "message"),
    [
        (None, "RLS_TENANTS must be a dict with at least TENANT_MODEL"),
        (
            {"TENANT_MODEL": "auth.Tenant", "TENANT_PK_TYPE": "bigint"},
            "RLS_TENANTS['TENANT_MODEL'] is 'auth.Tenant', which is not installed",
        ),
        (
            {"TENANT_MODEL": "auth.Group", "EXTERNAL_MODELS": {"auth.Grup": "tenant_id"}},
            "RLS_TENANTS['EXTERNAL_MODELS'] names 'auth.Grup', which is not installed",
        ),
    ],
    ids=["none", "no-model", "no-external"],
)
def test_a_project_with_wrong_settings_does_not_start(
    server: Server, rls_tenants: object, message: str
) -> None:
    error = error_of(server, RLS_TENANTS=rls_tenants)
    assert error.startswith(f"tenantry.exceptions.RLSConfigurationError: {message}")
    assert server.connections == 0


def test_a_project_with_psycopg2_only_does_not_connect(server: Server) -> None:
    error = error_of(server, WITHOUT_PSYCOPG)
    assert error == (
        "django.core.exceptions.ImproperlyConfigured: tenantry's ENGINE needs psycopg 3, which is"
        " not installed; psycopg2 cannot send a tenant with a statement. Install it with: pip"
        " install 'psycopg[binary,pool]>=3.2'"
    )
    assert server.connections == 0


def test_a_project_with_an_old_psycopg_does_not_connect(server: Server) -> None:
    error = error_of(server, OLD_PSYCOPG)
    assert error.startswith(
        "django.core.exceptions.ImproperlyConfigured: tenantry's ENGINE needs psycopg 3.2 or newer,"
        " not 3.1.20; upgrade it with: pip install"
    )
    assert server.connections == 0


@pytest.fixture
def old_server(wire: Wire) -> Iterator[None]:
    with announcing(wire, b"14"):
        yield


def refused_server() -> AbstractContextManager[pytest.ExceptionInfo[ImproperlyConfigured]]:
    # From Django 6.1 on it refuses such a server itself. Its sentence stays as it is.
    return pytest.raises(
        ImproperlyConfigured,
        match=r"^(PostgreSQL 15 or later is required \(found 14[.\d]*\)\."
        r"|PostgreSQL 14[.\d]* is too old:)"
        r" tenantry needs PostgreSQL 15 or newer; .* the database '(wire|old \d)'",
    )


@pytest.mark.parametrize(
    "pooling", [{}, {"pool": True}, {"pool": True, "pool_mode": "transaction"}]
)
def test_an_old_server_is_refused(old_server: None, pooling: dict[str, object]) -> None:
    # Django asks once for each alias.
    connection: Any = connections["wire"].copy(alias=f"old {len(pooling)}")
    connection.settings_dict = {
        **connection.settings_dict,
        "OPTIONS": connection.settings_dict["OPTIONS"] | pooling,
    }
    try:
        with refused_server():
            connection.ensure_connection()
    finally:
        connection.close()
        connection.close_pool()


async def test_an_old_server_is_refused_in_an_event_loop(old_server: None) -> None:
    try:
        with refused_server():
            async with aconnection("wire"):
                pytest.fail("it was accepted")
    finally:
        await aclose_pools()


@pytest.mark.parametrize(("ours", "found"), [(["tenantry"], []), ([], ["tenantry.W006"])])
def test_protected_models_without_the_app_are_found_once(ours: list[str], found: list[str]) -> None:
    apps = ["django.contrib.contenttypes", "django.contrib.auth", "tests.app", *ours]
    command = [sys.executable, "-c", CHECKS.format(apps=apps)]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == f"{found}\n"


def test_a_process_that_is_forked_inside_a_hop_is_outside_of_it() -> None:
    # From Python 3.12 on, a fork in a process with threads is warned of.
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert result.stdout == "10\n"
