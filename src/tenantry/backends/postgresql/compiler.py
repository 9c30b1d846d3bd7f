"""Compilers that put the tenant into ORM SQL, so that PostgreSQL can use its indexes.

The predicate reads the binding when SQL is compiled, which is when a queryset is executed. The
policy remains the guarantee; this is for the planner. Under the admin there is no predicate, and
unbound it compares with NULL, which PostgreSQL knows to be empty before it reads anything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, MutableMapping
from typing import Any

from django.core.exceptions import FullResultSet
from django.db.backends.postgresql import compiler
from django.db.models.sql.constants import LOUTER
from django.db.models.sql.datastructures import BaseTable

from ...binding import Binding, TenantId, current_binding
from ...conf import rls_tenants
from ...exceptions import ScopeError
from ...mixins import Base
from ...protected import Protection, protections
from ...queries import binding_of_query, of_base
from ...strict import require_tenant

# Django 6.1 renamed it.
QUOTE_NAME = (
    "quote_name" if hasattr(compiler.SQLCompiler, "quote_name") else "quote_name_unless_alias"
)


class ScopedWhere:
    """A WHERE clause and a condition on the tenant that is added to it.

    The clause of the query stays what it is: it may be compiled again for another tenant.
    """

    __slots__ = ("condition", "params", "where")

    def __init__(self, where: Any, condition: str, params: list[Any]) -> None:
        self.where = where
        self.condition = condition
        self.params = params

    def as_sql(self, compiler: Any, connection: Any) -> tuple[str, list[Any]]:
        """Return all conditions; an empty WHERE clause matches every row."""
        where = self.where
        if where is not None and where.children:
            try:
                sql, params = where.as_sql(compiler, connection)
            except FullResultSet:
                pass
            else:
                return f"({sql} AND {self.condition})", [*params, *self.params]
        return self.condition, self.params

    # Where Django looks first.
    as_postgresql = as_sql


class ScopedMixin(Base):  # type: ignore[misc]
    """Find the protected tables among those of a query."""

    query: Any
    connection: Any
    quote_cache: dict[str, str]

    def protected(
        self, binding: Binding, tables: Collection[tuple[str, str]]
    ) -> dict[str, Protection]:
        """Return the aliases in `tables`, of alias and name, whose rows are filtered."""
        query = self.query
        if binding.is_admin or query.model is None:
            return {}
        # Asked by get(): Python takes longer to look into a subclass of dict by operators.
        protected, bypass = protections(query.model._meta.apps), binding.bypass
        found = {
            alias: protection
            for alias, table in tables
            if (protection := protected.get(table)) and bypass not in protection.flags
        }
        if binding.tenant_id is None:
            # Tables without a condition of their own may be protected too.
            names = [table for _, table in tables]
            require_tenant(query, names, binding.bypass)
        if "tenantry_shared" in query.__dict__:
            # The policy knows which rows of others are shared.
            for alias in of_base(query):
                found.pop(alias, None)
        return found

    def quoted(self, alias: str) -> str:
        """Return an alias as SQL."""
        quoted: str = self.quote_cache.get(alias) or getattr(self, QUOTE_NAME)(alias)
        return quoted

    def condition(self, quoted: str, protection: Protection) -> str:
        """Return the SQL condition that a row of the quoted alias is the tenant's."""
        known = protection.conditions.get(quoted)
        return known or protection.condition(quoted, self.connection.ops.quote_name)

    def binding(self) -> Binding:
        """Return the binding of the query: that of ``for_user()``, or else the current one."""
        current = current_binding()
        wanted = binding_of_query(self.query)
        if wanted is None or wanted.sees_as(current):
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
            alias, binding = statement.base_table, self.binding()
            found = self.protected(binding, [(alias, statement.alias_map[alias].table_name)])
            if found:
                condition = self.condition(self.quoted(alias), found[alias])
                scoped = ScopedWhere(node, condition, [binding.tenant_id])
                return scoped.as_sql(self, self.connection)
        sql, params = super().compile(node)
        return sql, params


