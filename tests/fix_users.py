"""Users of two tenants, and code that leaves no scope open behind it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tenantry.binding import UNBOUND, current_binding
from tests.app.models import Tenant, User


@pytest.fixture
def users(tenants: tuple[Tenant, Tenant]) -> dict[str, User | None]:
    a, b = tenants
    return {
        "a": User.objects.create(username="a", tenant=a),
        "b": User.objects.create(username="b", tenant=b),
        "admin": User.objects.create(username="admin", is_tenant_admin=True),
        "anonymous": None,
    }


@pytest.fixture
def nothing_is_left() -> Iterator[None]:
    """Check that no scope is open, before and after the test."""
    assert current_binding() is UNBOUND
    yield
    assert current_binding() is UNBOUND
