"""The compilers of django-async-backend, scoped as those of Django's ORM are."""

from __future__ import annotations

from django_async_backend.db.models.sql import compiler

from .compiler import ScopedDeleteMixin, ScopedSelectMixin, ScopedWhereMixin, StrictInsertMixin


class SQLCompiler(ScopedSelectMixin, compiler.SQLCompiler):  # type: ignore[misc]
    """Scope SELECT."""


class SQLInsertCompiler(StrictInsertMixin, compiler.SQLInsertCompiler):  # type: ignore[misc]
    """The package's compiler of INSERT, but strict."""


class SQLUpdateCompiler(ScopedWhereMixin, compiler.SQLUpdateCompiler):  # type: ignore[misc]
    """Scope UPDATE."""


class SQLDeleteCompiler(ScopedDeleteMixin, compiler.SQLDeleteCompiler):  # type: ignore[misc]
    """Scope DELETE."""


class SQLAggregateCompiler(compiler.SQLAggregateCompiler):  # type: ignore[misc]
    """The package's compiler: what it aggregates over is a scoped SELECT."""
