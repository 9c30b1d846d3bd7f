"""Backends of Django's tasks, with tenantry and (plain) without it."""

from __future__ import annotations

from typing import Any

from django import VERSION

from tenantry.contrib.tasks import TenantTasks

if VERSION >= (6, 0):
    from django.tasks.backends.dummy import DummyBackend
    from django.tasks.backends.immediate import ImmediateBackend
    from django.tasks.exceptions import InvalidTask
else:
    from django_tasks.backends.dummy import DummyBackend
    from django_tasks.backends.immediate import ImmediateBackend
    from django_tasks.exceptions import InvalidTaskError as InvalidTask

__all__ = ["Dummy", "Immediate", "InvalidTask", "Plain"]

Plain = DummyBackend


class Immediate(TenantTasks, ImmediateBackend):  # type: ignore[misc]
    """Runs a task at once."""


class Dummy(TenantTasks, DummyBackend):  # type: ignore[misc]
    """Stores a task."""


def __getattr__(name: str) -> Any:
    """Return the backend that needs a table, which only a worker's settings have."""
    if name != "Database":
        raise AttributeError(name)
    from django_tasks_db.backend import DatabaseBackend

    return type("Database", (TenantTasks, DatabaseBackend), {})
