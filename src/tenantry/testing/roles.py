"""The role that tests run as, and the one that owns what they use."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import DEFAULT_DB_ALIAS, connections
from django.db.transaction import TransactionManagementError

from ..binding import UNBOUND
from ..checks.role import exemptions, read_role
from ..context import Scope
from ..exceptions import RLSConfigurationError


@contextmanager
def as_owner(using: str = DEFAULT_DB_ALIAS) -> Iterator[None]:
    """Log in as ``TEST["OWNER"]`` until the block ends, for tests that run migrations.

    At its end the role of the tests is granted what it needs of the tables that are there then.
    Policies bind the owner too. Without ``OWNER`` the tests are the owner, and nothing changes.
    Not for async tests.

    Raises TransactionManagementError in a transaction, such as that of a ``TestCase``, and
    RLSConfigurationError for a database that was not made for tests.
    """
    connection: Any = connections[using]
    creation = connection.creation
    if connection.in_atomic_block:
        raise TransactionManagementError(
            f"as_owner({using!r}) logs in anew, and a transaction is open; use a"
            " TransactionTestCase, or @pytest.mark.django_db(transaction=True)"
        )
    if not creation.is_test_database():
        raise RLSConfigurationError(
            f"as_owner({using!r}) is for test databases, and nothing says that"
            f" {connection.settings_dict['NAME']!r} is one"
        )
    role = connection.settings_dict["USER"]
    with creation.as_owner():
        try:
            yield
        finally:
            # Whatever scope is open around the block: where the admin is a role it owns nothing,
            # and a sealed binding goes with one statement at a time.
            with Scope(UNBOUND):
                creation.grant_to(role)


def assert_role_is_bound(using: str = DEFAULT_DB_ALIAS) -> None:
    """Raise AssertionError if no policy binds the role that the tests log in as.

    What such a role sees proves nothing. tenantry's pytest plugin asserts it for every test that
    uses a database.
    """
    connection = connections[using]
    with connection.cursor() as cursor:
        row = read_role(cursor, connection.settings_dict["OPTIONS"])
    if finding := next(exemptions(row), None):
        raise AssertionError(
            f"the tests of the database {using!r} prove nothing: the {finding.subject}"
            f" {finding.message}; let them log in as the role that serves requests, and name a role"
            f" that may create databases in DATABASES[{using!r}]['TEST']['OWNER']"
        )
