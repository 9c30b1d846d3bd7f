"""The tables that hold rows of a tenant, as the models and the database know them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from django.core.management.base import CommandError

from ..checks.inspection import protected_models
from ..checks.requests import has_protected_models
from ..conf import tenant_model
from ..dependents import concrete_target, protecting_links, writing_links
from ..expressions import current_tenant_sql
from ..protected import protections
from .order import Order, Reference, in_order

# By table: its oid. Not all may be there.
OIDS = (
    "SELECT name, to_regclass(quoted)::oid FROM unnest(%s::text[], %s::text[]) AS t (name, quoted)"
)
# What a CHECK or a unique index says may be true of a few rows that have NULL, and not of all.
COLUMNS = """\
SELECT attrelid, attname, format_type(atttypid, -1), NOT attnotnull,
  EXISTS (SELECT FROM pg_catalog.pg_constraint
    WHERE conrelid = attrelid AND contype = 'c' AND attnum = ANY (conkey))
  OR EXISTS (SELECT FROM pg_catalog.pg_index i
    JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::regclass
      AND d.objid = i.indexrelid
    WHERE d.refclassid = 'pg_catalog.pg_class'::regclass AND d.refobjid = attrelid
      AND d.refobjsubid = attnum AND (indisunique OR indisexclusion)
      AND (indpred IS NOT NULL OR indexprs IS NOT NULL))
  OR EXISTS (SELECT FROM pg_catalog.pg_index
    WHERE indrelid = attrelid AND indnullsnotdistinct AND attnum = ANY (indkey))
FROM pg_catalog.pg_attribute
WHERE attrelid = ANY (%s::oid[]) AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
ORDER BY attrelid, attnum
"""
# Those of a table that others of these are partitions of, and that is none of them, are asked of
# its partitions, each of which has its own.
REFERENCES = """\
WITH RECURSIVE whole(oid) AS (
  SELECT inhparent FROM pg_catalog.pg_inherits JOIN pg_catalog.pg_class p ON p.oid = inhparent
  WHERE inhrelid = ANY (%(oids)s::oid[]) AND inhparent <> ALL (%(oids)s::oid[]) AND relkind = 'p'
  UNION SELECT inhparent FROM pg_catalog.pg_inherits JOIN whole ON inhrelid = whole.oid
  WHERE inhparent <> ALL (%(oids)s::oid[])
)
SELECT c.conname, c.conrelid, c.conrelid::regclass::text, c.confrelid,
  c.confrelid::regclass::text, c.confdeltype::text,
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.conkey) WITH ORDINALITY k (num, n)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = k.num),
  (SELECT array_agg(a.attname::text ORDER BY k.n) FROM unnest(c.confkey) WITH ORDINALITY k (num, n)
    JOIN pg_catalog.pg_attribute a ON a.attrelid = c.confrelid AND a.attnum = k.num),
  c.convalidated
FROM pg_catalog.pg_constraint c LEFT JOIN pg_catalog.pg_constraint p ON p.oid = c.conparentid
WHERE c.contype = 'f' AND NOT ARRAY[c.conrelid, c.confrelid] && ARRAY(TABLE whole)
  AND (p.oid IS NULL OR ARRAY[p.conrelid, p.confrelid] && ARRAY(TABLE whole))
  AND ARRAY[c.conrelid, c.confrelid] && %(oids)s::oid[]
ORDER BY c.conrelid, c.conname
"""


@dataclass(frozen=True)
class Owned:
    """A table, and the SQL condition that a row of it is the current tenant's."""

    name: str
    quoted: str
    model: Any
    condition: str
    # The columns by which a row belongs to its tenant.
    keys: tuple[str, ...] = ()
    # The tables whose rows say the rest, each with the column that does.
    asked: tuple[tuple[str, str], ...] = ()
    is_tenants: bool = False
    # Whether a row is the tenant's by what another of its rows says, which goes first.
    is_linked: bool = False


@dataclass(frozen=True)
class Column:
    """A column of a table, and its type without a length."""

    name: str
    type: str
    nullable: bool
    # Whether a rule of the table speaks of it, which may not let every row have NULL.
    ruled: bool


@dataclass(frozen=True)
class Holdings:
    """All tables with rows of tenants, and what refers to what."""

    tables: dict[str, Owned]
    columns: dict[str, list[Column]]
    # The foreign keys of the database.
    references: list[Reference]

    @cached_property
    def edges(self) -> list[Reference]:
        """What has to be there before what: what the models say, and the foreign keys."""
        return [*deciding(self.tables.values()), *self.references]

    @cached_property
    def order(self) -> Order:
        """The tables in the order in which they can be filled."""
        return in_order(list(self.tables), self.edges)

    def inward(self) -> list[Reference]:
        """Return what refers to these tables from others."""
        return [each for each in self.references if each.table not in self.tables]

    def outward(self) -> list[Reference]:
        """Return what these tables refer to in others."""
        return [each for each in self.references if each.target not in self.tables]


def owned_tables(connection: Any) -> dict[str, Owned]:
    """Return the tables that hold rows of tenants, and those of the tenant itself, by name.

    Raises CommandError when protected tables are all in other databases.
    """
    quote = connection.ops.quote_name
    found = {}
    protected = protected_models(connection)
    if not protected and has_protected_models():
        raise CommandError(
            f"the database {connection.alias!r} has none of the protected tables, as"
            " allow_migrate() of DATABASE_ROUTERS says; name the one with --database that has them"
        )
    for model in protected:
        name = model._meta.db_table
        condition, keys = ownership(model, quote)
        found[name] = Owned(name, quote(name), model, condition, keys, tuple(asked(model)))
    tenants = tenant_model()._meta.concrete_model
    condition = f"{quote(tenants._meta.pk.column)} = {current_tenant_sql()}"
    for table in tables_of(tenants, condition, quote):
        # One that is protected itself has a condition of its own.
        found[table.name] = replace(found.get(table.name, table), is_tenants=True)
    return found


