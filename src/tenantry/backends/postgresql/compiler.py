"""Compilers that put the tenant into ORM SQL, so that PostgreSQL can use its indexes.

The predicate reads the binding when SQL is compiled, which is when a queryset is executed. The
policy remains the guarantee; this is for the planner. Under the admin there is no predicate, and
unbound it compares with NULL, which PostgreSQL knows to be empty before it reads anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from django.core.exceptions import FullResultSet
from django.db.backends.postgresql import compiler

from ...binding import Binding, TenantId, current_binding
from ...conf import rls_tenants
from ...exceptions import ScopeError
from ...protected import Protection, protections, require_tenant

# Django 6.1 renamed it.
QUOTE_NAME = (
    "quote_name" if hasattr(compiler.SQLCompiler, "quote_name") else "quote_name_unless_alias"
)
EXPECTED = "CASE WHEN {} THEN 1 END IS NOT NULL"


class TenantEquals:
    """Be the SQL condition that a row is the tenant's."""

    def __init__(self, alias: str, protection: Protection, tenant_id: TenantId | None) -> None:
        self.alias = alias
        self.owner = protection.owner
        self.tenant_id = tenant_id
        # Whether the policy says the same, of a column of the row itself.
        self.is_exact = not protection.is_shared and not protection.owner.hops
        self.is_expected = False

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Return the condition and its one parameter."""
        alias = getattr(compiler, QUOTE_NAME)(self.alias)
        sql = self.owner.equals(alias, connection.ops.quote_name)
        # Of an expression without statistics, PostgreSQL expects 0.995 not to be NULL
        # (DEFAULT_NOT_UNK_SEL in its src/include/utils/selfuncs.h).
        return EXPECTED.format(sql) if self.is_expected else sql, [self.tenant_id]


class ScopedWhere:
    """Be a WHERE clause and the tenant predicates that are added to it.

    The clause of the query stays what it is: it may be compiled again for another tenant.
    """

    def __init__(self, where: Any, predicates: Collection[TenantEquals]) -> None:
        self.where = where
        self.predicates = predicates

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Return all conditions; an empty WHERE clause matches every row."""
        conditions: list[str] = []
        params: list[Any] = []
        for node in (self.where, *self.predicates) if self.where else self.predicates:
            try:
                sql, values = node.as_sql(compiler, connection)
            except FullResultSet:
                continue
            conditions.append(sql)
            params += values
        return (f"({' AND '.join(conditions)})" if conditions[1:] else conditions[0]), params


class ScopedMixin:
    """Find the protected tables among those of a query."""

    query: Any
    connection: Any

    def tenant_predicates(self, tables: Iterable[tuple[str, str]]) -> dict[str, TenantEquals]:
        """Return the predicate of each alias in `tables`, of alias and name, that is protected."""
        binding = self.binding()
        if binding.is_admin or self.query.model is None:
            return {}
        protected = protections(self.query.model._meta.apps)
        predicates = {
            alias: TenantEquals(alias, protected[table], binding.tenant_id)
            for alias, table in tables
            if table in protected and binding.bypass not in protected[table].flags
        }
        if predicates and binding.tenant_id is None:
            scoped = {table for alias, table in tables if alias in predicates}
            require_tenant(self.query.model._meta.apps, scoped)
        if getattr(self.query, "tenantry_shared", False):
            # The policy knows which rows of others are shared.
            predicates.pop(self.query.base_table, None)
        return predicates

    def binding(self) -> Binding:
        """Return the binding of the query: that of ``for_user()``, or else the current one."""
        current = current_binding()
        wanted: Binding | None = getattr(self.query, "tenantry_binding", None)
        if wanted is None or wanted == current:
            return current
        if self.query.subquery:
            raise ScopeError(
                "a queryset of for_user() is in a subquery of a statement that runs as somebody"
                " else; call for_user() on the outer queryset too, with the same user"
            )
        return wanted


class ScopedWhereMixin(ScopedMixin):
    """Scope UPDATE and DELETE, whose one table is the base table."""

    @property
    def statement(self) -> Any:
        """The query that becomes the statement."""
        return self.query

    def compile(self, node: Any) -> tuple[str, Any]:
        """Compile `node`; the statement's own WHERE clause gets the predicate.

        The base table counts even if nothing refers to it: Django drops the reference when it
        updates a parent's table too.
        """
        statement = self.statement
        if node is statement.where:
            alias = statement.base_table
            predicates = self.tenant_predicates([(alias, statement.alias_map[alias].table_name)])
            if predicates:
                return ScopedWhere(node, predicates.values()).as_sql(self, self.connection)
        sql, params = super().compile(node)  # type: ignore[misc]
        return sql, params


class ScopedDeleteMixin(ScopedWhereMixin):
    """Scope DELETE; one that needs joins is a DELETE by the keys of a scoped SELECT."""

    statement: Any = None

    def _as_sql(self, query: Any) -> tuple[str, Any]:
        self.statement = query
        sql, params = super()._as_sql(query)  # type: ignore[misc]
        return sql, params


