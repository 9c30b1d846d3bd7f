"""Compilers that put the tenant into ORM SQL, so that PostgreSQL can use its indexes.

The predicate reads the binding when SQL is compiled, which is when a queryset is executed. The
policy remains the guarantee; this is for the planner. Under the admin there is no predicate, and
unbound it compares with NULL, which PostgreSQL knows to be empty before it reads anything.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from django.db.backends.postgresql import compiler
from django.db.models.sql.where import AND, WhereNode

from ...binding import TenantId, current_binding
from ...protected import tenant_columns

# Django 6.1 renamed it.
QUOTE_NAME = (
    "quote_name" if hasattr(compiler.SQLCompiler, "quote_name") else "quote_name_unless_alias"
)


class TenantEquals:
    """Be the SQL condition that a column holds the tenant."""

    # What Django asks of the children of a WHERE clause.
    conditional = True
    contains_aggregate = False
    contains_over_clause = False

    def __init__(self, alias: str, column: str, tenant_id: TenantId | None) -> None:
        self.alias = alias
        self.column = column
        self.tenant_id = tenant_id

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Return the condition and its one parameter."""
        alias = getattr(compiler, QUOTE_NAME)(self.alias)
        return f"{alias}.{connection.ops.quote_name(self.column)} = %s", [self.tenant_id]


class ScopedMixin:
    """Find the protected tables of a query, and scope them."""

    query: Any
    connection: Any

    def tenant_predicates(self) -> dict[str, TenantEquals]:
        """Return the predicate of each alias in the query's FROM clause that is protected."""
        query = self.query
        binding = current_binding()
        if binding.is_admin or query.model is None:
            return {}
        columns = tenant_columns(query.model._meta.apps)
        return {
            alias: TenantEquals(alias, columns[source.table_name], binding.tenant_id)
            for alias, source in query.alias_map.items()
            if source.table_name in columns and query.alias_refcount[alias]
        }


class ScopedWhereMixin(ScopedMixin):
    """Scope UPDATE and DELETE, whose one table is the base table."""

    def compile(self, node: Any) -> tuple[str, Any]:
        """Compile `node`; the statement's own WHERE clause gets the predicate."""
        if node is self.query.where:
            predicate = self.tenant_predicates().get(self.query.base_table)
            # A copy, for this method to know the query's own clause from its part of the new one.
            node = conjunction(copy(node), predicate) if predicate else node
        sql, params = super().compile(node)  # type: ignore[misc]
        return sql, params


def conjunction(where: WhereNode, predicate: TenantEquals) -> WhereNode:
    """Return a new WHERE clause; the one of the query may be compiled again for another tenant."""
    children: list[Any] = [where, predicate] if where else [predicate]
    return WhereNode(children, AND)


class ScopedSelectMixin(ScopedMixin):
    """Scope SELECT: the base table in WHERE, joined tables in ON."""

    where: WhereNode

    def get_from_clause(self) -> tuple[list[str], Any]:
        """Return the FROM clause. All aliases are final by now, and WHERE is compiled next."""
        predicates = self.tenant_predicates()
        if base_predicate := predicates.pop(self.query.base_table, None):
            self.where = conjunction(self.where, base_predicate)
        active = [alias for alias in self.query.alias_map if self.query.alias_refcount[alias]]
        clauses, params = super().get_from_clause()  # type: ignore[misc]
        if not predicates:
            return clauses, params
        scoped_params = list(params)
        position = 0
        for index, alias in enumerate(active):
            position += placeholders(clauses[index])
            if alias in predicates:
                # Django ends a join with its parenthesised ON clause, and so keeps LEFT JOIN's
                # meaning: a row of another tenant is joined as if it did not exist.
                condition, values = predicates[alias].as_sql(self, self.connection)
                clauses[index] = f"{clauses[index].removesuffix(')')} AND {condition})"
                scoped_params[position:position] = values
                position += len(values)
        return clauses, scoped_params


class SQLCompiler(ScopedSelectMixin, compiler.SQLCompiler):
    """Scope SELECT."""


class SQLInsertCompiler(compiler.SQLInsertCompiler):
    """Be Django's: the policy checks rows as they are written."""


class SQLUpdateCompiler(ScopedWhereMixin, compiler.SQLUpdateCompiler):
    """Scope UPDATE."""


class SQLDeleteCompiler(ScopedWhereMixin, compiler.SQLDeleteCompiler):
    """Scope DELETE; one that needs joins is a DELETE by the keys of a scoped SELECT."""


class SQLAggregateCompiler(compiler.SQLAggregateCompiler):
    """Be Django's: what it aggregates over is a scoped SELECT."""


def placeholders(sql: str) -> int:
    """Return how many parameters `sql` takes."""
    return sql.replace("%%", "").count("%s")
