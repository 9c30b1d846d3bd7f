"""The pytest plugin: fixtures of tenants, for a project that is tested with pytest-django.

pytest loads it wherever tenantry is installed, so it imports nothing of Django before a fixture
does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
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
            _refuse_exempt_roles(blocker)
    return result


def _close_connections(blocker: Any) -> None:
    from asgiref.sync import sync_to_async  # noqa: PLC0415
    from django.db import connections  # noqa: PLC0415

    with blocker.unblock():
        asyncio.run(sync_to_async(connections.close_all)())


def _refuse_exempt_roles(blocker: Any) -> None:
    from django.db import connections  # noqa: PLC0415

    from .conf import ENGINES  # noqa: PLC0415
    from .testing import assert_role_is_bound  # noqa: PLC0415

    with blocker.unblock():
        for connection in connections.all(initialized_only=True):
            if connection.settings_dict["ENGINE"] in ENGINES:
                assert_role_is_bound(connection.alias)


@pytest.fixture
def tenant_factory(db: None) -> Callable[[str], Any]:
    """Return a function that makes a tenant called what it is given; override it as you like.

    This one sets the tenant model's fields for text that have no default. Raises TypeError where
    that is not enough.
    """
    from django.apps import apps  # noqa: PLC0415
    from django.db import models  # noqa: PLC0415

    from .conf import rls_tenants  # noqa: PLC0415

    model = apps.get_model(rls_tenants().tenant_model)
    texts = [field for field in model._meta.concrete_fields if not is_optional(field)]
    for field in texts:
        if not isinstance(field, models.CharField | models.TextField):
            raise TypeError(
                f"{model._meta.label} needs a value for {field.name!r}, which nobody knows here;"
                " write a fixture tenant_factory that returns a function of a name"
            )

    def make(name: str) -> Any:
        return model._default_manager.create(**{field.name: name for field in texts})

    return make


def is_optional(field: Any) -> bool:
    """Return whether a row can be made without a value for a field."""
    from django.db.models.fields import NOT_PROVIDED  # noqa: PLC0415

    given = field.has_default() or field.db_default is not NOT_PROVIDED
    return given or field.null or field.blank or field.generated


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
