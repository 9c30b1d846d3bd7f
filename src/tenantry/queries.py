"""What querysets here add to Django's queries, which subqueries and SQL are made of."""

from __future__ import annotations

from typing import Any, NoReturn

from django.core.exceptions import FullResultSet
from django.db.models import BooleanField, OneToOneField, Value
from django.db.models.sql import AND, Query
from django.db.models.sql.datastructures import BaseTable

from .binding import Binding
from .exceptions import ScopeError


class OfUser(Value):
    """A condition that holds in a query of ``for_user()``, and is refused in any other.

    Where a queryset of another class is on the left of an operator, Django copies the conditions of
    the right one into its query, and not whose they are.
    """

    def __init__(self) -> None:
        super().__init__(True, output_field=BooleanField())

    def as_sql(self, compiler: Any, connection: Any) -> NoReturn:
        """Add nothing to SQL; raise ScopeError in a query that has forgotten its user."""
        if binding_of_query(compiler.query) is not None:
            raise FullResultSet
        raise ScopeError(
            "a queryset of for_user() is combined with one whose class is not RLSQuerySet, which"
            " would forget the user; make it a subclass of RLSQuerySet and call for_user() on both,"
            " or open a tenant_context() around both"
        )


class TableOfBase(BaseTable):
    """The first table of a query, of its own objects, where Django has taken its base table away.

    The class, for Django copies nothing else where it gives the table another alias.
    """


class SharedQuery(Query):
    """A query that has the rows that other tenants share.

    For what exclude() leaves out by related rows, Django asks with another of the same class.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.tenantry_shared = True

    def trim_start(self, names_with_path: Any) -> Any:
        """Leave out the tables that lead to what exclude() looks at; note if that is a parent's.

        Django does not keep how the first one that stays was joined.
        """
        own = of_base(self)
        found = super().trim_start(names_with_path)
        first = next(alias for alias in self.alias_map if self.alias_refcount[alias])
        if first in own:
            self.alias_map[first] = TableOfBase(self.alias_map[first].table_name, first)
        return found


def binding_of_query(query: Any) -> Binding | None:
    """Return the binding that a query of ``for_user()`` is evaluated in; None of any other."""
    found: Binding | None = query.__dict__.get("tenantry_binding")
    return found


def bind(query: Any, binding: Binding) -> None:
    """Make `query` one that is evaluated in `binding`."""
    if binding_of_query(query) is None:
        query.where.add(OfUser(), AND)
    query.tenantry_binding = binding


def includes_shared(query: Any) -> bool:
    """Return whether a query has the rows that other tenants share."""
    return "tenantry_shared" in query.__dict__


def share(query: Any) -> None:
    """Add the rows that other tenants share to a query."""
    # One of another package keeps its class, and what that makes of it.
    if type(query) is Query:
        query.__class__ = SharedQuery
    query.tenantry_shared = True


def unshare(query: Any) -> None:
    """Leave a query without them; what it excludes by related rows stays as it is."""
    del query.tenantry_shared


def of_base(query: Any) -> set[str]:
    """Return the aliases of a query's base table, and of its parents and children in inheritance.

    Their rows are one object.
    """
    found = {query.base_table}
    for alias, join in query.alias_map.items():
        if isinstance(join, TableOfBase):
            found.add(alias)
        elif join.parent_alias in found:
            link = getattr(join, "join_field", None)
            relation = link.remote_field if isinstance(link, OneToOneField) else link
            if getattr(relation, "parent_link", False):
                found.add(alias)
    return found
