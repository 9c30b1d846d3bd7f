"""Scopes: ``tenant_context`` and ``admin_context``.

Both work as ``with``, as ``async with`` and as decorators of sync and async functions. They nest,
restore what was current before, need no connection and send no SQL.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import wraps
from types import TracebackType
from typing import Any, Self, TypeVar, cast

from asgiref.sync import iscoroutinefunction

from .binding import ADMIN, Binding, Frame, current_binding, pop, push
from .conf import rls_tenants, tenant_key
from .exceptions import RLSConfigurationError, ScopeError

F = TypeVar("F", bound=Callable[..., Any])


class Scope:
    """Make one binding current between entering and leaving.

    A scope object is entered once at a time; the decorator opens a new one for every call. Do not
    ``yield`` to other code inside a scope: a generator shares its context with its consumer.
    """

    def __init__(self, binding: Binding) -> None:
        self.binding = binding
        self._frame: Frame | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.binding!r}>"

    def __enter__(self) -> Self:
        if self._frame is not None:
            raise ScopeError(f"{self!r} is already entered; make a new one for every block")
        binding = self.binding
        if not binding.read_only and current_binding().read_only:
            binding = replace(binding, read_only=True)
        self._frame = push(binding)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._frame is None:
            raise ScopeError(f"{self!r} is not entered")
        frame, self._frame = self._frame, None
        if not pop(frame):
            raise ScopeError(
                f"{self!r} ends while a scope that was opened later is open; do not yield inside a"
                " scope, which a generator shares with its consumer"
            )

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.__exit__(exc_type, exc_value, traceback)

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"cannot decorate the generator function {function.__qualname__}(): its body would"
                " run after the scope has ended; open the scope where the generator is consumed"
            )
        binding = self.binding
        if iscoroutinefunction(function):

            @wraps(function)
            async def run_async(*args: Any, **kwargs: Any) -> Any:
                with Scope(binding):
                    return await function(*args, **kwargs)

            return cast(F, run_async)

        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            with Scope(binding):
                return function(*args, **kwargs)

        return cast(F, run)


class tenant_context(Scope):
    """Run as one tenant.

    `tenant_id` is the tenant's primary key. Do not use it to look at several tenants in turn
    inside one queryset's evaluation: a queryset reads the binding when it is evaluated.

    Raises TenantIdTypeError (a TypeError) or InvalidTenantIdError (a ValueError) at once, before
    anything is sent, when `tenant_id` does not fit the tenant key.
    """

    def __init__(self, tenant_id: object) -> None:
        super().__init__(Binding(tenant_key().parse(tenant_id)))


class admin_context(Scope):
    """Run as the admin, who sees and writes the rows of every tenant.

    Not for requests of tenants: nothing filters inside.
    """

    def __init__(self) -> None:
        super().__init__(ADMIN)


class bypass_flag(Scope):
    """Run as nobody who may read every row of the tables that name a bypass flag.

    For what has to find a row before a tenant is known, such as an authentication backend that
    looks for a user in a protected table. `name` is one of ``RLS_TENANTS["BYPASS_FLAGS"]``, and of
    ``RLSConstraint(extra_bypass_flags=[...])`` of each such table. It reads, and writes nothing.

    Raises RLSConfigurationError for another name. Not for looking at tenants' data: open a
    ``tenant_context`` as soon as the tenant is known.
    """

    def __init__(self, name: str) -> None:
        flags = rls_tenants().bypass_flags
        if name not in flags:
            raise RLSConfigurationError(
                f"{name!r} is not in RLS_TENANTS['BYPASS_FLAGS'], which is {list(flags)!r}"
            )
        super().__init__(Binding(bypass=name))
