"""The schema editor, which keeps tables protected while it changes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from contextlib import nullcontext
from typing import Any

from django.db.backends.ddl_references import Statement
from django.db.backends.postgresql import schema

from ...conf import rls_tenants
from ...constraints import RLSConstraint
from ...declared import constraints_of
from ...dependents import has_constraint, is_asked, links, protecting_links
from ...expressions import functions_of
from ...opening import Opening
from ...policies.columns import let_go
from ...policies.references import let_depend_anew
from ...retyping import registry_of, relates_elsewhere
from ...samekeys import SameTenant
from ...seal import send_seal_keys
from ...statements import DeferredProtection, DeferredSameTenant, ForAllTenants
from .columns import ColumnsMixin
from .dependence import Dependence
from .new_tables import NewTablesMixin
from .releasing import as_admin, filled, looked_at, released


class SchemaEditorMixin(NewTablesMixin, ColumnsMixin):
    """Protect tables, and what depends on them, after each operation of a migration."""

    def execute(self, sql: Any, params: Any = ()) -> None:
        """Execute SQL; as the admin if it has to see the rows of every tenant."""
        if isinstance(sql, Statement) and sql.template == self.sql_create_fk:
            with released(self, sql.parts["table"].table, sql.parts["to_table"].table):
                super().execute(sql, params)
            return
        is_for_all = isinstance(sql, ForAllTenants) and rls_tenants().admin_role is None
        with as_admin(self, *self.closed(sql)) if is_for_all else nullcontext():
            super().execute(sql, params)

    def delete_model(self, model: Any) -> None:
        """Delete the table of `model`, and the unique constraints that only it needed."""
        for constraint in model._meta.constraints:
            if isinstance(constraint, SameTenant):
                self.remove_constraint(model, constraint)
        super().delete_model(model)

    def add_field(self, model: Any, field: Any) -> None:
        """Add a column, and first what its default calls."""
        self.provide([field])
        with released(self, *looked_at(model, field)):
            super().add_field(model, field)
        self.ask_anew(registry_of(field, model))

    def remove_field(self, model: Any, field: Any) -> None:
        """Drop a column, and first let go of it what other tables are protected by.

        Those show nothing until a migration says anew how they are protected. The policies of the
        table itself are in the way as long as the model asks for them, unless the column is what
        they ask: what Django 5.2 writes to delete a model drops it first, and no constraint.
        """
        if field.db_parameters(self.connection)["type"] is not None:
            # For every model: what AddRLSPolicy has made leaves no trace in the state, and the
            # policy of a table that the state lacks may name any column.
            table = self.quote_name(model._meta.db_table)
            stays = has_constraint(model) and not is_asked(model, field)
            sql = let_go(table, field.column, of_others=stays)
            self.execute(sql, params=None)
        super().remove_field(model, field)

    def alter_field(self, model: Any, old_field: Any, new_field: Any, strict: bool = False) -> None:
        """Change a column, and create first what its default calls."""
        self.provide([new_field])
        if old_field.column != new_field.column:
            self.stop_waiting(model._meta.db_table)
        again = self.without_policies(model, old_field, new_field)
        is_elsewhere = relates_elsewhere(old_field, new_field, self.connection)
        if is_elsewhere:
            self.let_depend_anew(old_field.remote_field.through)
        with released(self, *filled(model, old_field, new_field)):
            super().alter_field(model, old_field, new_field, strict)
        for sql in again:
            self.execute(sql, params=None)
        if is_elsewhere:
            self.depend_anew(new_field.remote_field.through)
        self.ask_anew(registry_of(new_field, model))

    def _field_should_be_altered(
        self, old_field: Any, new_field: Any, ignore: Collection[str] | None = None
    ) -> bool:
        """Return whether a change is more than what Django says to ignore.

        Django asks so before it drops a foreign key and makes it again, which looks at all rows
        under a lock. A default changes nothing about the key either.
        """
        if ignore is not None:
            ignore = {*ignore, "db_default"}
        found: bool = super()._field_should_be_altered(old_field, new_field, ignore)
        return found

    def alter_db_table(self, model: Any, old_db_table: str, new_db_table: str) -> None:
        """Rename a table, after what waits to protect it under its old name."""
        if old_db_table != new_db_table:
            self.stop_waiting(old_db_table)
        super().alter_db_table(model, old_db_table, new_db_table)
        # Undone, a rename may come after the constraint that speaks of the model by its old name.
        self.ask_anew(model._meta.apps)

    def ask_anew(self, apps: Any) -> None:
        """Let what waits for a field ask the registry `apps`, which may have got it.

        Where a migration is undone, each of its operations has a registry of its own.
        """
        for sql in self.deferred_sql:
            if isinstance(sql, DeferredProtection | DeferredSameTenant):
                sql.apps = apps

    def __exit__(self, exc_type: Any, *others: Any) -> None:
        """Run what waits; a new table of seal keys gets those of the settings."""
        super().__exit__(exc_type, *others)
        if exc_type is None and not self.collect_sql and rls_tenants().sealed:
            send_seal_keys(self.connection)

    def provide(self, fields: Iterable[Any]) -> None:
        """Create the functions that the database defaults of `fields` call."""
        for field in fields:
            for sql in functions_of(field.db_default):
                self.execute(sql, params=None)

    def add_constraint(self, model: Any, constraint: Any) -> None:
        """Add a constraint; one that protects `model` protects what depends on it."""
        protects = isinstance(constraint, RLSConstraint)
        # The table of a many-to-many relation that is a model's now still has the policies of that.
        # Those of another constraint are that one's to drop.
        protectors = constraints_of(model)
        if protects and (links(model) or (len(protectors) < 2 and self.has_policies(model))):
            # Its rows name their tenant now, and depend on nothing else.
            self.forget(model)
            self.execute(let_depend_anew(self.quote_name(model._meta.db_table)), params=None)
        super().add_constraint(model, constraint)
        if protects:
            self.follow(model, loses=False)

    def remove_constraint(self, model: Any, constraint: Any) -> None:
        """Remove a constraint; `model`, and what depends on it, follow."""
        super().remove_constraint(model, constraint)
        if isinstance(constraint, RLSConstraint):
            apps = model._meta.apps
            if protecting_links(model, apps):
                self.hang(model, apps, loses=True)
            self.follow(model, loses=True)

    def closed(self, sql: ForAllTenants) -> list[str]:
        """Return the tables that must show their owner the rows that `sql` checks.

        Those that show nothing until the migration ends show it not even to the admin.
        """
        if self.atomic_migration:
            return []
        closed = [
            each.parts["table"].table
            for each in self.deferred_sql
            if isinstance(each, Dependence | Opening)
        ]
        return [sql.parts["table"].table, *closed] if closed else []


class DatabaseSchemaEditor(SchemaEditorMixin, schema.DatabaseSchemaEditor):
    """Django's schema editor, for protected tables."""
