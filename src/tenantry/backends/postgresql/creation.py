"""Test databases whose tables belong to another role than that of the tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db.backends.base.creation import TEST_DATABASE_PREFIX
from django.db.backends.postgresql import creation
from psycopg import errors

from ...binding import ADMIN, running_as
from ...conf import rls_tenants
from ...exceptions import RLSConfigurationError
from ...grants import tables_in
from ...policies.predicates import readable

LOGIN = frozenset({"USER", "PASSWORD"})
# Where tables are made that name no schema, and the owner's others that have a model's table. Not
# by to_regclass(), which fails where the owner may not look.
SCHEMAS = """\
SELECT n.nspname, pg_has_role(n.nspowner, 'USAGE') FROM pg_namespace n
WHERE n.nspname = current_schema() OR pg_has_role(n.nspowner, 'USAGE') AND EXISTS (
  SELECT FROM pg_class c WHERE c.relnamespace = n.oid AND n.nspname <> 'pg_catalog' AND (
    format('"%%s"."%%s"', n.nspname, c.relname) = ANY (%(tables)s::text[])
    OR format('"%%s"', c.relname) = ANY (%(tables)s::text[]) AND pg_table_is_visible(c.oid)))"""
# Fixtures, django.contrib.sites and reset_sequences set sequences, which takes UPDATE.
GRANTS = """\
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role};
GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}"""


class DatabaseCreation(creation.DatabaseCreation):
    """Django's creation of test databases, which knows who owns them."""

    def owner(self) -> dict[str, Any] | None:
        """Return the login of the owner; None where the tests are the owner themselves.

        Raises RLSConfigurationError for anything that is not a login.
        """
        settings: dict[str, Any] = self.connection.settings_dict
        owner = settings["TEST"].get("OWNER")
        if owner is None or (isinstance(owner, dict) and {"USER"} <= set(owner) <= LOGIN):
            return owner
        # Not its values: one is a password.
        names = sorted(owner) if isinstance(owner, dict) else type(owner).__name__
        raise RLSConfigurationError(
            f"DATABASES[{self.connection.alias!r}]['TEST']['OWNER'] must be a dict of 'USER'"
            f" and 'PASSWORD', the login of the role that owns the test database; got {names}"
        )

    def is_test_database(self) -> bool:
        """Return whether the connection is to a database that tests have made."""
        settings: dict[str, Any] = self.connection.settings_dict
        name = str(settings["NAME"])
        return name.startswith(settings["TEST"].get("NAME") or TEST_DATABASE_PREFIX)

    def _execute_create_test_db(self, *args: Any, **kwargs: Any) -> None:
        try:
            super()._execute_create_test_db(*args, **kwargs)  # type: ignore[misc]
        except SystemExit as stop:
            # Django has shown the error, and nothing that calls this can be overridden instead.
            cause = stop.__context__ and stop.__context__.__cause__
            # One that may create databases may yet not copy the template.
            if isinstance(cause, errors.InsufficientPrivilege) and "copy" not in str(cause):
                self.log(self._advice())
            raise

    def _advice(self) -> str:
        """Return what to do about a role that may not make the test database."""
        setting = f"DATABASES[{self.connection.alias!r}]['TEST']['OWNER']"
        if owner := self.owner():
            role = readable(owner["USER"])
            return (
                f"As a superuser, run ALTER ROLE {role} CREATEDB, or name another role in {setting}"
            )
        return (
            f"Name a role that may create databases, by its login, in {setting}:"
            " {'USER': ..., 'PASSWORD': ...}"
        )

    def serialize_db_to_string(self) -> str:
        """Return all rows, those of tenants too, for ``serialized_rollback`` to bring back."""
        with running_as(ADMIN):
            found: str = super().serialize_db_to_string()
            return found

    def deserialize_db_from_string(self, data: str) -> None:
        """Bring rows back."""
        with running_as(ADMIN):
            super().deserialize_db_from_string(data)

    @contextmanager
    def as_owner(self) -> Iterator[None]:
        """Log in as the owner, if there is one, until the block ends."""
        owner = self.owner()
        if owner is None:
            yield
            return
        settings: dict[str, Any] = self.connection.settings_dict
        before = {name: settings[name] for name in LOGIN}
        self.log_in({"PASSWORD": "", **owner})
        try:
            yield
        finally:
            self.log_in(before)

    def log_in(self, login: dict[str, Any]) -> None:
        """Let the connections that are opened from now on be another role's."""
        self.connection.close()
        if self.connection.settings_dict["OPTIONS"].get("pool"):
            self.connection.close_pool()
        self.connection.settings_dict.update(login)

    def grant_to(self, role: str) -> None:
        """Let the role of the tests, and that of the admin, use what another role owns."""
        if self.owner() is None:
            return
        quote = self.connection.ops.quote_name
        tables = [*map(quote, tables_in(self.connection))]
        roles = [quote(each) for each in (role, rls_tenants().admin_role) if each]
        with self.connection.cursor() as cursor:
            cursor.execute(SCHEMAS, {"tables": tables})
            for name, is_owned in cursor.fetchall():
                for each in roles:
                    if is_owned:
                        cursor.execute(f"GRANT USAGE ON SCHEMA {quote(name)} TO {each}")
                    cursor.execute(GRANTS.format(schema=quote(name), role=each))


class OwnedDatabaseCreation(DatabaseCreation):
    """Let ``DATABASES[...]["TEST"]["OWNER"]`` own the test database; tests log in as ``USER``.

    ``OWNER`` is a dict of ``USER`` and ``PASSWORD``, of a role that may create databases. It makes
    the database, runs the migrations, empties tables after a ``TransactionTestCase``, and grants
    the role of the tests what requests need: SELECT, INSERT, UPDATE and DELETE, in every schema of
    its own that has a table of a model.
    """

    def create_test_db(self, *args: Any, **kwargs: Any) -> str:
        """Create the test database as its owner; return its name."""
        role = self.connection.settings_dict["USER"]
        with self.as_owner():
            name: str = super().create_test_db(*args, **kwargs)
            self.grant_to(role)
        return name

    def destroy_test_db(self, *args: Any, **kwargs: Any) -> None:
        """Drop the test database as its owner."""
        with self.as_owner():
            super().destroy_test_db(*args, **kwargs)

    def clone_test_db(self, *args: Any, **kwargs: Any) -> None:
        """Copy the test database, for tests in parallel, as its owner."""
        with self.as_owner():
            super().clone_test_db(*args, **kwargs)
