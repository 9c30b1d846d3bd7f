"""Scopes: who the code inside runs as.

All work as ``with``, as ``async with`` and as decorators of sync and async functions. They nest,
restore what was current before, need no connection and send no SQL.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from functools import partial, wraps
from types import TracebackType
from typing import Any, Self, TypeVar, cast, overload

from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured

from . import audit
from .binding import ADMIN, UNBOUND, Binding, Frame, clear, current_binding, is_inside, pop, push
from .conf import rls_tenants, tenant_key
from .exceptions import RLSConfigurationError, ScopeError
from .tracing import mark_request
from .users import binding_of

F = TypeVar("F", bound=Callable[..., Any])


class Scope:
    """Make one binding current between entering and leaving.

    A scope object is entered once at a time; the decorator opens a new one for every call. Do not
    ``yield`` to other code inside a scope: a generator shares its context with its consumer.
    """

    of_request = False
    is_logged = True

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
            binding = binding._replace(read_only=True)
        # Before, because a scope whose beginning cannot be logged must not be left open.
        if self.is_logged and rls_tenants().audit_log:
            audit.entered(binding, current_binding())
        self._frame = push(binding, of_request=self.of_request)
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
        binding = frame.binding
        problem = self._end(frame, exc_value)
        # After, because a scope has to end, whatever becomes of its record.
        if self.is_logged and rls_tenants().audit_log:
            audit.exited(binding)
        # What the code inside has raised is not hidden.
        if problem and exc_value is None:
            raise ScopeError(problem)

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
        return wrapped(function, lambda *args, **kwargs: Scope(self.binding))

    def _end(self, frame: Frame, exc_value: BaseException | None) -> str | None:
        """Restore what was current before; return what is wrong, or None."""
        if pop(frame):
            return None
        if not is_inside(frame):
            return (
                f"{self!r} ends where it is not open: it was entered in another context, such as"
                " that of another thread, or inside of a scope that is over; enter and leave"
                " it in one function, with `with` or `async with`"
            )
        if exc_value is not None:
            # Nobody is told, so that nothing may go on that was opened inside.
            clear(frame)
        return (
            f"{self!r} ends while a scope that was opened later is open; do not yield inside a"
            " scope, which a generator shares with its consumer"
        )


def wrapped(function: F, scope: Callable[..., AbstractContextManager[Any]]) -> F:
    """Return `function`, sync or async, run in the scope that `scope` returns for its arguments.

    Raises TypeError for a generator function, whose body would run after the scope has ended, and
    for a class, whose methods would.
    """
    if isinstance(function, type):
        raise TypeError(
            f"cannot decorate the class {name_of(function)}: its methods would run after the scope"
            " has ended; decorate them, or open the scope where they are called"
        )
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise TypeError(
            f"cannot decorate the generator function {name_of(function)}(): its body would run"
            " after the scope has ended; open the scope where the generator is consumed"
        )
    if iscoroutinefunction(function):

        @wraps(function)
        async def run_async(*args: Any, **kwargs: Any) -> Any:
            with scope(*args, **kwargs):
                return await function(*args, **kwargs)

        return cast(F, run_async)

    @wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        opened = scope(*args, **kwargs)
        with opened:
            result = function(*args, **kwargs)
        # An async function in disguise, such as an object with an async __call__: it has not begun.
        return awaited(opened, result) if inspect.iscoroutine(result) else result

    return cast(F, run)


async def awaited(scope: AbstractContextManager[Any], coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Return what `coroutine` returns, run in `scope`."""
    with scope:
        return await coroutine


def name_of(function: Any) -> str:
    """Return the name of what is decorated, which may be a partial or an object."""
    name: str = getattr(function, "__qualname__", "") or repr(function)
    return name


class ClearedScope(Scope):
    """Make a binding current, and leave nothing behind that the code inside left open.

    Threads serve one request after another in the same context, so a scope that a view, or the body
    of its response, never ends would hold for those that follow.
    """

    opened_by = "the code inside"

    def _end(self, frame: Frame, exc_value: BaseException | None) -> str | None:
        if clear(frame):
            return None
        return (
            f"{self.opened_by} opened a scope and did not end it; open scopes with `with`,"
            " `async with` or as decorators"
        )


class ContinuedScope(ClearedScope):
    """Make a binding current for a part of what another scope has begun.

    The audit log has that one; it need not have each part of a stream.
    """

    is_logged = False


class RequestScope(ClearedScope):
    """Make the binding of a request current; a view may bind it anew: see ``rebinding``."""

    of_request = True
    opened_by = "the request's view"

    @property
    def current(self) -> Binding:
        """The binding of the request as it is now."""
        return self.binding if self._frame is None else self._frame.binding

    def __enter__(self) -> Self:
        if rls_tenants().trace:
            mark_request(self.binding)
        return super().__enter__()


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
    """Run unbound, but able to read every row of the tables that name a bypass flag.

    For what has to find a row before a tenant is known, such as an authentication backend that
    looks for a user in a protected table; what a login writes needs the user's scope, as the guide
    to the user model shows. `name` is one of ``RLS_TENANTS["BYPASS_FLAGS"]``, and of
    ``RLSConstraint(extra_bypass_flags=[...])`` of each such table. It reads, and writes nothing.

    Raises RLSConfigurationError for another name. Not for looking at tenants' data: open a
    ``tenant_context`` as soon as the tenant is known.
    """

    def __init__(self, name: str) -> None:
        flags = rls_tenants().bypass_flags
        if name not in flags:
            raise RLSConfigurationError(
                f"{name!r} is not in RLS_TENANTS['BYPASS_FLAGS'], which is {list(flags)!r}; add it"
                " there, and to the extra_bypass_flags of the tables that it is to read"
            )
        super().__init__(Binding(bypass=name))


@overload
def with_rls_context(function: F, *, user_param: str | None = None) -> F: ...


@overload
def with_rls_context(
    function: None = None, *, user_param: str | None = None
) -> Callable[[F], F]: ...


def with_rls_context(function: F | None = None, *, user_param: str | None = None) -> Any:
    """Run a function, sync or async, as the user that it is given.

    The user is the argument that ``RLS_TENANTS["USER_PARAM_NAME"]`` names, ``as_user`` by default,
    or `user_param`::

        @with_rls_context
        def invoices(*, as_user): ...

    None, and a user who has not logged in, runs unbound, never in the caller's scope.

    Raises TypeError when the function has no such argument, or is a generator function, and at a
    call what the middleware raises for such a user, naming the function.
    """
    if function is None:
        return partial(with_rls_context, user_param=user_param)
    name = user_param or rls_tenants().user_param_name
    signature = inspect.signature(function)
    if name not in signature.parameters:
        raise TypeError(
            f"{name_of(function)}() has no argument {name!r} for the user that it runs as; add"
            " it, or name another one with @with_rls_context(user_param=...)"
        )

    def scope(*args: Any, **kwargs: Any) -> Scope:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        user = bound.arguments[name]
        try:
            return Scope(UNBOUND if user is None else binding_of(user))
        except (TypeError, ValueError, ImproperlyConfigured) as error:
            raise type(error)(f"{name_of(function)}(): {error}") from error

    return wrapped(function, scope)
