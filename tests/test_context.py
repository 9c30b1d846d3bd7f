"""Scopes as ``with``, ``async with`` and decorators: what is current inside, and after."""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from contextvars import Context, copy_context

import pytest
from django.db import connections

from tenantry import admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.context import RequestScope, Scope
from tenantry.exceptions import ScopeError, TenantIdTypeError, TenantryError

MakeScope = Callable[[], Scope]

ONE, TWO = Binding(1), Binding(2)
each_scope = pytest.mark.parametrize(
    ("make", "binding"),
    [
        pytest.param(lambda: tenant_context(1), ONE, id="tenant"),
        pytest.param(admin_context, ADMIN, id="admin"),
    ],
)


pytestmark = pytest.mark.usefixtures("nothing_is_left")


@each_scope
def test_a_with_block_runs_in_its_binding(make: MakeScope, binding: Binding) -> None:
    with make():
        assert current_binding() == binding


@each_scope
async def test_an_async_with_block_runs_in_its_binding(make: MakeScope, binding: Binding) -> None:
    async with make():
        assert current_binding() == binding
        await asyncio.sleep(0)
        assert current_binding() == binding
    assert current_binding() is UNBOUND


async def test_entering_returns_the_scope() -> None:
    scope = tenant_context(1)
    with scope as entered:
        assert entered is scope
    async with scope as entered:
        assert entered is scope


def test_making_a_scope_enters_nothing() -> None:
    assert (tenant_context(1).binding, admin_context().binding) == (ONE, ADMIN)
    assert current_binding() is UNBOUND


def test_scopes_nest_and_restore_what_was_around_them() -> None:
    with tenant_context(1):
        with admin_context():
            with tenant_context(2):
                assert current_binding() == TWO
            assert current_binding() == ADMIN
            with tenant_context(1):
                assert current_binding() == ONE
            assert current_binding() == ADMIN
        assert current_binding() == ONE


async def test_async_and_sync_scopes_nest_in_each_other() -> None:
    async with tenant_context(1):
        with admin_context():
            async with tenant_context(2):
                assert current_binding() == TWO
            assert current_binding() == ADMIN
        assert current_binding() == ONE


@each_scope
def test_an_exception_passes_through_and_restores(make: MakeScope, binding: Binding) -> None:
    error = RuntimeError("asked for")
    with tenant_context(2):
        with pytest.raises(RuntimeError) as raised, make():
            raise error
        assert raised.value is error
        assert current_binding() == TWO


@each_scope
async def test_an_exception_passes_through_and_restores_async(
    make: MakeScope, binding: Binding
) -> None:
    error = RuntimeError("asked for")
    async with tenant_context(2):
        with pytest.raises(RuntimeError) as raised:
            async with make():
                raise error
        assert raised.value is error
        assert current_binding() == TWO


@each_scope
async def test_a_cancelled_task_restores(make: MakeScope, binding: Binding) -> None:
    inside = asyncio.Event()
    seen: list[Binding] = []

    async def stay() -> None:
        try:
            async with make():
                seen.append(current_binding())
                inside.set()
                await asyncio.Event().wait()
        finally:
            seen.append(current_binding())

    task = asyncio.create_task(stay())
    await asyncio.wait_for(inside.wait(), 10)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert seen == [binding, UNBOUND]


@each_scope
def test_a_scope_object_can_be_entered_again_once_it_was_left(
    make: MakeScope, binding: Binding
) -> None:
    scope = make()
    for _ in range(2):
        with scope:
            assert current_binding() == binding
        assert current_binding() is UNBOUND


@each_scope
def test_entering_a_scope_object_twice_is_refused(make: MakeScope, binding: Binding) -> None:
    scope = make()
    with scope:
        with pytest.raises(ScopeError, match="already entered; make a new one"), scope:
            pytest.fail("entered")
        assert current_binding() == binding


@each_scope
async def test_entering_a_scope_object_twice_is_refused_async(
    make: MakeScope, binding: Binding
) -> None:
    scope = make()
    async with scope:
        with pytest.raises(ScopeError, match="already entered"):
            await scope.__aenter__()
        assert current_binding() == binding


@each_scope
async def test_leaving_a_scope_that_was_not_entered_is_refused(
    make: MakeScope, binding: Binding
) -> None:
    scope = make()
    with pytest.raises(ScopeError, match="is not entered"):
        scope.__exit__(None, None, None)
    with pytest.raises(ScopeError, match="is not entered"):
        await scope.__aexit__(None, None, None)
    with scope:
        pass
    with pytest.raises(ScopeError, match="is not entered"):
        scope.__exit__(None, None, None)


def test_a_scope_error_is_what_callers_of_such_code_catch() -> None:
    assert issubclass(ScopeError, RuntimeError)
    assert issubclass(ScopeError, TenantryError)


def test_leaving_an_outer_scope_first_is_refused_and_ends_in_nobody() -> None:
    def out_of_order() -> None:
        outer, inner = tenant_context(1), admin_context()
        outer.__enter__()
        inner.__enter__()
        with pytest.raises(ScopeError, match="opened later is open; do not yield"):
            outer.__exit__(None, None, None)
        assert current_binding() == ADMIN
        inner.__exit__(None, None, None)
        assert current_binding() == UNBOUND

    copy_context().run(out_of_order)