def tables_of(model: Any, own: str, quote: Any, *, is_linked: bool = False) -> Iterator[Owned]:
    """Yield the table of the tenant's model, or of a parent, whose row is `own`, and its parents'.

    A link need not be the key: there may be another one, or several parents.
    """
    options = model._meta
    name, key = options.db_table, options.pk.column
    yield Owned(name, quote(name), model, own, (key,), is_tenants=True, is_linked=is_linked)
    for parent, link in options.parents.items():
        column = quote(link.target_field.column)
        if link.column == key and not is_linked:
            yield from tables_of(parent, f"{column} = {current_tenant_sql()}", quote)
        else:
            rows = f"SELECT {quote(link.column)} FROM {quote(name)} WHERE {own}"  # noqa: S608 - quoted
            yield from tables_of(parent, f"{column} IN ({rows})", quote, is_linked=True)


def ownership(model: Any, quote: Any) -> tuple[str, tuple[str, ...]]:
    """Return the SQL that a row is the tenant's own, and the columns that decide it.

    The policies let a tenant read what others share with it, too, so their rule is not enough. Of
    the two rows that a ManyToManyField relates, the one whose model declares it has to be its.
    """
    table = quote(model._meta.db_table)
    apps = model._meta.apps
    protection = protections(apps).get(model._meta.db_table)
    if protection is not None:
        way = protection.way
        first = way.hops[0].column if way.hops else way.column
        return way.holds_sql(table, current_tenant_sql(), quote), (first,)
    links = writing_links(model, apps)
    conditions = []
    for link in links:
        options = concrete_target(link, apps)._meta
        inner, _ = ownership(options.model, quote)
        conditions.append(
            f"{table}.{quote(link.column)} IN (SELECT {quote(options.pk.column)}"  # noqa: S608
            f" FROM {quote(options.db_table)} WHERE {inner})"
        )
    return f"({' AND '.join(conditions)})", tuple(link.column for link in links)


def asked(model: Any) -> Iterator[tuple[str, str]]:
    """Yield the tables, and a column of each, that a row needs to be seen as the tenant's own."""
    apps = model._meta.apps
    if protection := protections(apps).get(model._meta.db_table):
        way = protection.way
        columns = [*(hop.column for hop in way.hops), way.column]
        yield from zip((hop.table for hop in way.hops), columns[1:], strict=True)
    for link in protecting_links(model, apps):
        other = concrete_target(link, apps)._meta
        yield other.db_table, other.pk.column


def deciding(tables: Iterable[Owned]) -> Iterator[Reference]:
    """Yield what says of rows whose they are, be it a foreign key of the database or not.

    The tenant is before all of its rows, so that a removal that was interrupted finds it again.
    """
    tenants = tenant_model()._meta.concrete_model._meta.db_table
    for table in tables:
        targets = {name for name, _ in table.asked}
        if not table.is_tenants:
            targets.add(tenants)
        for target in sorted(targets):
            yield Reference("", table.name, table.keys, target, (), decides=True)


def holdings(connection: Any, cursor: Any, extra: Sequence[Owned] = ()) -> Holdings:
    """Return the tables with rows of tenants as they are in the database, and `extra` ones.

    Raises CommandError when one is not there.
    """
    tables = owned_tables(connection) | {each.name: each for each in extra}
    cursor.execute(OIDS, [list(tables), [each.quoted for each in tables.values()]])
    oids = dict(cursor.fetchall())
    if missing := sorted(name for name, oid in oids.items() if oid is None):
        raise CommandError(
            f"the database {connection.alias!r} lacks {', '.join(missing)}; run migrate"
        )
    names = {oid: name for name, oid in oids.items()}
    columns: dict[str, list[Column]] = {name: [] for name in tables}
    cursor.execute(COLUMNS, [list(names)])
    for oid, *column in cursor.fetchall():
        columns[names[oid]].append(Column(*column))
    decisive = {each for table in tables.values() for each in table.asked}
    references = []
    cursor.execute(REFERENCES, {"oids": list(names)})
    for name, oid, table, target_oid, target_name, action, cols, keys, valid in cursor.fetchall():
        table = names.get(oid, table)
        fixed = tables[table].keys if table in tables else ()
        own = {
            each.name: each
            for each in columns.get(table, ())
            # What says whose rows are, of this table or of others, has to stay until they go.
            if each.name not in fixed and (table, each.name) not in decisive
        }
        nullable = [each for each in cols if each in own and own[each].nullable]
        loose = [each for each in nullable if not own[each].ruled]
        # Nothing has to be there for the tenant's own row to be its.
        decides = set(cols) <= set(fixed) and not tables[table].is_tenants
        references.append(
            Reference(
                name,
                table,
                tuple(cols),
                names.get(target_oid, target_name),
                tuple(keys),
                action,
                next(iter(nullable), None),
                next(iter(loose), None),
                decides=decides,
                is_valid=valid,
            )
        )
    return Holdings(tables, columns, references)


def referring(reference: Reference, to: Owned, quote: Any) -> str:
    """Return the SQL that a row of another table refers to a row of the tenant."""
    columns = ", ".join(map(quote, reference.columns))
    keys = ", ".join(map(quote, reference.keys))
    return f"({columns}) IN (SELECT {keys} FROM {to.quoted} WHERE {to.condition})"  # noqa: S608
