"""Django's tasks: in this process, and through a worker whose queue is a table."""

from __future__ import annotations

import json
import logging
import pickle
import subprocess
import sys
from collections.abc import Iterator
from decimal import Decimal
from importlib import import_module
from typing import Any

import psycopg
import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.core import signing

from tenantry import aclose_pools, admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.context import Scope
from tenantry.contrib.envelope import SALT, enclose
from tenantry.contrib.jobs import warn_of_missing
from tenantry.contrib.tasks import ARGUMENT, TenantTask
from tenantry.exceptions import InvalidEnvelopeError, ScopeError
from tests.app.models import Tenant
from tests.fix_jobs import ROOT
from tests.jobs.backends import InvalidTask
from tests.jobs.of_django import (
    async_titles,
    boom,
    leave_open,
    raw_titles,
    titles,
    titles_with_context,
    write,
)

Two = tuple[Tenant, Tenant]
ALL = ["A 1", "A 2", "B 1", "B 2"]


@pytest.fixture(autouse=True)
def anew() -> None:
    warn_of_missing.cache_clear()


def test_without_tasks_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("django.tasks", "django_tasks"):
        monkeypatch.setitem(sys.modules, f"{package}.backends.base", None)
    monkeypatch.delitem(sys.modules, "tenantry.contrib.tasks")
    with pytest.raises(ImportError, match=r"pip install 'django-tenantry\[tasks\]'"):
        import_module("tenantry.contrib.tasks")


def stored(task: Any, *args: Any, **kwargs: Any) -> Any:
    """Enqueue a task in a backend that only stores it."""
    return task.using(backend="dummy").enqueue(*args, **kwargs)


def run(task: Any, result: Any) -> Any:
    """Run a task as a worker does, with arguments that were stored as JSON."""
    kwargs = json.loads(json.dumps(result.kwargs, sort_keys=True))
    return task.call(*json.loads(json.dumps(result.args)), **kwargs)


def test_a_task_runs_as_who_enqueued_it(tenants: Two) -> None:
    for tenant in tenants:
        with tenant_context(tenant.pk):
            result = stored(titles)
        assert run(titles, result) == [f"{tenant.name} 1", f"{tenant.name} 2"]
    with admin_context():
        result = stored(titles)
    assert run(titles, result) == ALL
    result = stored(titles)
    with admin_context():
        assert run(titles, result) == []
        assert current_binding() == ADMIN
    assert current_binding() == UNBOUND


def test_a_task_writes_its_tenants_rows(tenants: Two) -> None:
    for tenant in tenants:
        with tenant_context(tenant.pk):
            result = stored(write, "new")
        assert run(write, result) == tenant.pk


def test_immediate_tasks(tenants: Two) -> None:
    with tenant_context(tenants[0].pk):
        result = titles.enqueue()
        assert result.return_value == ["A 1", "A 2"]
        assert async_titles.enqueue().return_value == ["A 1", "A 2"]
        assert titles_with_context.enqueue(1e16).return_value == [1, 1e16, "A 1", "A 2"]
    assert titles.enqueue().return_value == []


async def test_async_tasks(tenants: Two) -> None:
    async with tenant_context(tenants[1].pk):
        sync_result = await titles.using(backend="dummy").aenqueue()
        async_result = await async_titles.using(backend="dummy").aenqueue()
        at_once = await titles.aenqueue()
    assert at_once.return_value == ["B 1", "B 2"]
    assert await titles.acall(**sync_result.kwargs) == ["B 1", "B 2"]
    assert await async_titles.acall(**async_result.kwargs) == ["B 1", "B 2"]
    assert current_binding() == UNBOUND


async def test_an_async_task_at_once_runs_as_its_tenant_on_the_loop_too(tenants: Two) -> None:
    for tenant in tenants:
        async with tenant_context(tenant.pk):
            found = [f"{tenant.name} 1", f"{tenant.name} 2"]
            assert (await raw_titles.aenqueue()).return_value == found
            assert (await sync_to_async(raw_titles.enqueue)()).return_value == found
    assert (await raw_titles.aenqueue()).return_value == []
    assert current_binding() == UNBOUND
    await aclose_pools()


def test_an_async_task_in_a_sync_worker(tenants: Two) -> None:
    with tenant_context(tenants[1].pk):
        result = stored(async_titles)
    assert run(async_titles, result) == ["B 1", "B 2"]


