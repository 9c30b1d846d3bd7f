"""Django's tasks: a task runs in the binding of the code that enqueued it.

They are ``django.tasks`` where Django has it, and the package ``django-tasks`` before. The envelope
travels with the keyword arguments, which every backend stores.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import async_to_sync
from django import VERSION

try:
    if VERSION >= (6, 0):
        from django.tasks.backends.base import BaseTaskBackend
        from django.tasks.base import Task
        from django.tasks.exceptions import InvalidTask
        from django.utils.json import normalize_json
    else:
        from django_tasks.backends.base import BaseTaskBackend
        from django_tasks.base import Task
        from django_tasks.exceptions import InvalidTaskError as InvalidTask
        from django_tasks.utils import normalize_json  # type: ignore[no-redef]
except ImportError as error:
    raise ImportError(
        "tenantry.contrib.tasks needs django.tasks, which Django 6.0 has, or before that"
        " django-tasks: pip install 'django-tenantry[tasks]'"
    ) from error

from ..binding import current_binding
from .envelope import enclose
from .jobs import JobScope, scope_of_job

ARGUMENT = "tenantry_binding"


class TenantTask(Task):  # type: ignore[misc]
    """A task that runs as the tenant, the admin or nobody that it was enqueued by.

    A task whose binding was forged fails with InvalidEnvelopeError and does not run; one without a
    binding runs unbound.
    """

    __slots__ = ()

    def enqueue(self, *args: Any, **kwargs: Any) -> Any:
        """Queue the task with the current binding."""
        return super().enqueue(*args, **self._with_envelope(args, kwargs))

    async def aenqueue(self, *args: Any, **kwargs: Any) -> Any:
        """Do what :meth:`enqueue` does."""
        return await super().aenqueue(*args, **self._with_envelope(args, kwargs))

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """Run the task in the binding that came with its arguments."""
        if iscoroutinefunction(self.func):
            # A scope that is opened in a hop holds on its thread, and the function runs elsewhere.
            return async_to_sync(self.acall)(*args, **kwargs)
        with self._scope(args, kwargs):
            return super().call(*args, **_without_envelope(kwargs))

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        """Do what :meth:`call` does."""
        with self._scope(args, kwargs):
            return await super().acall(*args, **_without_envelope(kwargs))

    def _with_envelope(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        # One of another result, whose arguments are enqueued again, is replaced.
        envelope = enclose(current_binding(), *self._address(args, kwargs))
        return {**kwargs, ARGUMENT: envelope}

    def _scope(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> JobScope:
        given = args[1:] if self.takes_context else args
        return scope_of_job(kwargs.get(ARGUMENT), *self._address(given, kwargs))

    def _address(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[str, str, str]:
        # Its arguments too: a table of tasks is shared, and what one tenant enqueued could be
        # copied by whoever can write there.
        given = normalize_json([list(args), _without_envelope(kwargs)])
        # As a backend stores it: the keys of dicts are strings.
        given = _canonical(json.loads(json.dumps(given)))
        digest = hashlib.sha256(json.dumps(given, sort_keys=True).encode()).hexdigest()
        return "django.tasks", self.module_path, digest


class TenantTasks(BaseTaskBackend):  # type: ignore[misc]
    """Mixin, to be listed first, for a backend of ``TASKS`` whose tasks keep the binding.

    ::

        class Backend(TenantTasks, DatabaseBackend): ...
    """

    task_class = TenantTask

    def validate_task(self, task: Any) -> None:
        """Raise InvalidTask for a task that would not carry the binding."""
        if not isinstance(task, TenantTask):
            raise InvalidTask(
                f"the task {task.module_path} was defined for another backend, so it would lose the"
                f" binding; define it with @task(backend={self.alias!r})"
            )
        super().validate_task(task)


def _without_envelope(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in kwargs.items() if name != ARGUMENT}


def _canonical(value: Any) -> Any:
    """Return JSON's `value` as it is after a database, which may store 1e16 as an integer."""
    if isinstance(value, float) and value.is_integer():
        # By its digits, as a database does.
        return int(Decimal(repr(value)))
    if isinstance(value, list):
        return [_canonical(each) for each in value]
    if isinstance(value, dict):
        return {key: _canonical(each) for key, each in value.items()}
    return value
