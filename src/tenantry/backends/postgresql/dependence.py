"""Tables that depend on protected ones: they are protected with them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.exceptions import FieldDoesNotExist
from django.db.backends.ddl_references import Statement, Table

from ...dependents import (
    dependents,
    has_constraint,
    links,
    policies_of,
    references_of,
    shape_of,
)
from ...mixins import Base
from ...opening import Opening
from ...policies.references import (
    IS_AS_WANTED,
    LACKS,
    OF_DEPENDENTS,
    depend,
    independ,
    let_depend_anew,
)
from ...routing import is_migrated
from ...statements import DeferredProtection


class Dependence(Statement):
    """SQL that protects a table by what it refers to; Django forgets it with its table."""

    def speaks_of(self, table: str) -> bool:
        """Return whether the SQL names a table."""
        return self.parts["table"].quote_name(table) in str(self)


class DependenceMixin(Base):  # type: ignore[misc]
    """Protect the tables of many-to-many relations, and of children in inheritance."""

    def let_depend_anew(self, through: Any) -> None:
        """Let go of what the table of a relation refers to; it shows nothing until it has others.

        They may refer to it by a column of another type, and have other names.
        """
        self.forget(through)
        if is_migrated(self.connection, through) and not has_constraint(through):
            table = self.quote_name(through._meta.db_table)
            self.execute(let_depend_anew(table), params=None)

    def depend_anew(self, through: Any) -> None:
        """Protect the table of a relation by what it refers to now."""
        if is_migrated(self.connection, through):
            self.hang(through, through._meta.apps, loses=True)

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
            if is_migrated(self.connection, dependent) and self.is_linked(dependent):
                self.hang(dependent, apps, loses=loses)

    def is_linked(self, model: Any) -> bool:
        """Return whether the table of `model` has the columns by which it hangs on others.

        What deletes a child may drop the link to its parent first, of which Django's model goes on
        to speak. SQL that is only collected has dropped and renamed none.
        """
        if self.collect_sql:
            return True
        columns = [link.column for link in links(model)]
        with self.connection.cursor() as cursor:
            cursor.execute(LACKS, [self.quote_name(model._meta.db_table), columns])
            return cursor.fetchone() is None

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
        waiting = [model for model in models if is_migrated(self.connection, model)]
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
            names = [policy.name for policy in policies_of(model, apps, quote)]
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

    def waiting(self, table: str) -> list[Any]:
        """Return what waits to protect a table that this migration creates."""
        return [
            sql
            for sql in self.deferred_sql
            if isinstance(sql, Dependence | DeferredProtection) and sql.references_table(table)
        ]

    def stop_waiting(self, table: str) -> None:
        """Execute what waits and names a table, before it, or a column of it, is renamed."""
        for sql in [*self.deferred_sql]:
            if isinstance(sql, Dependence | DeferredProtection) and sql.speaks_of(table):
                self.deferred_sql.remove(sql)
                self.execute(sql, params=None)

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
        sql = depend(quote(model._meta.db_table), references, shape_of(model, apps))
        return Dependence(sql.replace("%", "%%"), table=Table(model._meta.db_table, quote))
