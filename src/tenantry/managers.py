"""``RLSManager`` and its querysets, which can be those of a user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, Self

from django.db import models, router

from .audit import described
from .binding import Binding, current_binding
from .context import ContinuedScope, Scope
from .exceptions import ScopeError
from .peers import PeersIn
from .queries import bind, binding_of_query, includes_shared, share, unshare
from .users import binding_of


def in_scope(name: str) -> Callable[..., Any]:
    """Return the method `name` of Django's querysets, run in the scope of ours."""
    method = getattr(models.QuerySet, name)

    @wraps(method)
    def run(self: RLSQuerySet, *args: Any, **kwargs: Any) -> Any:
        with self.scope():
            return method(self, *args, **kwargs)

    return run


def of_own_rows(name: str) -> Callable[..., Any]:
    """Return the same, of the tenant's own rows: what others share cannot be written."""
    method = in_scope(name)

    @wraps(method)
    def run(self: RLSQuerySet, *args: Any, **kwargs: Any) -> Any:
        if not includes_shared(self.query):
            return method(self, *args, **kwargs)
        own: Any = self._chain()  # type: ignore[attr-defined]
        unshare(own.query)
        # As Django does it for the queryset that it writes.
        self._result_cache = None
        return method(own, *args, **kwargs)

    return run


def of_objects(name: str) -> Callable[..., Any]:
    """Return the same, of objects about each of which routers are asked, as before ``save()``.

    Django asks about none of them. The router of shards refuses those of another server, whose keys
    may be others' on this one.
    """
    method = getattr(models.QuerySet, name)

    @wraps(method)
    def run(self: RLSQuerySet, objs: Iterable[Any], *args: Any, **kwargs: Any) -> Any:
        objs = list(objs)
        with self.scope():
            for each in objs if self._db is None else ():
                # None of a new one that refers to nothing yet.
                if each._state.db is not None:
                    router.db_for_write(self.model, instance=each)
            return method(self, objs, *args, **kwargs)

    return run