class ScopedSelectMixin(ScopedMixin):
    """Scope SELECT: joined tables in ON, all others in WHERE.

    What ``select_related`` fetches, a row at a time by its key, is the tenant's whenever the row is
    that refers to it. PostgreSQL does not know, and would expect to join most of the tenant's rows
    before it has filled a page: there the predicate is one that it expects to be true.
    """

    where: Any
    # The aliases that select_related has added.
    followed: Collection[str] = ()

    def setup_query(self, *args: Any, **kwargs: Any) -> None:
        """Set up the query; remember which joins only fetch what its rows refer to."""
        counts = self.query.alias_refcount
        before = {alias for alias in counts if counts[alias]} if self.query.select_related else None
        super().setup_query(*args, **kwargs)  # type: ignore[misc]
        if before is not None:
            self.followed = {alias for alias in counts if counts[alias]} - before

    def get_from_clause(self) -> tuple[list[str], Any]:
        """Return the FROM clause. All aliases are final by now, and WHERE is compiled next."""
        query = self.query
        if current_binding().is_admin and "tenantry_binding" not in query.__dict__:
            clauses, params = super().get_from_clause()  # type: ignore[misc]
            return clauses, params
        sources = query.alias_map
        active = [alias for alias in sources if query.alias_refcount[alias]]
        clauses, params = super().get_from_clause()  # type: ignore[misc]
        tables = [(alias, sources[alias].table_name) for alias in active]
        if query.extra_tables:
            tables += [(query.table_map[table][0], table) for table in query.extra_tables]
        predicates = self.tenant_predicates(tables)
        if not predicates:
            return clauses, params
        self.expect_followed(predicates)
        # Where Django trims joins from the start of a subquery, the first alias has no reference
        # left, so that query.base_table is none of the tables here.
        joins = {
            alias: predicates.pop(alias)
            for alias in active
            if sources[alias].join_type and alias in predicates
        }
        if predicates:
            self.where = ScopedWhere(self.where, predicates.values())
        return clauses, self.scope_joins(joins, active, clauses, params) if joins else params

    def expect_followed(self, predicates: Mapping[str, TenantEquals]) -> None:
        """Expect the predicates to be true of what is fetched by key from rows of the tenant.

        Where the admin is a role, the policy is a comparison that PostgreSQL expects to select as
        much as the predicate does. It takes both for one if the predicate stays what it is, and
        for part of the join if there is a foreign key that holds the tenant.
        """
        if rls_tenants().admin_role is not None:
            return
        sources = self.query.alias_map
        for alias in self.followed:
            join = sources[alias]
            if join.join_type and alias in predicates and predicates[alias].is_exact:
                start = predicates.get(join.parent_alias)
                by_key = join.join_field.many_to_one or join.join_field.one_to_one
                predicates[alias].is_expected = by_key and start is not None and start.is_exact

    def scope_joins(
        self,
        joins: Mapping[str, TenantEquals],
        aliases: Iterable[str],
        clauses: list[str],
        params: Iterable[Any],
    ) -> list[Any]:
        """Put predicates into the ON clauses of joins, and return the parameters of all clauses.

        A row of another tenant is joined as if it did not exist, and LEFT JOIN keeps its meaning.
        """
        scoped_params = list(params)
        position = 0
        for index, alias in enumerate(aliases):
            position += placeholders(clauses[index])
            if alias in joins:
                # Django ends a join with its parenthesised ON clause.
                condition, values = joins[alias].as_sql(self, self.connection)
                clauses[index] = f"{clauses[index].removesuffix(')')} AND {condition})"
                scoped_params[position:position] = values
                position += len(values)
        return scoped_params


class SQLCompiler(ScopedSelectMixin, compiler.SQLCompiler):
    """Scope SELECT."""


class StrictInsertMixin(ScopedMixin):
    """Leave INSERT to the policy, which checks rows as they are written, but be strict."""

    def as_sql(self) -> list[tuple[str, Any]]:
        """Return the statements; raise NoTenantContextError where strict mode wants a scope."""
        if rls_tenants().strict_mode:
            table = self.query.get_meta().db_table
            self.tenant_predicates([(table, table)])
        statements: list[tuple[str, Any]] = super().as_sql()  # type: ignore[misc]
        return statements


class SQLInsertCompiler(StrictInsertMixin, compiler.SQLInsertCompiler):  # type: ignore[misc]
    """Be Django's, but strict."""


class SQLUpdateCompiler(ScopedWhereMixin, compiler.SQLUpdateCompiler):
    """Scope UPDATE."""


class SQLDeleteCompiler(ScopedDeleteMixin, compiler.SQLDeleteCompiler):
    """Scope DELETE."""


class SQLAggregateCompiler(compiler.SQLAggregateCompiler):
    """Be Django's: what it aggregates over is a scoped SELECT."""


def placeholders(sql: str) -> int:
    """Return how many parameters `sql` takes."""
    return sql.replace("%%", "").count("%s")
