"""The pytest plugin: fixtures of tenants, for a project that is tested with pytest-django.

pytest loads it wherever tenantry is installed, so it imports nothing of Django before a fixture
does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import pytest

ALLOW = "tenantry_allow_exempt_role"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the ini-file."""
    help_text = "let tests use a database as a role that no policy binds, such as a superuser"
    parser.addini(ALLOW, help_text, "bool", default=False)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: Any) -> Any:
    """Refuse tests whose role no policy binds, once pytest-django has made the databases."""
    result = yield
    if fixturedef.argname == "django_db_setup":
        blocker = request.getfixturevalue("django_db_blocker")
        # Before the databases are dropped: those of the thread that async tests share stay open.
        request.addfinalizer(partial(_close_connections, blocker))
        if not request.config.getini(ALLOW):
            try:
                _refuse_exempt_roles(blocker)
            except BaseException as error:
                # Else pytest would have the fixture's value for every test but this one.
                failure = (error, error.__traceback__)
                fixturedef.cached_result = (None, fixturedef.cache_key(request), failure)
                raise
    return result


def _close_connections(blocker: Any) -> None:
    from asgiref.sync import sync_to_async  # noqa: PLC0415
    from django.db import connections  # noqa: PLC0415

    with blocker.unblock():
        asyncio.run(sync_to_async(connections.close_all)())
        # Django closes the pool of a database that it drops, and not those of its mirrors, which
        # the question for their role has opened.
        every: Iterable[Any] = connections.all(initialized_only=True)
        for connection in every:
            if connection.settings_dict["OPTIONS"].get("pool"):
                connection.close_pool()


def _refuse_exempt_roles(blocker: Any) -> None:
    from .testing import assert_role_is_bound  # noqa: PLC0415

    with blocker.unblock():
        for alias in _aliases_of_tests():
            assert_role_is_bound(alias)


def _aliases_of_tests() -> list[str]:
    """Return the databases that were made for the tests; without one, the default."""
    from django.db import DEFAULT_DB_ALIAS, connections  # noqa: PLC0415

    from .engine import is_bound  # noqa: PLC0415

    every: Iterable[Any] = connections.all()
    ours = [each for each in every if is_bound(each)]
    # The tests may use none of the others, whose servers need not be there.
    made = [each.alias for each in ours if each.creation.is_test_database()]
    # A project may have a django_db_setup of its own, which uses a database that is there.
    return made or [each.alias for each in ours if each.alias == DEFAULT_DB_ALIAS]


@pytest.fixture
def tenant_factory(db: None) -> Callable[[str], Any]:
    """Return a function that makes a tenant called what it is given; override it as you like.

    This one sets the tenant model's fields for text that have no default. It raises TypeError where
    that is not enough.
    """
    from .testing import create_tenant  # noqa: PLC0415

    return create_tenant


@pytest.fixture
def tenants(tenant_factory: Callable[[str], Any]) -> tuple[Any, Any]:
    """Return two tenants: what one has, the other must not see."""
    return tenant_factory("one"), tenant_factory("two")


@pytest.fixture
def as_tenant(tenants: tuple[Any, Any]) -> Iterator[Any]:
    """Run the test as the first of the two tenants, and return it; sync tests and async ones."""
    from .testing import rls_as_tenant  # noqa: PLC0415

    with rls_as_tenant(tenants[0]):
        yield tenants[0]


@pytest.fixture
def as_admin(db: None) -> Iterator[None]:
    """Run the test as the admin, who sees the rows of every tenant."""
    from .testing import rls_bypass  # noqa: PLC0415

    with rls_bypass():
        yield


@pytest.fixture
def assert_sql() -> Any:
    """Return :func:`tenantry.testing.assert_sql`."""
    from .testing import assert_sql as found  # noqa: PLC0415

    return found
