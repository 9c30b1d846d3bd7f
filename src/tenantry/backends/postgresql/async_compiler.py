"""The compilers of django-async-backend, scoped as those of Django's ORM are."""

from __future__ import annotations

from django_async_backend.db.models.sql import compiler

from .compiler import ScopedSelectMixin, ScopedWhereMixin


class SQLCompiler(ScopedSelectMixin, compiler.SQLCompiler):  # type: ignore[misc]
    """Scope SELECT: the base table in WHERE, joined tables in ON."""


class SQLInsertCompiler(compiler.SQLInsertCompiler):  # type: ignore[misc]
    """Be the package's: the policy checks rows as they are written."""


class SQLUpdateCompiler(ScopedWhereMixin, compiler.SQLUpdateCompiler):  # type: ignore[misc]
    """Scope UPDATE."""


class SQLDeleteCompiler(ScopedWhereMixin, compiler.SQLDeleteCompiler):  # type: ignore[misc]
    """Scope DELETE; one that needs joins is a DELETE by the keys of a scoped SELECT."""


class SQLAggregateCompiler(compiler.SQLAggregateCompiler):  # type: ignore[misc]
    """Be the package's: what it aggregates over is a scoped SELECT."""
