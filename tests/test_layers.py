"""How the package is built: who imports whom, who writes GUCs, what is public, how long it is."""

from __future__ import annotations

import ast
import asyncio
import itertools
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType
from typing import Any

import django
import psycopg
import psycopg_pool
import pytest
from asgiref.sync import SyncToAsync, async_to_sync, sync_to_async
from django import forms
from django.contrib.gis.db.backends.postgis import base as postgis
from django.core.exceptions import ImproperlyConfigured
from django.core.handlers import exception
from django.db import models
from django.db.backends.postgresql import base, compiler, creation, psycopg_any, schema
from django.utils.functional import SimpleLazyObject
from rest_framework.request import Request

import tenantry
from tenantry.backends.postgresql import base as our_base
from tenantry.backends.postgresql import cursor
from tenantry.hops import waiting_for_async
from tests.app.models import Note

SOURCE = Path(tenantry.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
NAMES = [
    ".".join(("tenantry", *module.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for module in MODULES
]

TEXTS = {name: module.read_text() for name, module in zip(NAMES, MODULES, strict=True)}
TREES = {name: ast.parse(text) for name, text in TEXTS.items()}


def test_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    root = SOURCE.parent.parent
    result = subprocess.run([program], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


def test_modules_are_short() -> None:
    lengths = {name: len(text.splitlines()) for name, text in TEXTS.items()}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def texts(tree: ast.AST) -> list[str]:
    """Return the strings of a module, and its bytes as text, without what documents it."""
    documented = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    }
    constants = (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))
    found = (each.decode() if isinstance(each, bytes) else each for each in constants)
    return [each for each in found if isinstance(each, str) and each not in documented]


def test_exactly_one_module_writes_gucs() -> None:
    writes = re.compile(r"\bSET\s+(LOCAL|SESSION|ROLE)\b|\bset_config\b", re.IGNORECASE)
    writers = [name for name, tree in TREES.items() if any(map(writes.search, texts(tree)))]
    assert writers == ["tenantry.backends.postgresql.apply"]


def test_only_the_backends_import_psycopg() -> None:
    importers = set()
    for module, tree in TREES.items():
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & {"psycopg", "psycopg_pool"}:
                importers.add(module.split(".")[1])
    assert importers == {"backends"}


def test_one_context_variable() -> None:
    holders = [name for name, text in TEXTS.items() if "ContextVar(" in text]
    assert holders == ["tenantry.binding"]


def test_no_private_name_crosses_a_module() -> None:
    for tree in TREES.values():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                names = {alias.name for alias in node.names} - {"__version__"}
                assert not [name for name in names if name.startswith("_")]


def test_all_is_what_is_public() -> None:
    for name in tenantry.__all__:
        assert getattr(tenantry, name).__name__ == name
    assert tenantry.__all__ == sorted(tenantry.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        tenantry.nonsense  # noqa: B018


def importable(name: str) -> bool:
    """Return whether a module needs nothing that only newer versions of Python have."""
    orm = name.rpartition(".")[2] in ("async_compiler", "async_orm")
    return not orm or find_spec("django_async_backend") is not None


def test_public_names_say_what_they_are() -> None:
    packages = ("backends", "commands", "management", "postgresql", "postgis", "policies")
    for name in filter(importable, NAMES):
        module: Any = import_module(name)
        assert module.__doc__ or name.endswith(packages), name
        for public, value in vars(module).items():
            if not public.startswith("_") and getattr(value, "__module__", None) == name:
                assert not callable(value) or value.__doc__, f"{name}.{public}"


def test_the_async_wrapper_is_imported_when_somebody_asks_for_it() -> None:
    installed = find_spec("django_async_backend")
    missing = pytest.raises(ImproperlyConfigured, match="found none; install it with: pip")
    with nullcontext() if installed else missing:
        assert our_base.AsyncDatabaseWrapper.__name__ == "AsyncDatabaseWrapper"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        our_base.nonsense  # noqa: B018


# Names of others that are relied on, though private or undocumented. A release that renames one
# fails here; and so does a module of ours that relies on one more, until it is named here as well.

PRIVATE = re.compile(r"_[A-Za-z]\w*")
# Of Django and Python, which document them.
DOCUMENTED = {"_base_manager", "_default_manager", "_meta", "_replace", "_state"}
RELIED_ON: dict[Any, str] = {
    psycopg.Cursor: """
        _check_results _conn _convert_query _execmany_returning _execute_gen _execute_send
        _last_query _maybe_prepare_gen _pgconn _query _query_cls _raise_for_result _reset _results
        _send_prepare _send_query_prepared _set_results _start_copy_gen _start_query
        _stream_fetchone_gen _stream_send_gen _tx
    """,
    psycopg.ClientCursor: "_execute_send",
    psycopg.ServerCursor: """
        _close_gen _declare_gen _describe_gen _described _fetch_gen _format _iter_rows
        _make_declare_statement _scroll_gen
    """,
    psycopg.Connection: """
        _autocommit _check_connection_ok _commit_gen _exec_command _get_tx_start_command
        _notice_handlers _notify_handlers _num_transactions _pipeline _prepared _rollback_gen
        _start_query _tpc lock wait
    """,
    psycopg.Pipeline: """
        _communicate_gen _enqueue_sync _enter_gen _exit _exit_gen _fetch_gen _process_results
        _sync_gen command_queue level result_queue
    """,
    psycopg.Error: "_info",
    psycopg.errors: "error_from_result",
    psycopg.generators: "execute fetch",
    psycopg_pool.ConnectionPool: "_add_to_pool _check_connection _pool",
    psycopg_pool.AsyncConnectionPool: "_check_connection _pool schedule_task worker",
    base: "TIMESTAMPTZ_OID",
    base.CursorMixin: "callproc",
    base.DatabaseWrapper: """
        _close _commit _configure_connection _configure_role _configure_timezone _cursor _rollback
        _savepoint _savepoint_commit _savepoint_rollback
    """,
    postgis.DatabaseWrapper: "_type_infos",
    creation.DatabaseCreation: "_execute_create_test_db",
    schema.DatabaseSchemaEditor: "_create_index_name _field_should_be_altered sql_create_fk",
    psycopg_any: "register_tzloader",
    compiler.SQLCompiler: "get_from_clause get_related_selections",
    compiler.SQLDeleteCompiler: "_as_sql",
    models.BaseConstraint: "_check" if django.VERSION < (6,) else "check",
    models.Expression: "_resolve_output_field",
    # Whatever deconstructible() decorates.
    models.F: "_constructor_args",
    models.Model: "_get_unique_checks",
    models.QuerySet: """
        _chain _combinator_query _db _fetch_all _not_support_combined_queries _result_cache
    """,
    forms.ModelForm: "_get_validation_exclusions",
    exception: "response_for_exception",
    asyncio: "_get_running_loop",
    SimpleLazyObject: "_setupfunc",
    Request: "_request",
}
if find_spec("django_async_backend") is not None:
    asyncs: Any = import_module("django_async_backend.db.backends.postgresql.async_base")
    RELIED_ON[asyncs.AsyncDatabaseWrapper] = """
        _configure_connection _configure_role _connection_pools
    """
    asyncs = import_module("django_async_backend.db.models.sql.compiler")
    RELIED_ON[asyncs.SQLDeleteCompiler] = "_as_sql"
PAIRS = [(owner, name) for owner, names in RELIED_ON.items() for name in names.split()]


def is_named_in(owner: Any, name: str) -> bool:
    """Return whether `name` is one of a module or class, or one that its methods set on objects."""
    functions = [
        getattr(value, "__func__", value)
        for each in getattr(owner, "__mro__", ())
        for value in vars(each).values()
    ]
    return hasattr(owner, name) or any(
        name in function.__code__.co_names
        for function in functions
        if isinstance(function, FunctionType)
    )


def test_names_that_are_relied_on() -> None:
    # psycopg 3.2 keeps no page of rows between two of them.
    missing = [] if base.psycopg_version() >= (3, 3) else [(psycopg.ServerCursor, "_iter_rows")]
    assert [pair for pair in PAIRS if not is_named_in(*pair)] == missing


def assigned(node: ast.AST) -> Iterator[str]:
    """Yield the names that a module or a class gives to what it has, and to its objects."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    if isinstance(node, ast.Assign):
        for target in node.targets:
            yield from (each.id for each in ast.walk(target) if isinstance(each, ast.Name))
            if ast.unparse(target) in {"SLOTS", "__slots__"}:
                yield from texts(node.value)
    if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.value:
        yield node.target.id
    if isinstance(node, ast.FunctionDef) and node.name == "__init__":
        for each in ast.walk(node):
            if isinstance(each, ast.Attribute) and isinstance(each.ctx, ast.Store):
                yield each.attr


def asked(node: ast.AST) -> Iterator[str]:
    """Yield the names of attributes that are asked for, as such or in a text."""
    if isinstance(node, ast.Attribute):
        yield node.attr
    if isinstance(node, ast.Compare) or (
        isinstance(node, ast.Call)
        and ast.unparse(node.func) in {"attrgetter", "delattr", "getattr", "hasattr", "setattr"}
    ):
        yield from texts(node)


def private(names: Callable[[ast.AST], Iterator[str]]) -> set[str]:
    """Return the private ones of the names that a function finds in all modules."""
    trees = [tree for name, tree in TREES.items() if importable(name)]
    found = (each for tree in trees for node in ast.walk(tree) for each in names(node))
    return set(filter(PRIVATE.fullmatch, found))


def overridden() -> Iterator[tuple[type, str]]:
    """Yield the classes of others that have a private name which a class over them has too."""
    ours = private(assigned)
    classes: set[Any] = {cursor.bound(psycopg.ClientCursor)}
    for name in filter(importable, NAMES):
        found = vars(import_module(name)).values()
        classes |= {each for each in found if isinstance(each, type) and each.__module__ == name}
    for each in classes:
        bases = each.__mro__
        known = {name for cls in filter(is_ours, bases) for name in ours & set(vars(cls))}
        for other in itertools.filterfalse(is_ours, bases):
            yield from ((other, name) for name in known & set(vars(other)))


def is_ours(cls: type) -> bool:
    return cls.__module__.partition(".")[0] == "tenantry"


def test_all_names_that_are_relied_on_are_known() -> None:
    over = set(overridden())
    wanted = (private(asked) - private(assigned) - DOCUMENTED) | {name for _, name in over}
    assert wanted == {name for _, name in PAIRS if PRIVATE.fullmatch(name)}
    # Also where several classes have one of the name.
    classes = [pair for pair in PAIRS if isinstance(pair[0], type)]
    for other, name in over:
        assert any(issubclass(owner, other) for owner, each in classes if each == name), other


def test_constraints_that_django_writes_into_migrations() -> None:
    assert Note._meta.original_attrs["constraints"] is Note._meta.constraints


async def test_names_of_asyncio() -> None:
    assert asyncio._get_running_loop() is asyncio.get_running_loop()


async def test_names_of_asgiref_where_sync_code_waits_for_async_code() -> None:
    async def inner() -> Any:
        return await sync_to_async(waiting_for_async)()

    def in_hop() -> Any:
        return "task_context" in vars(SyncToAsync.threadlocal), async_to_sync(inner)()

    has_tasks, (executor, tasks) = await sync_to_async(in_hop)()
    assert has_tasks
    assert executor is not None
    assert tasks is not None
