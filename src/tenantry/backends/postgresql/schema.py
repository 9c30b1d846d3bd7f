"""The schema editor: tables that depend on protected ones are protected with them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db import router
from django.db.backends.ddl_references import Statement, Table
from django.db.backends.postgresql import schema

from ...conf import rls_tenants
from ...constraints import RLSConstraint
from ...declared import constraints_of
from ...dependents import (
    dependents,
    has_constraint,
    is_asked,
    is_protected,
    links,
    policy_of,
    protecting_links,
    references_of,
    rules_of,
)
from ...expressions import functions_of
from ...opening import Opening
from ...policies.columns import FOLLOWING, SPEAKING, let_go
from ...policies.ddl import Rule, drop
from ...policies.references import (
    IS_AS_WANTED,
    OF_DEPENDENTS,
    depend,
    independ,
    let_depend_anew,
)
from ...retyping import (
    Column,
    is_retyped,
    referred_column,
    refers_elsewhere,
    registry_of,
    relates_elsewhere,
    retyped,
    speaks_of,
)
from ...samekeys import SameTenant
from ...seal import send_seal_keys
from ...statements import DeferredProtection, DeferredSameTenant, ForAllTenants
from .new_tables import Dependence, NewTablesMixin
from .releasing import as_admin, filled, looked_at, released


class SchemaEditorMixin(NewTablesMixin):
    """Protect the tables of many-to-many relations, and of children in inheritance."""

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

    def stop_waiting(self, table: str) -> None:
        """Execute what waits and names a table, before it, or a column of it, is renamed."""
        for sql in [*self.deferred_sql]:
            if isinstance(sql, Dependence | DeferredProtection) and sql.speaks_of(table):
                self.deferred_sql.remove(sql)
                self.execute(sql, params=None)

    def without_policies(self, model: Any, old_field: Any, new_field: Any) -> list[str]:
        """Drop the policies that a column's change concerns; return what creates them.

        They keep its type from changing, and follow a foreign key to what it referred to before.
        """
        apps, quote, table = model._meta.apps, self.quote_name, model._meta.db_table
        gets_type = is_retyped(old_field, new_field, self.connection)
        is_elsewhere = refers_elsewhere(old_field, new_field, self.connection)
        if not (gets_type or is_elsewhere):
            return []
        # By both names: `migrate` puts the models of after into the registry of those of before.
        columns = {(table, str(field.column)) for field in (old_field, new_field)}
        if gets_type:
            columns = retyped(columns, apps)
        if is_elsewhere:
            # It would speak of what the key refers to now.
            self.stop_waiting(table)
        again: list[str] = []
        known = []
        for own, rules in self.policies(apps, registry_of(new_field, model)):
            if speaks_of(columns, own, rules):
                known.append(quote(own))
                self.execute(drop(quote(own), rules), params=None)
                again += [rule.create(quote(own)) for rule in rules]
        if is_elsewhere:
            # Nothing says where they lead now.
            step = [(table, old_field.column), referred_column(old_field)]
            for (sql,) in self.policies_of_others(FOLLOWING, step, known):
                self.execute(sql, params=None)
        if gets_type:
            for sql, create in self.policies_of_others(SPEAKING, columns, known):
                self.execute(sql, params=None)
                again.append(create)
        return again

    def policies_of_others(
        self, query: str, columns: Iterable[Column], known: list[str]
    ) -> list[tuple[str, ...]]:
        """Return what a query says of the policies that name columns, of tables not `known`.

        Where a migration is undone, its apps lack those that came later, and their tables.
        """
        tables, names = zip(*columns, strict=True)
        quoted = [self.quote_name(table) for table in tables]
        with self.connection.cursor() as cursor:
            cursor.execute(query, {"tables": quoted, "columns": [*names], "known": known})
            found: list[tuple[str, ...]] = cursor.fetchall()
        return found

    def policies(self, apps: Any, after: Any) -> Iterator[tuple[str, list[Rule]]]:
        """Yield the tables that models of `apps` protect already, and the policies of `after`."""
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            if not is_protected(model, apps) or not self.is_here(model) or self.waiting(table):
                continue
            try:
                rules = rules_of(after.get_model(model._meta.label), after, self.quote_name)
            except (FieldDoesNotExist, LookupError):
                # Its constraint is changed later in the migration; or the model is newer than
                # `after`; or its app has no migrations, where Django leaves out all relations.
                continue
            yield table, rules

    def let_depend_anew(self, through: Any) -> None:
        """Let go of what the table of a relation refers to; it shows nothing until it has others.

        They may refer to it by a column of another type, and have other names.
        """
        self.forget(through)
        if self.is_here(through) and not has_constraint(through):
            table = self.quote_name(through._meta.db_table)
            self.execute(let_depend_anew(table), params=None)

    def depend_anew(self, through: Any) -> None:
        """Protect the table of a relation by what it refers to now."""
        if self.is_here(through):
            self.hang(through, through._meta.apps, loses=True)

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

    def has_policies(self, model: Any) -> bool:
        """Return whether the table of `model` has policies of tenantry's already."""
        with self.connection.cursor() as cursor:
            cursor.execute(
                "SELECT FROM pg_policy WHERE polrelid = to_regclass(%s) AND polname = ANY(%s)",
                [self.quote_name(model._meta.db_table), list(OF_DEPENDENTS)],
            )
            return cursor.fetchone() is not None

    def follow(self, model: Any, *, loses: bool) -> None:
        """Protect what depends on `model`, which `loses` its protection or gets one."""
        apps = model._meta.apps
        for dependent in dict.fromkeys(dependents(model, apps)):
            if self.is_here(dependent):
                self.hang(dependent, apps, loses=loses)

    def hang(self, model: Any, apps: Any, *, loses: bool) -> None:
        """Protect the table of `model` by what it refers to that is protected now, or not at all.

        If it `loses` what protected it, it shows nothing in between, which outside of a transaction
        lasts until the migration ends: what it refers to may be about to be protected again.
        """
        waits = self.forget(model)
        if has_constraint(model):
            return
        table, sql = model._meta.db_table, self.dependence(model, apps)
        if loses:
            self.execute(let_depend_anew(self.quote_name(table)), params=None)
        if (loses or waits) and not self.atomic_migration:
            self.deferred_sql.append(sql or Opening(table, self))
        elif sql:
            self.execute_in_turn(sql)
        else:
            self.execute(independ(self.quote_name(table)), params=None)

    def depend_as_wanted(self, models: Iterable[Any], apps: Any) -> None:
        """Protect those of `models`, which hang on others, that are not protected by these yet."""
        waiting = [model for model in models if self.is_here(model)]
        changed = True
        while changed:
            # Again, because what hangs on one of them comes after it.
            changed = False
            for model in [*waiting]:
                if self.is_as_wanted(model, apps) is False:
                    waiting.remove(model)
                    self.execute(self.dependence(model, apps), params=None)
                    changed = True

    def is_as_wanted(self, model: Any, apps: Any) -> bool | None:
        """Return whether the table of `model` is protected by what it hangs on.

        It is None where that cannot be: a table is missing, or what it hangs on is not protected.
        """
        quote = self.quote_name
        try:
            references = references_of(model, apps, quote)
            names = [rule.name for rule in rules_of(model, apps, quote)]
        except FieldDoesNotExist:
            return None
        tables = {
            "table": quote(model._meta.db_table),
            "owners": [each.table for each in references],
        }
        with self.connection.cursor() as cursor:
            cursor.execute(IS_AS_WANTED, {"names": names, **tables})
            found = cursor.fetchone()
        return None if found is None else bool(found[0])

    def is_here(self, model: Any) -> bool:
        """Return whether this database has the table of `model`."""
        # Django makes the table of a relation with that of its model, and asks for it alone.
        made_with = model._meta.auto_created or model
        can_be: bool = made_with._meta.can_migrate(self.connection)
        return can_be and router.allow_migrate_model(self.connection.alias, made_with)

    def waiting(self, table: str) -> list[Any]:
        """Return what waits to protect a table that this migration creates."""
        return [
            sql
            for sql in self.deferred_sql
            if isinstance(sql, Dependence | DeferredProtection) and sql.references_table(table)
        ]

    def forget(self, model: Any) -> bool:
        """Forget what waits to protect `model` by what it refers to; return if anything did."""
        table = model._meta.db_table
        waits = [
            sql
            for sql in self.deferred_sql
            if isinstance(sql, Dependence | Opening) and sql.references_table(table)
        ]
        for sql in waits:
            self.deferred_sql.remove(sql)
        return bool(waits)

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

    def execute_in_turn(self, sql: Dependence) -> None:
        """Execute SQL, but after the constraints that wait, which make the functions it calls."""
        if any(isinstance(each, DeferredProtection) for each in self.deferred_sql):
            self.deferred_sql.append(sql)
        else:
            self.execute(sql, params=None)

    def dependence(self, model: Any, apps: Any) -> Dependence | None:
        """Return the SQL that protects the table of `model` by what it refers to, if it has to."""
        quote = self.quote_name
        references = references_of(model, apps, quote)
        if not references:
            return None
        sql = depend(quote(model._meta.db_table), references, policy_of(model, apps))
        return Dependence(sql.replace("%", "%%"), table=Table(model._meta.db_table, quote))


class DatabaseSchemaEditor(SchemaEditorMixin, schema.DatabaseSchemaEditor):
    """Django's schema editor, for protected tables."""