def test_the_scope_ends_with_a_task_that_fails(tenants: Two) -> None:
    with tenant_context(tenants[0].pk):
        result = stored(boom)
    with pytest.raises(ValueError, match="boom"):
        run(boom, result)
    assert current_binding() == UNBOUND


def test_the_scope_ends_with_a_task_that_leaves_one_open(tenants: Two) -> None:
    with tenant_context(tenants[0].pk):
        result = stored(leave_open)
    with pytest.raises(ScopeError, match="the job opened a scope and did not end it"):
        run(leave_open, result)
    assert current_binding() == UNBOUND
    assert run(titles, stored(titles)) == []


@pytest.mark.parametrize(
    "forged",
    [
        "admin",
        1,
        enclose(ADMIN, "django.tasks", "tests.jobs.of_django.titles", "0" * 64),
        signing.dumps([0, True, None], salt=SALT),
    ],
    ids=["no text of ours", "no text", "other arguments", "other version"],
)
def test_a_forged_task_does_not_run(tenants: Two, forged: object) -> None:
    with tenant_context(tenants[0].pk):
        result = stored(write, "forged")
    result.kwargs[ARGUMENT] = forged
    with pytest.raises(InvalidEnvelopeError):
        run(write, result)
    with pytest.raises(InvalidEnvelopeError):
        async_to_sync(write.acall)("forged", **{ARGUMENT: forged})
    with admin_context():
        assert run(titles, stored(titles)) == ALL


def test_an_envelope_is_for_its_task_and_arguments(tenants: Two) -> None:
    with tenant_context(tenants[0].pk):
        result = stored(titles, 1, b=[2.5, {"long": 1, "c": 1e16}])
    for task, args, kwargs in (
        (titles, (2,), {"b": [2.5, {"long": 1, "c": 1e16}]}),
        (titles, (1,), {"b": [2.5, {"long": 1, "c": 1e17}]}),
        (titles, (1,), {}),
        (write, (1,), {"b": [2.5, {"long": 1, "c": 1e16}]}),
    ):
        with pytest.raises(InvalidEnvelopeError, match="another job, or for other arguments"):
            task.call(*args, **kwargs, **{ARGUMENT: result.kwargs[ARGUMENT]})
    # As PostgreSQL's jsonb gives it back.
    same = {"b": [2.5, {"c": 10000000000000000, "long": 1}], ARGUMENT: result.kwargs[ARGUMENT]}
    assert titles.call(1, **same) == ["A 1", "A 2"]


@pytest.mark.parametrize(
    "argument", [{2: 1, 10: 1}, {1: 2, "a": 3}, float(2**63), 1e23, 1.7644216185656013e18]
)
def test_arguments_may_be_stored_otherwise_than_they_were_given(
    argument: Any, tenants: Two
) -> None:
    with tenant_context(tenants[0].pk):
        result = stored(titles, argument)
    # PostgreSQL's jsonb keeps numbers by their digits, and has no exponents.
    [back] = json.loads(json.dumps([argument]))
    if isinstance(back, float):
        back = int(Decimal(repr(back)))
    assert titles.call(back, **result.kwargs) == ["A 1", "A 2"]


def test_arguments_that_are_enqueued_again_get_a_new_envelope(tenants: Two) -> None:
    with tenant_context(tenants[0].pk):
        first = stored(titles, 1)
    with tenant_context(tenants[1].pk):
        second = stored(titles, *first.args, **first.kwargs)
    assert run(titles, second) == ["B 1", "B 2"]


def test_a_task_without_an_envelope_is_unbound(
    tenants: Two, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "tenantry.tasks"), admin_context():
        assert titles.call() == titles.call() == []
        assert async_to_sync(async_titles.acall)() == []
    assert [record.args for record in caplog.records] == [
        ("tests.jobs.of_django.titles",),
        ("tests.jobs.of_django.async_titles",),
    ]
    assert "carries no binding and runs unbound" in caplog.text


def test_a_bypass_flag_stays_behind(tenants: Two) -> None:
    with Scope(Binding(bypass="login")):
        result = stored(titles)
    assert run(titles, result) == []


def test_a_task_is_not_read_only_in_a_worker(tenants: Two) -> None:
    with Scope(Binding(tenants[0].pk, read_only=True)):
        result = stored(write, "new")
        at_once = write.enqueue("newer")
    assert run(write, result) == tenants[0].pk
    assert "read-only transaction" in at_once.errors[0].traceback