def test_a_scope_that_a_generator_holds_cannot_outlive_its_consumers_scope() -> None:
    def rows() -> Generator[Binding, None, None]:
        with tenant_context(2):
            yield current_binding()

    def consume() -> None:
        generator = rows()
        with pytest.raises(ScopeError, match="do not yield inside a scope"), tenant_context(1):
            assert next(generator) == TWO
        generator.close()
        assert current_binding() == UNBOUND

    copy_context().run(consume)


def test_an_error_inside_is_not_hidden_by_a_scope_that_was_left_open() -> None:
    def fail() -> None:
        with tenant_context(1):
            left = admin_context()
            with pytest.raises(KeyError, match="asked for"), tenant_context(2):
                left.__enter__()
                raise KeyError("asked for")
            # Nobody was told, so nothing of it goes on.
            assert current_binding() == ONE
            with pytest.raises(ScopeError, match="ends where it is not open"):
                left.__exit__(None, None, None)
            assert current_binding() == ONE

    copy_context().run(fail)


def test_an_error_beside_a_generator_is_not_hidden_by_its_scope() -> None:
    seen = []

    def rows() -> Generator[Binding, None, None]:
        with tenant_context(2):
            yield current_binding()
            seen.append(current_binding())

    def consume() -> None:
        generator = rows()
        with admin_context():
            with pytest.raises(KeyError, match="asked for"), tenant_context(1):
                assert next(generator) == TWO
                raise KeyError("asked for")
            assert current_binding() == ADMIN
            with pytest.raises(ScopeError, match="ends where it is not open"):
                next(generator)
            assert seen == [ADMIN]
            assert current_binding() == ADMIN

    copy_context().run(consume)


@pytest.mark.parametrize("around", [None, UNBOUND, TWO])
def test_leaving_in_a_context_that_does_not_know_the_scope_says_so(around: Binding | None) -> None:
    """As where a framework runs the parts of a generator in threads."""

    def leave(scope: Scope) -> None:
        with nullcontext() if around is None else Scope(around):
            with pytest.raises(ScopeError, match="ends where it is not open: it was entered in an"):
                scope.__exit__(None, None, None)
            assert current_binding() == (around or UNBOUND)
            scope.__enter__()
            assert current_binding() == ONE
            scope.__exit__(None, None, None)

    scope = tenant_context(1)
    copy_context().run(scope.__enter__)
    copy_context().run(leave, scope)


def test_leaving_in_another_context_is_refused_and_changes_nothing_there() -> None:
    def enter() -> None:
        scope = tenant_context(1)
        scope.__enter__()
        with pytest.raises(ValueError, match="different Context"):
            copy_context().run(scope.__exit__, None, None, None)
        assert current_binding() == ONE

    copy_context().run(enter)


def test_a_request_that_ends_in_another_context_changes_nothing_there() -> None:
    """As where a task is collected that was never finished."""

    def end(scope: RequestScope) -> None:
        with RequestScope(TWO), tenant_context(3):
            with pytest.raises(ValueError, match="different Context"):
                scope.__exit__(None, None, None)
            assert current_binding() == Binding(3)
        assert current_binding() == UNBOUND

    def enter() -> None:
        scope = RequestScope(ONE)
        scope.__enter__()
        Context().run(end, scope)

    copy_context().run(enter)


@each_scope
def test_a_decorated_function_runs_in_a_scope(make: MakeScope, binding: Binding) -> None:
    @make()
    def function(first: int, *, second: int) -> tuple[int, int, Binding]:
        """Say what it does."""
        return first, second, current_binding()

    assert function(1, second=2) == (1, 2, binding)
    assert (function.__name__, function.__doc__) == ("function", "Say what it does.")
    assert current_binding() is UNBOUND


@each_scope
async def test_a_decorated_coroutine_function_runs_in_a_scope(
    make: MakeScope, binding: Binding
) -> None:
    @make()
    async def function(first: int, *, second: int) -> tuple[int, int, Binding]:
        before = current_binding()
        await asyncio.sleep(0)
        assert current_binding() == before
        return first, second, before

    assert inspect.iscoroutinefunction(function)
    assert function.__name__ == "function"
    coroutine = function(1, second=2)
    assert current_binding() is UNBOUND
    assert await coroutine == (1, 2, binding)
    assert current_binding() is UNBOUND


@each_scope
async def test_a_decorated_function_that_raises_restores(make: MakeScope, binding: Binding) -> None:
    @make()
    def function() -> None:
        raise RuntimeError(repr(current_binding()))

    @make()
    async def coroutine_function() -> None:
        raise RuntimeError(repr(current_binding()))

    with tenant_context(2):
        with pytest.raises(RuntimeError) as raised:
            function()
        assert str(raised.value) == repr(binding)
        assert current_binding() == TWO
        with pytest.raises(RuntimeError) as raised:
            await coroutine_function()
        assert str(raised.value) == repr(binding)
        assert current_binding() == TWO