class ScopedDeleteMixin(ScopedWhereMixin):
    """Scope DELETE; one that needs joins is a DELETE by the keys of a scoped SELECT."""

    statement: Any = None

    def _as_sql(self, query: Any) -> tuple[str, Any]:
        self.statement = query
        sql, params = super()._as_sql(query)
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

    def get_related_selections(
        self,
        select: Any,
        select_mask: Any,
        opts: Any = None,
        root_alias: Any = None,
        cur_depth: int = 1,
        requested: Any = None,
        restricted: Any = None,
    ) -> list[Any]:
        """Add what ``select_related`` fetches; remember which joins only fetch it."""
        counts = self.query.alias_refcount
        # It calls itself, with more arguments, for what is related to what is related. All have
        # their names here, because Python takes longer to pass on those that have none.
        before = {alias for alias in counts if counts[alias]} if opts is None else None
        related: list[Any] = super().get_related_selections(
            select, select_mask, opts, root_alias, cur_depth, requested, restricted
        )
        if before is not None:
            self.followed = {alias for alias in counts if counts[alias]} - before
        return related

    def get_combinator_sql(self, *args: Any, **kwargs: Any) -> tuple[list[str], list[Any]]:
        """Return the SQL of ``union()`` and its like; raise ScopeError for rows of two users."""
        binding = self.binding()
        for part in self.query.combined_queries:
            wanted = binding_of_query(part)
            if wanted is not None and not wanted.sees_as(binding) and not part.is_empty():
                raise ScopeError(
                    f"{self.query.combinator}() takes querysets of one user; call for_user() with"
                    " the same user on each, or open a tenant_context() around the statement"
                )
        sql, params = super().get_combinator_sql(*args, **kwargs)
        return sql, params

    def get_from_clause(self) -> tuple[list[str], Any]:
        """Return the FROM clause. All aliases are final by now, and WHERE is compiled next."""
        query = self.query
        options = query.__dict__
        binding = self.binding() if "tenantry_binding" in options else current_binding()
        if binding.is_admin:
            clauses, params = super().get_from_clause()
            return clauses, params
        tenant_id, sources = binding.tenant_id, query.alias_map
        # First what is usual, a tenant's query of one table, without a call.
        if (
            tenant_id is None
            or len(sources) != 1
            or query.extra_tables
            or "tenantry_shared" in options
        ):
            return self.scope_all(binding)
        [(alias, table)] = sources.items()
        protection = protections(query.model._meta.apps).get(table.table_name)
        quoted = self.quote_cache.get(alias) or self.quoted(alias)
        if protection is not None:
            condition = protection.conditions.get(quoted) or self.condition(quoted, protection)
            self.where = ScopedWhere(self.where, condition, [tenant_id])
        if type(table) is BaseTable and alias == table.table_name:
            # As it compiles itself.
            return [quoted], []
        sql, params = self.compile(table)
        return [sql], params

    def scope_all(self, binding: Binding) -> tuple[list[str], Any]:
        """Scope every table of a query that has a condition of its own."""
        query = self.query
        sources = query.alias_map
        # Before Django adds the aliases of extra tables.
        active = [alias for alias in sources if query.alias_refcount[alias]]
        clauses, params = super().get_from_clause()
        tables = [(alias, sources[alias].table_name) for alias in active]
        if query.extra_tables:
            tables += [(query.table_map[table][0], table) for table in query.extra_tables]
        found = self.protected(binding, tables)
        if not found:
            return clauses, params
        conditions = {
            alias: self.condition(self.quoted(alias), protection)
            for alias, protection in found.items()
        }
        if self.followed:
            self.expect_followed(found, conditions)
        params = self.scope_joins(found, conditions, active, clauses, params, binding.tenant_id)
        if conditions:
            params_of_where = [binding.tenant_id] * len(conditions)
            self.where = ScopedWhere(self.where, " AND ".join(conditions.values()), params_of_where)
        return clauses, params

    def expect_followed(
        self, found: Mapping[str, Protection], conditions: MutableMapping[str, str]
    ) -> None:
        """Expect the conditions to be true of what is fetched by key from rows of the tenant.

        Where the admin is a role, the policy is a comparison that PostgreSQL expects to select as
        much as the condition does. It takes both for one if the condition stays what it is, and
        for part of the join if there is a foreign key that holds the tenant.
        """
        if rls_tenants().admin_role is not None:
            return
        sources = self.query.alias_map
        for alias in self.followed:
            join = sources[alias]
            if join.join_type and alias in found and found[alias].is_exact:
                start = found.get(join.parent_alias)
                by_key = join.join_field.many_to_one or join.join_field.one_to_one
                if by_key and start is not None and start.is_exact:
                    # PostgreSQL expects 0.995 of an expression without statistics not to be NULL
                    # (DEFAULT_NOT_UNK_SEL in its src/include/utils/selfuncs.h).
                    conditions[alias] = f"CASE WHEN {conditions[alias]} THEN 1 END IS NOT NULL"

    def scope_joins(
        self,
        found: Mapping[str, Protection],
        conditions: MutableMapping[str, str],
        aliases: Iterable[str],
        clauses: list[str],
        params: Iterable[Any],
        tenant_id: TenantId | None,
    ) -> list[Any]:
        """Move conditions into the ON clauses of joins, and return the parameters of all clauses.

        A row of another tenant is joined as if it did not exist, and LEFT JOIN keeps its meaning.
        """
        sources = self.query.alias_map
        scoped_params = list(params)
        is_counted = bool(scoped_params)
        position = 0
        # The columns, by alias, that are the tenant wherever there is a row.
        known: set[tuple[str, str]] = set()
        for index, alias in enumerate(aliases):
            join = sources[alias]
            kind = join.join_type
            if is_counted:
                position += placeholders(clauses[index])
            if alias in found:
                way = found[alias].way
                if not way.hops:
                    known.add((alias, way.column))
                # Where Django trims joins from the start of a subquery, the first alias has no
                # reference left, so that query.base_table is none of the tables here.
                if kind:
                    # Django ends a join with its parenthesised ON clause.
                    clauses[index] = (
                        f"{clauses[index].removesuffix(')')} AND {conditions.pop(alias)})"
                    )
                    scoped_params.insert(position, tenant_id)
                    position += 1
            for column, other in getattr(join, "join_cols", ()):
                parent = join.parent_alias
                if (parent, column) in known:
                    known.add((alias, other))
                    if kind == sources[parent].join_type == LOUTER:
                        there = self.is_there(parent, column)
                        clauses[index] = f"{clauses[index].removesuffix(')')} AND {there})"
        return scoped_params

    def is_there(self, alias: str, column: str) -> str:
        """Return the SQL condition that LEFT JOIN has found a row of `alias`.

        It adds nothing to a comparison with the column. But from 16 on, where ON clauses before say
        what the column equals, PostgreSQL may leave that comparison out, and then joins the
        tenant's rows to what is missing.
        """
        return f"{self.quoted(alias)}.{self.quoted(column)} IS NOT NULL"


