"""Tables that a migration creates, and that what follows in it may use already."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from ...conf import rls_tenants
from ...dependents import is_protected
from ...exceptions import RLSConfigurationError
from ...grants import grant_on
from ...policies.ddl import close
from ...seal import send_seal_keys
from ...statements import DeferredProtection
from .dependence import DependenceMixin


class NewTablesMixin(DependenceMixin):
    """Protect new tables: when the migration ends, or at once where it is no transaction.

    The admin role, if there is one, may use them at once.
    """

    def table_sql(self, model: Any) -> tuple[str, Any]:
        """Return the SQL that creates a table.

        Outside of a transaction it is there for everybody at once, and stays if the migration
        fails; so it shows nothing until it is protected.
        """
        sql, params = super().table_sql(model)
        if not self.atomic_migration and is_protected(model, model._meta.apps):
            closing = close(self.quote_name(model._meta.db_table))
            # Django merges the parameters, if there are any.
            sql = f"{sql};\n{closing.replace('%', '%%') if params else closing}"
        return sql, params

    def create_model(self, model: Any) -> None:
        """Create the table of `model`, and those of its many-to-many relations."""
        self.provide(model._meta.local_concrete_fields)
        super().create_model(model)
        # Later, as constraints are: the tables that it refers to may not be protected yet.
        if sql := self.dependence(model, model._meta.apps):
            self.deferred_sql.append(sql)
        role = rls_tenants().admin_role
        if role is not None and not self.collect_sql:
            grant_on([model._meta.db_table], self.connection, role)
        if not self.atomic_migration:
            relations = [field.remote_field.through for field in model._meta.local_many_to_many]
            for each in [model, *(each for each in relations if each._meta.auto_created)]:
                self.protect_at_once(each._meta.db_table)

    def protect_at_once(self, table: str) -> None:
        """Protect a new table now, unless that needs what the migration is yet to make."""
        for sql in self.waiting(table):
            try:
                # PostgreSQL may refuse an expression, and a transaction around it would be over.
                with transaction.atomic(using=self.connection.alias):
                    self.protect_by(sql)
            except RLSConfigurationError:
                # It is raised again at the end, if what is missing has not come.
                continue

    def protect_by(self, sql: Any) -> None:
        """Execute what waits to protect a table, if its turn has come.

        Raises RLSConfigurationError where what it is made of is not there.
        """
        if isinstance(sql, DeferredProtection):
            self.execute(str(sql), params=None)
            self.deferred_sql.remove(sql)
            if rls_tenants().sealed and not self.collect_sql:
                # This migration may be the one that has made their table.
                send_seal_keys(self.connection)
        else:
            self.deferred_sql.remove(sql)
            self.execute_in_turn(sql)
