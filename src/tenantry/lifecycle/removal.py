"""The rows of a tenant, deleted as that tenant: the policies keep those of all others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from django.apps import apps
from django.core.management.base import CommandError
from django.db import IntegrityError, transaction
from django.db.models import QuerySet

from ..conf import tenant_model
from ..context import tenant_context
from ..dependents import is_open
from .order import Reference, is_cyclic
from .tables import Holdings, Owned, holdings, referring

Note = Callable[[str, int], None]

NOTHING_DELETED = (
    "Nothing was deleted; columns that were already set to NULL stay NULL. Change or delete these"
    " rows first, and run delete_tenant again."
)
NOT_NULL = (
    "A constraint or a trigger forbids NULL in a column that has to be set to NULL before the rows"
    f" it refers to can be deleted. {NOTHING_DELETED}"
)
NOT_DELETED = (
    "These rows belong to another tenant, or were added meanwhile. What has been deleted stays"
    " deleted; change them as the admin, and run delete_tenant again."
)


class Removal:
    """Delete the rows of one tenant, in batches, each of which is a transaction of its own.

    A removal that was interrupted is finished by another one: what is gone is not there any more.
    `also` are labels of models without protection, whose rows that refer to the tenant's go too.
    """

    def __init__(
        self,
        connection: Any,
        tenant: Any,
        *,
        batch: int = 1000,
        keep_tenant: bool = False,
        also: Sequence[str] = (),
    ) -> None:
        self.connection = connection
        self.quote = connection.ops.quote_name
        self.tenant = tenant
        self.batch = batch
        self.keep_tenant = keep_tenant
        self.also = also

    @cached_property
    def found(self) -> Holdings:
        """The tables, and what refers to what."""
        with self.connection.cursor() as cursor:
            found = holdings(self.connection, cursor)
            named = list(self.named(found, cursor)) if self.also else []
            return holdings(self.connection, cursor, named) if named else found

    def named(self, found: Holdings, cursor: Any) -> Iterator[Owned]:
        """Yield the tables of `also`, with the SQL that a row refers to one of the tenant.

        Raises CommandError for one that is protected, or refers to nothing of a tenant.
        """
        for label in self.also:
            try:
                model: Any = apps.get_model(label)
            except (LookupError, ValueError) as error:
                raise CommandError(
                    f"--also names {label!r}, which is not a model; name it as app_label.Model"
                ) from error
            name = model._meta.db_table
            # As the references have it: with a schema, and in quotes, where it needs that.
            cursor.execute("SELECT to_regclass(%s)::text", [self.quote(name)])
            [known] = cursor.fetchone()
            links = [each for each in found.inward() if each.table == known]
            if not links:
                raise CommandError(
                    f"--also names {label!r}, whose table refers to no row of a tenant; or it is"
                    " protected, and its rows go anyway"
                )
            conditions = [referring(each, found.tables[each.target], self.quote) for each in links]
            # Where one of these was cut, nothing would say any more whose the row is.
            keys = tuple(column for each in links for column in each.columns)
            yield Owned(name, self.quote(name), model, f"({' OR '.join(conditions)})", keys)

    def counts(self) -> dict[str, int]:
        """Return how many rows would go, by table, in the order in which they do."""
        with tenant_context(self.tenant.pk):
            return {
                name: self.count(f"{table.quoted} WHERE {table.condition}")
                for name, table in self.doomed.items()
            }

    def obstacles(self) -> dict[str, int]:
        """Return how many rows that stay refer to those that would go, by column."""
        staying = [
            (each, each.table, "true")
            for each in self.found.inward()
            # What refers to rows that go by their models, these settle.
            if each.target in self.doomed and each.target not in self.named_tables
        ]
        for each in self.kept:
            if each.nullable is None:
                table = self.found.tables[each.table]
                staying.append((each, table.quoted, table.condition))
        found = {}
        with tenant_context(self.tenant.pk):
            for each, name, condition in staying:
                refers = referring(each, self.found.tables[each.target], self.quote)
                if number := self.count(f"{name} WHERE {condition} AND {refers}"):
                    found[each.place] = number
        return found

    def run(self, note: Note) -> None:
        """Delete the rows, and tell `note` of each batch.

        Raises CommandError before anything is deleted when rows of other tables refer to them, and
        at the end when rows are still there.
        """
        self.require_safe()
        with tenant_context(self.tenant.pk):
            with explained(NOT_NULL):
                for each in self.kept:
                    if each.nullable is not None:
                        which = referring(each, self.doomed[each.target], self.quote)
                        self.cut(each, each.nullable, which)
                for each in self.found.order.cuts:
                    if each.table in self.doomed and each.loose is not None:
                        self.cut(each, each.loose)
            for group in reversed(self.found.order.groups):
                tables = [self.doomed[name] for name in reversed(group) if name in self.doomed]
                with explained(NOT_DELETED):
                    if is_cyclic(group, self.found.edges):
                        self.empty_at_once(tables, note)
                    else:
                        self.empty(tables, note)
        if left := {name: number for name, number in self.counts().items() if number}:
            rows = ", ".join(f"{number} of {name}" for name, number in left.items())
            raise CommandError(
                "rows of the tenant are still there, which a policy or a trigger keeps, or which"
                f" were added meanwhile: {rows}. What has been deleted stays deleted; delete these"
                " as the owner of the tables, or run delete_tenant again."
            )

    @cached_property
    def doomed(self) -> dict[str, Owned]:
        """The tables whose rows go, those that refer to others first."""
        return {
            name: self.found.tables[name]
            for name in reversed(self.found.order.tables)
            if not self.stays(name)
        }

    def stays(self, name: str) -> bool:
        """Return whether a table is one of the tenant's own row, which is kept."""
        table = self.found.tables.get(name)
        return self.keep_tenant and table is not None and table.is_tenants

    @cached_property
    def kept(self) -> list[Reference]:
        """The foreign keys by which a tenant that is kept refers to rows that go."""
        return [
            each
            for each in self.found.references
            if self.stays(each.table) and each.target in self.doomed
        ]

    def require_safe(self) -> None:
        """Raise CommandError where the database would stop half-way, or delete rows of others."""
        if obstacles := self.obstacles():
            own = sorted(obstacles.keys() & {each.place for each in self.kept})
            if own:
                raise CommandError(
                    "the tenant's own row is kept, but refers to rows that would be deleted, and"
                    f" {', '.join(own)} cannot be NULL; let it refer to rows that stay, or run"
                    " delete_tenant without --keep-tenant; nothing was deleted"
                )
            rows = ", ".join(f"{number} of {name}" for name, number in obstacles.items())
            raise CommandError(
                f"rows of tables that are not protected refer to rows of the tenant: {rows}; delete"
                " or change them first, or let their models' rows be deleted, too, with --also"
                " app.Model; nothing was deleted"
            )
        if refusal := next(self.refusals(), None):
            raise CommandError(f"{refusal}; nothing was deleted")

    def refusals(self) -> Iterator[str]:
        """Yield what of the tables does not let rows of the tenant alone be deleted."""
        if linked := sorted(table.name for table in self.doomed.values() if table.is_linked):
            label = tenant_model()._meta.label
            yield (
                f"only the row of {label}, which goes first, says which rows of {', '.join(linked)}"
                " are the tenant's; run delete_tenant with --keep-tenant, and delete the tenant by"
                " its model"
            )
        for each, number in self.held().items():
            yield (
                f"{number} rows of other tenants in {each.table} refer to rows that would be"
                f" deleted, by {', '.join(each.columns)}; let them refer to others first"
            )
        for each in self.found.references:
            if self.reaches_others(each):
                yield (
                    f"the foreign key {each.name} of {each.table} deletes or changes rows of other"
                    " tenants, too, because PostgreSQL applies no policies to what ON DELETE does;"
                    f" {self.fix_of(each)}drop its ON DELETE"
                )

    def held(self) -> dict[Reference, int]:
        """Return the foreign keys by which rows of other tenants need some that go, with counts.

        Such are other tenants' own rows, and what they share: of other tables, the policies show
        no rows of theirs.
        """
        found = {}
        with tenant_context(self.tenant.pk):
            for each in self.found.references:
                table = self.found.tables.get(each.table)
                if table is None or each.target not in self.doomed:
                    continue
                if not (table.is_tenants or is_open(table.model, apps)):
                    continue
                refers = referring(each, self.found.tables[each.target], self.quote)
                others = f"{table.quoted} WHERE ({table.condition}) IS NOT TRUE AND {refers}"
                if each.action in ("a", "r") and (number := self.count(others)):
                    found[each] = number
        return found

    def fix_of(self, reference: Reference) -> str:
        """Return what else keeps PostgreSQL from following `reference` to rows of others."""
        if guard := next(self.guards(reference), None):
            return f"validate {guard.name}, with ValidateSameTenant, or "
        if self.found.tables[reference.table].is_tenants:
            return ""
        return "add SameTenant for it, or "

    def reaches_others(self, reference: Reference) -> bool:
        """Return whether PostgreSQL may change rows of other tenants by a reference to this one."""
        table = self.found.tables.get(reference.table)
        # Those of `also` go as their models say, whoever they are of.
        if reference.action in ("a", "r") or table is None or table.name in self.named_tables:
            return False
        # What stays takes nothing along.
        if reference.target not in self.doomed or set(table.keys) & set(reference.columns):
            return False
        return not any(other.is_valid for other in self.guards(reference))

    def guards(self, reference: Reference) -> Iterator[Reference]:
        """Yield the foreign keys by which only the tenant's own rows can be `reference`'s."""
        keys = self.found.tables[reference.table].keys
        for other in self.found.references:
            if (other.table, other.target) == (reference.table, reference.target) and set(
                other.columns
            ) >= {*reference.columns, *keys}:
                yield other

    def cut(self, reference: Reference, name: str, which: str = "true") -> None:
        """Set a column to NULL in the tenant's rows, so that what they refer to can go.

        Raises CommandError when a trigger sets it to something else again.
        """
        table = self.found.tables[reference.table]
        column = self.quote(name)
        condition = f"{table.condition} AND {column} IS NOT NULL AND {which}"
        rows = f"{table.quoted} WHERE {condition}"
        to_do = self.count(rows)
        update = f"UPDATE {table.quoted} SET {column} = NULL"  # noqa: S608 - quoted
        while number := self.change(update, table, condition):
            to_do -= number
            # As many as there were, and yet there are some: the same ones, or new ones.
            if to_do <= 0 and (left := self.count(rows)):
                raise CommandError(
                    f"{left} rows of {table.name} have a value in {name} after it was set to NULL:"
                    f" a trigger puts it back, or they were added meanwhile. {NOTHING_DELETED}"
                )

    def empty(self, tables: Sequence[Owned], note: Note) -> None:
        """Delete the tenant's rows of tables in batches."""
        for table in tables:
            delete = self.delete_named if table.name in self.named_tables else self.delete
            while number := delete(table):
                note(table.name, number)

    def empty_at_once(self, tables: Sequence[Owned], note: Note) -> None:
        """Delete the tenant's rows of tables that refer to each other in one transaction."""
        named = [table for table in tables if table.name in self.named_tables]
        with transaction.atomic(using=self.connection.alias, durable=True):
            # Before the rows go that say of these whose they are.
            keys = {table.name: self.keys(table) for table in named}
            for table in tables:
                if table not in named:
                    delete = f"DELETE FROM {table.quoted} WHERE {table.condition}"  # noqa: S608 - quoted
                    note(table.name, self.execute(delete))
            # After those that refer to them, which their models may protect them for.
            for table in named:
                for start in range(0, len(keys[table.name]), self.batch):
                    some = keys[table.name][start : start + self.batch]
                    self.delete_by_models(table, some)
                    note(table.name, len(some))

    @cached_property
    def named_tables(self) -> set[str]:
        """The tables of `also`."""
        return {apps.get_model(label)._meta.db_table for label in self.also}

    def delete(self, table: Owned) -> int:
        """Delete a batch of rows, and return how many."""
        return self.change(f"DELETE FROM {table.quoted}", table, table.condition)  # noqa: S608

    def delete_named(self, table: Owned) -> int:
        """Delete a batch of rows as the models say, and return how many."""
        with transaction.atomic(using=self.connection.alias, durable=True):
            keys = self.keys(table, self.batch)
            self.delete_by_models(table, keys)
        return len(keys)

    def delete_by_models(self, table: Owned, keys: Sequence[Any]) -> None:
        """Delete rows as the models say: with what they cascade to, and signals.

        Raises CommandError when one is still there.
        """
        alias = self.connection.alias
        table.model._base_manager.using(alias).filter(pk__in=keys).delete()
        # Not by its manager, which may hide rows that are only marked as deleted.
        if left := QuerySet(table.model, using=alias).filter(pk__in=keys).count():
            raise CommandError(
                f"{left} rows of {table.model._meta.label} are still there after delete(), as with"
                " a manager or a trigger that only marks them; delete them by SQL, and run"
                " delete_tenant again. What has been deleted stays deleted."
            )

    def keys(self, table: Owned, limit: int | None = None) -> list[Any]:
        """Return the primary keys of the tenant's rows, or of so many of them."""
        with self.connection.cursor() as cursor:
            cursor.execute(self.chosen(table, table.condition, limit))
            # The value of a composite key is a tuple.
            return [row if len(row) > 1 else row[0] for row in cursor.fetchall()]

    def change(self, statement: str, table: Owned, condition: str) -> int:
        """Run a statement for a batch of the rows of a condition, in a transaction of its own."""
        chosen = self.chosen(table, condition, self.batch)
        with transaction.atomic(using=self.connection.alias, durable=True):
            return self.execute(f"{statement} WHERE ({self.key(table)}) IN ({chosen})")

    def chosen(self, table: Owned, condition: str, limit: int | None) -> str:
        """Return the query for the keys of rows, or of so many of them."""
        rows = f"FROM {table.quoted} WHERE {condition} LIMIT {limit or 'ALL'}"
        return f"SELECT {self.key(table)} {rows}"

    def key(self, table: Owned) -> str:
        """Return the columns of a table's primary key."""
        return ", ".join(self.quote(each.column) for each in table.model._meta.pk_fields)

    def execute(self, sql: str) -> int:
        """Run a statement, and return how many rows it changed."""
        with self.connection.cursor() as cursor:
            cursor.execute(sql)
            number: int = cursor.rowcount
            return number

    def count(self, what: str) -> int:
        """Return how many rows there are."""
        with self.connection.cursor() as cursor:
            cursor.execute(f"SELECT count(*) FROM {what}")  # noqa: S608 - quoted
            number: int = cursor.fetchone()[0]
            return number


@contextmanager
def explained(advice: str) -> Iterator[None]:
    """Turn what a constraint refuses into a CommandError that says what to do."""
    try:
        yield
    except IntegrityError as error:
        raise CommandError(f"{error} {advice}") from error
