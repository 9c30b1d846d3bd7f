"""Scopes: what they bind, what they restore, and what they refuse."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextvars import copy_context
from typing import Any

import anyio
import pytest

from tenantry import admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.exceptions import InvalidTenantIdError, ScopeError, TenantIdTypeError

A, B = Binding(1), Binding(2)


def test_scopes_nest_and_restore_also_after_errors() -> None:
    assert current_binding() == UNBOUND
    with tenant_context(1):
        assert current_binding() == A
        with pytest.raises(ZeroDivisionError), admin_context():
            assert current_binding() == ADMIN
            raise ZeroDivisionError
        with tenant_context("2"):
            assert current_binding() == B
        assert current_binding() == A
    assert current_binding() == UNBOUND


async def test_scopes_are_async_context_managers() -> None:
    async with tenant_context(1):
        async with admin_context():
            assert current_binding() == ADMIN
        assert current_binding() == A
    assert current_binding() == UNBOUND


def test_scopes_decorate_functions() -> None:
    @tenant_context(1)
    def fetch(depth: int) -> list[Binding]:
        return [current_binding(), *(fetch(depth - 1) if depth else [])]

    assert fetch(2) == [A, A, A]
    assert fetch.__name__ == "fetch"
    assert current_binding() == UNBOUND


async def test_scopes_decorate_coroutine_functions() -> None:
    @admin_context()
    async def fetch() -> Binding:
        await asyncio.sleep(0)
        return current_binding()

    assert list(await asyncio.gather(fetch(), fetch())) == [ADMIN, ADMIN]
    assert current_binding() == UNBOUND


def test_generators_are_not_decorated() -> None:
    def rows() -> Iterator[int]:
        yield 1

    async def async_rows() -> AsyncIterator[int]:
        yield 1

    for function in (rows, async_rows):
        with pytest.raises(TypeError, match=r"rows\(\): its body would run after"):
            tenant_context(1)(function)


def test_a_scope_is_entered_once_at_a_time() -> None:
    scope = tenant_context(1)
    with pytest.raises(ScopeError, match="is not entered"):
        scope.__exit__(None, None, None)
    with scope, pytest.raises(ScopeError, match="is already entered"):
        scope.__enter__()
    with scope:
        assert current_binding() == A
    assert repr(scope) == "<tenant_context Binding(tenant_id=1, is_admin=False)>"


@pytest.mark.parametrize("close_inside", [False, True])
def test_scopes_out_of_order_are_an_error_and_bring_nobody_back(close_inside: bool) -> None:
    def generate() -> Iterator[int]:
        with tenant_context(1):
            yield 1

    generator = generate()
    if close_inside:
        next(generator)
        with tenant_context(2), pytest.raises(ScopeError, match="do not yield inside a scope"):
            generator.close()  # type: ignore[attr-defined]
    else:
        with (
            pytest.raises(ScopeError, match="do not yield inside a scope"),
            tenant_context(2),
        ):
            next(generator)
        generator.close()  # type: ignore[attr-defined]
    assert current_binding() == UNBOUND


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        (None, TenantIdTypeError, "tenant_id is None"),
        (True, TenantIdTypeError, "got True of type bool"),
        (1.0, TenantIdTypeError, "got 1.0 of type float"),
        (b"1", TenantIdTypeError, "of type bytes"),
        ([1], TenantIdTypeError, "of type list"),
        ("", InvalidTenantIdError, "is not a decimal number"),
        ("1'", InvalidTenantIdError, "is not a decimal number"),
        ("1\n", InvalidTenantIdError, "is not a decimal number"),
        ("1\x00", InvalidTenantIdError, "is not a decimal number"),
        ("1; DROP TABLE app_note", InvalidTenantIdError, "is not a decimal number"),
        (" 1", InvalidTenantIdError, "is not a decimal number"),
        ("1_0", InvalidTenantIdError, "is not a decimal number"),
        ("\u0661", InvalidTenantIdError, "is not a decimal number"),
        (2**63, InvalidTenantIdError, "that fits PostgreSQL's bigint"),
        (-(2**63) - 1, InvalidTenantIdError, "that fits PostgreSQL's bigint"),
        ("9" * 10_000, InvalidTenantIdError, "that fits PostgreSQL's bigint"),
    ],
)
def test_a_bad_tenant_id_is_refused_before_anything_is_sent(
    value: object, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        tenant_context(value)
    assert current_binding() == UNBOUND


async def test_tasks_keep_the_binding_they_started_with() -> None:
    go = asyncio.Event()

    async def look() -> Binding:
        await go.wait()
        return current_binding()

    async with tenant_context(1):
        one = asyncio.create_task(look())
        async with tenant_context(2):
            two = asyncio.create_task(look())
    nobody = asyncio.create_task(look())
    go.set()
    assert list(await asyncio.gather(one, two, nobody)) == [A, B, UNBOUND]


async def test_tasks_do_not_see_each_others_bindings() -> None:
    together = anyio.Event()
    seen: dict[int, Binding] = {}

    async def work(number: int) -> None:
        async with tenant_context(number):
            if number == 20:
                together.set()
            await together.wait()
            seen[number] = current_binding()

    async with anyio.create_task_group() as group:
        for number in range(1, 21):
            group.start_soon(work, number)
    assert seen == {number: Binding(number) for number in range(1, 21)}


def test_threads_see_a_binding_only_with_a_copy_of_the_context() -> None:
    seen: list[Binding] = []

    def look() -> None:
        seen.append(current_binding())

    def run(target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args)
        thread.start()
        thread.join(5)

    with tenant_context(1):
        # What Python 3.14 does by itself under thread_inherit_context.
        run(copy_context().run, look)
        if not getattr(__import__("sys").flags, "thread_inherit_context", False):
            run(look)
    assert seen[0] == A
    assert seen[1:] in ([], [UNBOUND])


async def test_threads_of_asyncio_and_anyio_inherit() -> None:
    async with tenant_context(1):
        assert await asyncio.to_thread(current_binding) == A
        assert await anyio.to_thread.run_sync(current_binding) == A
    assert await asyncio.to_thread(current_binding) == UNBOUND
