"""Tasks of Celery."""

from __future__ import annotations

import time
from typing import Any

from celery import Task

from tenantry import admin_context
from tenantry.binding import current_binding
from tests.app.models import Note
from tests.jobs.app import app


def read() -> list[str]:
    return list(Note.objects.order_by("title").values_list("title", flat=True))


@app.task
def titles(*args: Any) -> list[str]:
    return read()


@app.task
def binding() -> str:
    return repr(current_binding())


@app.task(base=Task)
def bare_binding() -> str:
    """Look without a scope of its own, at what other tasks have left."""
    return repr(current_binding())


@app.task
def collect(before: Any) -> list[Any]:
    return [before, read()]


@app.task
def write(title: str) -> int | None:
    return Note.objects.create(title=title).tenant_id


@app.task
def write_named(*, binding: str, how: str) -> None:
    Note.objects.create(title=f"{how} {binding}")


@app.task(bind=True, default_retry_delay=0)
def again(self: Any) -> list[Any]:
    """Retry from within the admin's scope."""
    if self.request.retries == 0:
        with admin_context():
            raise self.retry()
    return [self.request.retries, read()]


@app.task(bind=True, default_retry_delay=0)
def again_with_headers(self: Any) -> list[Any]:
    if self.request.retries == 0:
        with admin_context():
            raise self.retry(headers={"attempt": "2"})
    return [self.request.retries, read()]


@app.task(autoretry_for=(KeyError,), retry_backoff=False, default_retry_delay=0, bind=True)
def again_by_itself(self: Any) -> list[Any]:
    if self.request.retries == 0:
        with admin_context():
            raise KeyError
    return [self.request.retries, read()]


@app.task(bind=True)
def replaced(self: Any) -> Any:
    raise self.replace(titles.si())


@app.task(bind=True)
def calls_itself(self: Any, *, depth: int = 0) -> list[Any]:
    if depth:
        return read()
    with admin_context():
        return [self(depth=1), self.run(depth=1), titles()]


@app.task(bind=True)
def requests(self: Any, *, inner: bool = False) -> list[dict[str, bool]]:
    """Return the arguments in the request, and in that of a call like a function's."""
    given = [self.request.kwargs]
    return given if inner else given + self(inner=True)


@app.task
def boom() -> None:
    with admin_context():
        raise ValueError("boom")


@app.task
def leave_open() -> None:
    admin_context().__enter__()


@app.task(soft_time_limit=1)
def too_slow() -> None:
    with admin_context():
        while True:
            time.sleep(0.05)


@app.task
def note_failure(request: Any, error: Exception, traceback: Any) -> None:
    """Be an error callback, which Celery calls like a function in the worker."""
    Note.objects.create(title=f"failed: {error}")


@app.task
def note_failed_id(task_id: str) -> None:
    """Be an error callback of the kind that is published."""
    Note.objects.create(title="failed")
