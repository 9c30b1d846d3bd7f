"""Celery: a task runs in the binding of the code that published it.

Every message that this process publishes carries an envelope in its headers, also those that Celery
publishes for a canvas. A task's scope is open from ``task_prerun`` to ``task_postrun``: what Celery
publishes after the task itself (callbacks, the next step of a chain, the body of a chord) is
published in it, too. A signal's receiver cannot refuse a task, so the task does when it is called.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

from django.db import transaction

try:
    from celery import current_task, signals
    from celery.contrib.django.task import DjangoTask
except ImportError as error:
    raise ImportError(
        "tenantry.contrib.celery needs Celery: pip install 'django-tenantry[celery]'"
    ) from error

from ..binding import UNBOUND, Binding, current_binding
from ..context import Scope
from .envelope import enclose, travelling
from .jobs import JobScope, scope_of_job

HEADER = "tenantry_binding"


class Job:
    """Hold the scope of one run of a task, or why it is refused."""

    def __init__(self) -> None:
        self.scope = JobScope(UNBOUND)
        # What there is to leave at the end: the scope, if it could be entered.
        self.entered = ExitStack()
        self.refusal: Exception | None = None
        self.is_running = False


# By Celery's request, which is an object of its own for every run.
_jobs: dict[Any, Job] = {}


class TenantTask(DjangoTask):  # type: ignore[misc]
    """The class of an app's tasks: ``Celery("project", task_cls=TenantTask)``.

    A task runs as the tenant, the admin or nobody that was current where it was published, and so
    does what Celery publishes for it. A task whose binding was forged fails with
    InvalidEnvelopeError and does not run; one without a binding runs unbound. What keeps the scope
    from being opened, such as an audit log that is full, is the task's error too.
    """

    abstract = True

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task, or fail where its scope could not be opened."""
        job = _jobs.get(self.request_stack.top)
        if job is None or job.is_running:
            # Called like a function, so it stays in the caller's scope.
            return super().__call__(*args, **kwargs)
        if job.refusal is not None:
            raise job.refusal
        job.is_running = True
        # Not super(): outside of a worker it puts another request before that of the message.
        return self.run(*args, **kwargs)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Publish the task in the current binding when the transaction is committed."""
        transaction.on_commit(partial(publish, current_binding(), self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Do what :meth:`delay_on_commit` does, with the options of ``apply_async()``."""
        transaction.on_commit(
            partial(publish, current_binding(), self.apply_async, *args, **kwargs)
        )


def publish(binding: Binding, how: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None:
    """Publish a task as whoever asked for it, and not as who leaves the transaction."""
    with Scope(binding):
        how(*args, **kwargs)


def enclose_binding(headers: Any = None, **kwargs: Any) -> None:
    """Put an envelope into the headers of a message that is about to be published."""
    # Messages of Celery's first protocol have no such headers. A retry brings those of the first
    # try, unless it was given others.
    if headers and "id" in headers and not (headers.get("retries") and HEADER in headers):
        headers[HEADER] = enclose(binding_of(headers), "celery", headers["task"], headers["id"])


def binding_of(headers: Any) -> Binding:
    """Return the binding of a message; that of a retry, called anywhere, is the first try's."""
    request: Any = current_task.request_stack.top if current_task else None
    job = _jobs.get(request)
    if job is not None and headers.get("retries") and headers["id"] == str(request.id):
        return job.scope.binding
    return current_binding()


def open_scope(task: Any = None, **kwargs: Any) -> None:
    """Open the scope of a task that is about to run, or have the task refused."""
    if isinstance(task, TenantTask):
        request = task.request_stack.top
        job = _jobs[request] = Job()
        try:
            try:
                job.scope = scope_of(task, request)
            finally:
                job.entered.enter_context(job.scope)
        # Celery would log it, and run the task all the same, as whoever is current.
        except Exception as error:  # noqa: BLE001
            job.refusal = error


def scope_of(task: TenantTask, request: Any) -> JobScope:
    """Return the scope of one run of a task. Raises InvalidEnvelopeError for a forged binding."""
    if request.is_eager:
        # Nothing was published: the task runs inside the code that called it.
        return JobScope(travelling(current_binding()))
    headers = request.headers if isinstance(request.headers, dict) else {}
    return scope_of_job(headers.get(HEADER), "celery", task.name, str(request.id))


def close_scope(task: Any = None, **kwargs: Any) -> None:
    """Close the scope of a task that has ended in any way."""
    job = _jobs.pop(task.request_stack.top, None)
    if job is not None:
        job.entered.close()


# Celery keeps weak references by default.
signals.before_task_publish.connect(enclose_binding, weak=False)
signals.task_prerun.connect(open_scope, weak=False)
signals.task_postrun.connect(close_scope, weak=False)