def test_a_task_of_another_backend_is_refused() -> None:
    asked = {"priority": 0, "queue_name": "default", "run_after": None}
    plain = TenantTask.__base__(func=titles.func, backend="plain", **asked)
    assert plain.enqueue().kwargs == {}
    with pytest.raises(InvalidTask, match=r"of_django.titles was defined for another backend"):
        plain.using(backend="dummy")


def test_a_task_keeps_its_class() -> None:
    moved = titles.using(queue_name="default", backend="dummy")
    assert type(moved) is TenantTask
    if hasattr(TenantTask, "_reconstruct"):
        assert type(pickle.loads(pickle.dumps(titles))) is TenantTask


# Through a table and a worker.

ENQUEUE = """
import json, django
django.setup()
from django_tasks_db.models import DBTaskResult
from tenantry import aclose_pools, admin_context, tenant_context
from tests.jobs import of_django as tasks

def enqueue(task, *args):
    return task.enqueue(*args).id

ids = {}
for number in (1, 2):
    with tenant_context(number):
        ids[f"titles {number}"] = enqueue(tasks.titles, 1.5, 1e16, {"é": [None, -0.0]})
        ids[f"async {number}"] = enqueue(tasks.async_titles)
        ids[f"context {number}"] = enqueue(tasks.titles_with_context, 2)
        ids[f"write {number}"] = enqueue(tasks.write, "new")
        ids[f"boom {number}"] = enqueue(tasks.boom)
        ids[f"forged {number}"] = enqueue(tasks.write, "forged")
with admin_context():
    ids["admin"] = enqueue(tasks.titles)
ids["nobody"] = enqueue(tasks.titles)
ids["missing"] = enqueue(tasks.titles)
for name in ("forged 1", "forged 2", "missing"):
    result = DBTaskResult.objects.get(id=ids[name])
    if name == "missing":
        del result.args_kwargs["kwargs"]["tenantry_binding"]
    else:
        other = DBTaskResult.objects.get(id=ids["admin"])
        result.args_kwargs["kwargs"] = other.args_kwargs["kwargs"]
    result.save()
print(json.dumps(ids))
"""
RESULTS = """
import json, sys, django
django.setup()
from django_tasks_db.models import DBTaskResult
results = {}
for name, id in json.load(sys.stdin).items():
    result = DBTaskResult.objects.get(id=id)
    results[name] = result.exception_class_path or result.return_value
print(json.dumps(results))
"""


@pytest.fixture
def table(
    environment_of_workers: dict[str, str], tenants: Two, superuser: psycopg.Connection[Any]
) -> Iterator[dict[str, str]]:
    """Return an environment in which there is a table of tasks, which is shared."""
    as_owner = environment_of_workers | {"TENANTRY_TEST_USER": "owner"}
    migrate = [sys.executable, "-m", "django", "migrate", "-v", "0", "django_tasks_database"]
    subprocess.run(migrate, env=as_owner, cwd=ROOT, check=True, timeout=60)
    yield environment_of_workers
    # Its migrations are not reversible.
    superuser.execute("DROP TABLE django_tasks_database_dbtaskresult")
    superuser.execute("DELETE FROM django_migrations WHERE app = 'django_tasks_database'")


@pytest.mark.slow
def test_a_worker_of_a_table(table: dict[str, str], tenants: Two) -> None:
    def python(*args: str, text: str = "") -> str:
        result = subprocess.run(
            [sys.executable, *args],
            input=text,
            env=table,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout + result.stderr

    assert [tenant.pk for tenant in tenants] == [1, 2]
    ids = python("-c", ENQUEUE)
    log = python("-m", "django", "db_worker", "--batch", "--no-startup-delay", "--interval", "0")
    results = json.loads(python("-c", RESULTS, text=ids))
    assert log.count("carries no binding") == 1
    refusal = "tenantry.exceptions.InvalidEnvelopeError"
    for number, name in ((1, "A"), (2, "B")):
        rows = [f"{name} 1", f"{name} 2"]
        assert results.pop(f"titles {number}") == rows
        assert results.pop(f"async {number}") == rows
        assert results.pop(f"context {number}") == [1, 2, *rows]
        assert results.pop(f"write {number}") == number
        assert results.pop(f"boom {number}") == "builtins.ValueError"
        assert results.pop(f"forged {number}") == refusal
    new = ["A 1", "A 2", "B 1", "B 2", "new", "new"]
    assert results == {"admin": new, "nobody": [], "missing": []}