class SQLCompiler(ScopedSelectMixin, compiler.SQLCompiler):
    """Scope SELECT."""


class StrictInsertMixin(ScopedMixin):
    """Leave INSERT to the policy, which checks rows as they are written, but be strict."""

    def as_sql(self) -> list[tuple[str, Any]]:
        """Return the statements; raise NoTenantContextError where strict mode wants a scope."""
        if rls_tenants().strict_mode:
            table = self.query.get_meta().db_table
            self.protected(self.binding(), [(table, table)])
        statements: list[tuple[str, Any]] = super().as_sql()
        return statements


class SQLInsertCompiler(StrictInsertMixin, compiler.SQLInsertCompiler):  # type: ignore[misc]
    """Django's compiler of INSERT, but strict."""


class SQLUpdateCompiler(ScopedWhereMixin, compiler.SQLUpdateCompiler):
    """Scope UPDATE."""


class SQLDeleteCompiler(ScopedDeleteMixin, compiler.SQLDeleteCompiler):
    """Scope DELETE."""


class SQLAggregateCompiler(compiler.SQLAggregateCompiler):
    """Django's compiler: what it aggregates over is a scoped SELECT."""


def placeholders(sql: str) -> int:
    """Return how many parameters `sql` takes."""
    return sql.replace("%%", "").count("%s")