def of_fetched(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method that answers from rows that are fetched already, if they are."""

    @wraps(method)
    def run(self: RLSQuerySet, *args: Any, **kwargs: Any) -> Any:
        if self.fetched_as is not None and self._result_cache is not None:
            self.require_reader(self.fetched_as)
        return method(self, *args, **kwargs)

    return run


def operator(name: str, sign: str) -> Callable[..., Any]:
    """Return Django's operator `name` of two querysets that see the same rows."""
    method = getattr(models.QuerySet, name)

    @wraps(method)
    def combine(self: RLSQuerySet, other: Any) -> Any:
        self.require_alike(sign, other)
        return method(self.unsliced() if sign != "&" else self, other)

    return combine


def reflected(name: str, sign: str) -> Callable[..., Any]:
    """Return the operator `name` of a queryset of Django's own and one of ours."""
    method = getattr(models.QuerySet, name)

    def combine(self: RLSQuerySet, other: Any) -> Any:
        self.require_alike(sign, other)
        return method(other, self)

    return combine


def steps(rows: Any, binding: Binding) -> Iterator[Any]:
    """Yield `rows`, each of which is made in a scope of its own."""
    scope = Scope
    try:
        while True:
            with scope(binding):
                try:
                    row = next(rows)
                except StopIteration:
                    return
            scope = ContinuedScope
            yield row
    finally:
        with ContinuedScope(binding):
            rows.close()


async def asteps(rows: Any, binding: Binding) -> AsyncIterator[Any]:
    """Yield `rows`, each of which is made in a scope of its own."""
    scope = Scope
    try:
        while True:
            with scope(binding):
                try:
                    row = await anext(rows)
                except StopAsyncIteration:
                    return
            scope = ContinuedScope
            yield row
    finally:
        with ContinuedScope(binding):
            await rows.aclose()


class RLSQuerySet(models.QuerySet[Any]):
    """A queryset that can run in a user's binding, whoever evaluates it.

    It adds no filter of its own: the backend's compiler scopes every query, whichever queryset it
    comes from, and the database refuses the rest. Rows that it keeps are not asked for again: where
    they were fetched as one tenant, or as the admin, and are read as another tenant, it raises
    ScopeError.
    """

    # Whose rows are kept here. A queryset that outlives a request, or is pickled into a cache, has
    # them without a query, so that neither the compiler nor the database is asked.
    fetched_as: Binding | None = None
    _result_cache: list[Any] | None
    _db: str | None
    # Django has it since 6.1.
    _fetch_mode: Any = None

    def for_user(self, user: object) -> Self:
        """Return this queryset, as `user` sees it: its tenant's rows, all rows, or none.

        It is evaluated in the user's binding, for the ORM's SQL and for the policies alike, and so
        are its writes and prefetches. What its instances load later runs in the binding that is
        current by then. An anonymous user, or None, sees nothing.

        Raises ImproperlyConfigured when the user has no ``rls_tenant_id``, ValueError when a user
        who is not an admin has no tenant, and TypeError for anything that is not a user. Do not use
        it in a subquery, and do not combine it with another user's queryset: a statement has one
        binding, and ScopeError is raised.
        """
        queryset = self._chain()  # type: ignore[attr-defined]
        bind(queryset.query, binding_of(user))
        found: Self = queryset
        return found

    def including_shared(self) -> Self:
        """Return this queryset with the rows that other tenants share with the current one.

        They can be read, not written. For a model whose ``RLSConstraint`` has
        ``extra_predicates``. PostgreSQL then finds the rows by those, and not by the index on the
        tenant. Call it before exclude(), which looks for what it leaves out among the rows that
        the queryset has by then.

        Raises NotSupportedError after union() and its like.
        """
        self._not_support_combined_queries("including_shared")  # type: ignore[attr-defined]
        queryset = self._chain()  # type: ignore[attr-defined]
        share(queryset.query)
        found: Self = queryset
        return found

    @property
    def binding(self) -> Binding | None:
        """The binding of :meth:`for_user`; None where there is none."""
        return binding_of_query(self.query)

    def scope(self) -> AbstractContextManager[object]:
        """Return the scope that this queryset is evaluated in."""
        return nullcontext() if self.binding is None else Scope(self.binding)

    def raw(self, *args: Any, **kwargs: Any) -> Any:
        """Return a raw queryset; raise ScopeError after for_user(), which it would forget."""
        if self.binding is not None:
            raise ScopeError("raw() cannot be used after for_user(); open a tenant_context()")
        return super().raw(*args, **kwargs)

    def iterator(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """Return an iterator, each step of which runs in the scope."""
        self.keep_to_scope()
        if self.binding is None:
            return super().iterator(*args, **kwargs)
        # Django asks routers for the database before there is a step.
        with ContinuedScope(self.binding):
            rows = super().iterator(*args, **kwargs)
        return steps(rows, self.binding)

    def aiterator(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """Return an async iterator, each step of which runs in the scope."""
        self.keep_to_scope()
        rows = super().aiterator(*args, **kwargs)
        return rows if self.binding is None else asteps(rows, self.binding)

    def _fetch_all(self) -> None:
        """Fetch the rows, or raise ScopeError if they are here and another binding's."""
        if self._result_cache is None:
            current = current_binding()
            # Rows of for_user() are the user's wherever they are read; unbound code gets none.
            is_kept = self.binding is None and (current.tenant_id is not None or current.grant)
            self.fetched_as = current if is_kept else None
            self.keep_to_scope()
        elif self.fetched_as is not None:
            self.require_reader(self.fetched_as)
        with self.scope():
            super()._fetch_all()

    def keep_to_scope(self) -> None:
        """Let rows fetch what their peers refer to in the scope that they are fetched in only."""
        mode = self._fetch_mode
        if mode is not None and mode.track_peers:
            self._fetch_mode = PeersIn(mode, self.binding or current_binding())

    def require_reader(self, fetched_as: Binding) -> None:
        """Raise ScopeError if what was fetched as one tenant, or for all, is read as another one.

        The admin may read all. Code in no scope may read what it is handed, as it may a list.
        """
        current = current_binding()
        if (
            not fetched_as.sees_as(current)
            and not current.is_admin
            and (current.tenant_id is not None or current.grant)
        ):
            raise ScopeError(
                f"the rows of this queryset were fetched as {described(fetched_as)}, and are read"
                f" as {described(current)}; call all() on it for those of {described(current)}, or"
                " list() where they are fetched, to keep them"
            )

    aggregate = in_scope("aggregate")
    count = of_fetched(in_scope("count"))
    exists = of_fetched(in_scope("exists"))
    # These ask by methods that are run in the scope.
    contains = of_fetched(models.QuerySet.contains)
    __getitem__ = of_fetched(models.QuerySet.__getitem__)
    explain = in_scope("explain")
    create = in_scope("create")
    bulk_create = of_objects("bulk_create")
    bulk_update = of_objects("bulk_update")
    get_or_create = in_scope("get_or_create")
    update_or_create = in_scope("update_or_create")
    update = of_own_rows("update")
    # Django would delete first what the tenant has that refers to a shared row.
    delete = of_own_rows("delete")

    __and__ = operator("__and__", "&")
    __or__ = operator("__or__", "|")
    __xor__ = operator("__xor__", "^")
    # Python asks a subclass first: these are for a queryset of another manager on the left.
    __rand__ = reflected("__and__", "&")
    __ror__ = reflected("__or__", "|")
    __rxor__ = reflected("__xor__", "^")

    def require_one_user(self, name: str, *others: Any) -> None:
        """Raise ScopeError if one of `others`, which is not empty, runs in another binding."""
        for other in others:
            if (
                isinstance(other, models.QuerySet)
                and binding_of_query(other.query) != self.binding
                and not (self.query.is_empty() or other.query.is_empty())
            ):
                raise ScopeError(
                    f"{name} takes querysets of one user; call for_user() with the same user on"
                    " each, or on none"
                )

    def require_alike(self, sign: str, other: Any) -> None:
        """Raise ScopeError if `other`, which is not empty, runs in another binding or shares less.

        What an operator returns is one query, which has one of each.
        """
        self.require_one_user(sign, other)
        if (
            isinstance(other, models.QuerySet)
            and includes_shared(other.query) != includes_shared(self.query)
            and not (self.query.is_empty() or other.query.is_empty())
        ):
            raise ScopeError(
                f"{sign} takes querysets that both have the rows of including_shared(), or neither;"
                " call it on each, or use union()"
            )

    def unsliced(self) -> Self:
        """Return this queryset, or its rows as a queryset that can be filtered.

        Django would ask another manager for them, which forgets whose they are, and that others
        share them.
        """
        binding, shared = self.binding, includes_shared(self.query)
        if self.query.can_filter() or (binding is None and not shared):
            return self
        whole: Any = type(self)(self.model, using=self._db)
        if binding is not None:
            bind(whole.query, binding)
        if shared:
            share(whole.query)
        found: Self = whole.filter(pk__in=self.values("pk"))
        return found

    def _combinator_query(self, combinator: str, *others: Any, **options: Any) -> Any:
        self.require_one_user(f"{combinator}()", *others)
        return super()._combinator_query(combinator, *others, **options)  # type: ignore[misc]


class RLSManager(models.Manager.from_queryset(RLSQuerySet)):  # type: ignore[misc]
    """The default manager of protected models; see :class:`RLSQuerySet`."""
