"""The rows of a file of ``export_tenant``, inserted into a database that has none of them.

Only the tenant's own row may be there, as in one that has the rows of all tenants.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.core.management.base import CommandError
from django.db import DatabaseError, transaction

from ..backends.postgresql.apply import EXACT_FLOATS
from ..conf import tenant_model
from ..context import tenant_context
from ..runs.databases import bound_database, home_of
from ..runs.tenants import parse_key
from .archive import Reader, Row
from .export import advice, copy_of, meanings
from .tables import Holdings, Owned, holdings

# What one INSERT holds at most: rows, and characters.
ROWS, CHARACTERS = 1000, 4_000_000
SEQUENCES = """\
SELECT t.name, a.attname, s.oid::regclass::text,
  has_sequence_privilege(s.oid, 'UPDATE') AND has_sequence_privilege(s.oid, 'SELECT')
FROM unnest(%s::text[], %s::text[]) AS t (name, quoted)
JOIN pg_catalog.pg_depend d ON d.refclassid = 'pg_class'::regclass
  AND d.refobjid = to_regclass(t.quoted) AND d.classid = 'pg_class'::regclass
  AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
JOIN pg_catalog.pg_class s ON s.oid = d.objid AND s.relkind = 'S'
JOIN pg_catalog.pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
"""


class Restore:
    """Insert the rows of a file as its tenant, which the policies let write no other's rows.

    `database` is an alias; the tenant's own, if there is none.
    """

    def __init__(self, reader: Reader, database: str | None = None) -> None:
        self.reader = reader
        given = reader.header["tenant"]
        if given["model"] != tenant_model()._meta.label:
            raise reader.problem(
                f"holds a tenant of the model {given['model']}, but RLS_TENANTS['TENANT_MODEL'] is"
                f" {tenant_model()._meta.label}"
            )
        self.key = parse_key(given["key"], "the file is of a project whose tenants have other keys")
        self.connection = bound_database(database or home_of(self.key))
        self.columns = {each["table"]: each["columns"] for each in reader.header["tables"]}
        self.counts = dict.fromkeys(self.columns, 0)

    def run(self, *, dry_run: bool = False) -> dict[str, int]:
        """Insert everything in one transaction, or nothing; return how many rows of each table.

        Raises CommandError when some of it is there already, or does not fit the database.
        """
        alias = self.connection.alias
        try:
            with (
                tenant_context(self.key),
                transaction.atomic(using=alias, durable=True),
                self.connection.cursor() as cursor,
            ):
                cursor.execute("SET CONSTRAINTS ALL DEFERRED")
                found = holdings(self.connection, cursor)
                self.require_fit(cursor, found)
                sequences = self.sequences(cursor, found)
                there = set()
                for table, rows in self.batches():
                    if self.is_there(cursor, found.tables[table], rows):
                        there.add(table)
                    else:
                        self.insert(cursor, found, table, rows)
                self.require_all(cursor, found)
                self.counts |= dict.fromkeys(there, 0)
                # Now, where a reference to a row that is not there has a message of its own.
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")
                if dry_run:
                    transaction.set_rollback(True, using=alias)
                else:
                    self.move(cursor, found, sequences)
        except DatabaseError as error:
            raise self.reader.problem(
                f"does not fit the database: {error}{advice('import_tenant', error)}"
            ) from error
        return self.counts

    def require_fit(self, cursor: Any, found: Holdings) -> None:
        """Raise CommandError unless there is room for the rows, and they would mean the same."""
        for table, columns in self.columns.items():
            if table not in found.tables:
                raise self.reader.problem(
                    f"has rows of {table!r}, which is not a protected table in this database;"
                    " migrate both databases to the same state"
                )
            here = {column.name for column in found.columns[table]}
            if missing := sorted(set(columns) - here):
                raise self.reader.problem(
                    f"has columns that {table!r} lacks here: {', '.join(missing)}; migrate both"
                    " databases to the same state"
                )
        for name, value in meanings(cursor, found).items():
            given = self.reader.header[name]
            if name == "content_types":
                value = {key: each for key, each in value.items() if key in given}
            if value != given:
                raise self.reader.problem(
                    f"was written with {name} {given!r}, and this database has {value!r}; they must"
                    " be the same"
                )
        for each in found.tables.values():
            if not each.is_tenants and self.count(cursor, each):
                raise self.reader.problem(
                    f"holds the tenant {self.key}, which has rows in {each.name!r} already; import"
                    " it into another database, or remove them with delete_tenant"
                )

    def count(self, cursor: Any, table: Owned) -> int:
        """Return how many rows of a table are the tenant's."""
        cursor.execute(f"SELECT count(*) FROM {table.quoted} WHERE {table.condition}")  # noqa: S608
        number: int = cursor.fetchone()[0]
        return number

    def batches(self) -> Iterator[tuple[str, list[Row]]]:
        """Yield rows of one table at a time, as many as an INSERT takes."""
        rows: list[Row] = []
        size, before = 0, ""
        for table, row in self.reader.rows():
            if len(row) != len(self.columns.get(table, ())):
                raise self.reader.problem(f"has a row of {table!r} that is not like its header")
            if rows and (table != before or len(rows) >= ROWS or size > CHARACTERS):
                yield before, rows
                rows, size = [], 0
            before = table
            rows.append(row)
            size += sum(len(value) for value in row if value is not None)
            self.counts[table] += 1
        if rows:
            yield before, rows

    def is_there(self, cursor: Any, table: Owned, rows: list[Row]) -> bool:
        """Return whether these rows are the tenant's own, and there.

        Raises CommandError where it is not the same: its key may be that of another tenant.
        """
        if not table.is_tenants:
            return False
        # As the file has it.
        cursor.execute(EXACT_FLOATS)
        query = copy_of(table, map(self.connection.ops.quote_name, self.columns[table.name]))
        with self.connection.wrap_database_errors, cursor.copy(query) as copy:
            there = list(map(list, copy.rows()))
        if there and there != rows:
            raise self.reader.problem(
                f"holds the tenant {self.key}, whose row in {table.name!r} is not the one that is"
                " here; make both the same if they are of the same tenant"
            )
        return bool(there)

    def insert(self, cursor: Any, found: Holdings, table: str, rows: list[Row]) -> None:
        """Insert rows, whose texts PostgreSQL reads as values of the columns' types."""
        quote = self.connection.ops.quote_name
        types = {column.name: column.type for column in found.columns[table]}
        names = self.columns[table]
        # A percent sign would begin a parameter.
        columns = ", ".join(quote(name).replace("%", "%%") for name in names)
        values = ", ".join(f"c{number}::{types[name]}" for number, name in enumerate(names))
        into = found.tables[table].quoted.replace("%", "%%")
        aliases = ", ".join(f"c{number}" for number in range(len(names)))
        arrays = ", ".join(["%s::text[]"] * len(names))
        cursor.execute(
            f"INSERT INTO {into} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608
            f" SELECT {values} FROM unnest({arrays}) AS r ({aliases})",
            [list(column) for column in zip(*rows, strict=True)],
        )

    def require_all(self, cursor: Any, found: Holdings) -> None:
        """Raise CommandError unless the rows that are there now are those of the file."""
        for name, number in self.counts.items():
            there = self.count(cursor, found.tables[name])
            if there != number:
                raise self.reader.problem(
                    f"has {number} rows of {name!r}, of which {there} are the tenant's; see whether"
                    " a trigger of the table changes or drops rows, or a policy hides them"
                )

    def sequences(self, cursor: Any, found: Holdings) -> list[tuple[str, str, str]]:
        """Return the sequences of the tables: table, column and name.

        Raises CommandError if the role may not move one of them.
        """
        tables = [found.tables[name] for name in self.columns]
        cursor.execute(SEQUENCES, [list(self.columns), [each.quoted for each in tables]])
        rows = cursor.fetchall()
        if refused := sorted(name for _, _, name, may in rows if not may):
            raise CommandError(
                "the role may not move the sequences past the imported keys; run import_tenant as"
                " the owner of the tables, or GRANT SELECT, UPDATE ON SEQUENCE"
                f" {', '.join(refused)} TO it"
            )
        return [(table, column, name) for table, column, name, _ in rows]

    def move(self, cursor: Any, found: Holdings, sequences: list[tuple[str, str, str]]) -> None:
        """Let the next keys be greater than the imported ones."""
        quote = self.connection.ops.quote_name
        for table, column, name in sequences:
            rows = (
                f"(SELECT max({quote(column)}) AS top"  # noqa: S608 - quoted
                f" FROM {found.tables[table].quoted}) AS t"
                f" WHERE top >= (SELECT last_value FROM {name})"
            )
            # A percent sign would begin a parameter.
            rows = rows.replace("%", "%%")
            cursor.execute(f"SELECT setval(%s::regclass, top) FROM {rows}", [name])  # noqa: S608 - quoted