def test_a_decorated_method_gets_its_object() -> None:
    class Report:
        @tenant_context(1)
        def binding(self) -> tuple[Report, Binding]:
            return self, current_binding()

    report = Report()
    assert report.binding() == (report, ONE)


async def test_a_decorated_partial_coroutine_function_runs_in_a_scope() -> None:
    async def function(number: int) -> tuple[int, Binding]:
        await asyncio.sleep(0)
        return number, current_binding()

    assert await tenant_context(1)(functools.partial(function, 3))() == (3, ONE)


class Asynchronous:
    """Is async, and not to be told from what is not."""

    async def __call__(self) -> Binding:
        before = current_binding()
        await asyncio.sleep(0)
        assert current_binding() == before
        return before


def undisguised() -> Coroutine[None, None, Binding]:
    return Asynchronous()()


@each_scope
@pytest.mark.parametrize(
    "function",
    [Asynchronous(), undisguised, staticmethod(Asynchronous.__call__)],
    ids=["object", "function", "static"],
)
async def test_what_turns_out_to_be_async_runs_in_a_scope(
    make: MakeScope, binding: Binding, function: Callable[..., Coroutine[None, None, Binding]]
) -> None:
    arguments = [Asynchronous()] if isinstance(function, staticmethod) else []
    decorated = make()(function)
    with tenant_context(2):
        coroutine = decorated(*arguments)
        assert current_binding() == TWO
        assert await coroutine == binding
        tasks = [decorated(*arguments), decorated(*arguments)]
        assert await asyncio.gather(*tasks) == [binding, binding]
        assert current_binding() == TWO


async def test_a_decorated_function_calls_itself() -> None:
    @tenant_context(1)
    def count(depth: int) -> list[Binding]:
        with tenant_context(2):
            below = count(depth - 1) if depth else []
        return [*below, current_binding()]

    @tenant_context(1)
    async def count_async(depth: int) -> list[Binding]:
        async with tenant_context(2):
            below = await count_async(depth - 1) if depth else []
        return [*below, current_binding()]

    assert count(3) == [ONE] * 4
    assert await count_async(3) == [ONE] * 4


def test_one_scope_object_decorates_many_functions_and_is_not_entered_by_them() -> None:
    scope = tenant_context(1)
    inner = scope(current_binding)

    @scope
    def outer() -> tuple[Binding, Binding]:
        return inner(), current_binding()

    with scope:
        assert outer() == (ONE, ONE)
    with tenant_context(2):
        assert outer() == (ONE, ONE)
        assert current_binding() == TWO


async def test_calls_of_a_decorated_coroutine_function_overlap() -> None:
    barrier = asyncio.Barrier(3)

    @tenant_context(1)
    async def call() -> Binding:
        await barrier.wait()
        return current_binding()

    calls = await asyncio.wait_for(asyncio.gather(call(), call(), call()), 10)
    assert list(calls) == [ONE] * 3


def test_calls_of_a_decorated_function_overlap_in_threads() -> None:
    barrier = threading.Barrier(3)

    @tenant_context(1)
    def call() -> Binding:
        barrier.wait(10)
        return current_binding()

    with ThreadPoolExecutor(3) as executor:
        calls = [executor.submit(call) for _ in range(3)]
        assert [one.result(10) for one in calls] == [ONE] * 3


@each_scope
def test_generator_functions_cannot_be_decorated(make: MakeScope, binding: Binding) -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def async_rows() -> AsyncIterator[int]:
        yield 1

    for function in (rows, async_rows):
        for each in (function, functools.partial(function)):
            with pytest.raises(TypeError, match=rf"{function.__name__}.*open the scope where"):
                make()(each)


@each_scope
def test_classes_cannot_be_decorated(make: MakeScope, binding: Binding) -> None:
    class Report:
        def rows(self) -> None: ...

    with pytest.raises(TypeError, match=r"the class .*Report: .* decorate them"):
        make()(Report)


def test_the_repr_says_whom_the_block_runs_as() -> None:
    assert repr(tenant_context(42)).startswith("<tenant_context ")
    assert "tenant_id=42" in repr(tenant_context(42))
    assert repr(admin_context()).startswith("<admin_context ")
    assert "is_admin=True" in repr(admin_context())


def test_the_error_of_a_scope_shows_which() -> None:
    with pytest.raises(ScopeError, match=r"<tenant_context .*tenant_id=42.*> is not entered"):
        tenant_context(42).__exit__(None, None, None)


def test_a_wrong_tenant_id_is_refused_before_the_block() -> None:
    with pytest.raises(TenantIdTypeError):
        tenant_context(None)


def test_scopes_open_no_connection() -> None:
    @tenant_context(1)
    def function() -> None:
        with admin_context():
            asyncio.run(in_async())

    async def in_async() -> None:
        async with tenant_context(2):
            await asyncio.sleep(0)

    def in_new_thread() -> list[object]:
        function()
        return list(connections.all(initialized_only=True))

    # A thread has database connections of its own, and starts with none.
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(in_new_thread).result(10) == []
