"""Columns that a migration changes, and the policies that speak of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from django.core.exceptions import FieldDoesNotExist

from ...dependents import is_protected, policies_of
from ...policies.columns import FOLLOWING, SPEAKING
from ...policies.ddl import Policy, drop
from ...retyping import (
    Column,
    is_retyped,
    referred_column,
    refers_elsewhere,
    registry_of,
    retyped,
    speaks_of,
)
from ...routing import is_migrated
from .dependence import DependenceMixin


class ColumnsMixin(DependenceMixin):
    """Drop policies for as long as a column that they speak of changes."""

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
        for own, policies in self.policies(apps, registry_of(new_field, model)):
            if speaks_of(columns, own, policies):
                known.append(quote(own))
                self.execute(drop(quote(own), policies), params=None)
                again += [policy.create(quote(own)) for policy in policies]
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

    def policies(self, apps: Any, after: Any) -> Iterator[tuple[str, list[Policy]]]:
        """Yield the tables that models of `apps` protect already, and the policies of `after`."""
        for model in apps.get_models(include_auto_created=True):
            table = model._meta.db_table
            is_here = is_protected(model, apps) and is_migrated(self.connection, model)
            if not is_here or self.waiting(table):
                continue
            try:
                policies = policies_of(after.get_model(model._meta.label), after, self.quote_name)
            except (FieldDoesNotExist, LookupError):
                # Its constraint is changed later in the migration; or the model is newer than
                # `after`; or its app has no migrations, where Django leaves out all relations.
                continue
            yield table, policies
