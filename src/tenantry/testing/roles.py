"""The role that tests run as."""

from __future__ import annotations

from django.db import DEFAULT_DB_ALIAS, connections

from ..checks.role import exemptions, read_role


def assert_role_is_bound(using: str = DEFAULT_DB_ALIAS) -> None:
    """Raise AssertionError if no policy binds the role that the tests log in as.

    What such a role sees proves nothing. tenantry's pytest plugin asserts it for every test that
    uses a database.
    """
    with connections[using].cursor() as cursor:
        row = read_role(cursor)
    for finding in exemptions(row):
        raise AssertionError(
            f"the tests of the database {using!r} prove nothing: the {finding.subject}"
            f" {finding.message}; let them log in as the role that serves requests, and name a role"
            f" that may create databases in DATABASES[{using!r}]['TEST']['OWNER']"
        )
