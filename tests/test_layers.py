"""How the package is built: who imports whom, who writes GUCs, what is public, how long it is."""

from __future__ import annotations

import ast
import asyncio
import re
import subprocess
import sys
from contextlib import nullcontext
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg
import pytest
from asgiref.sync import SyncToAsync, sync_to_async
from django.core.exceptions import ImproperlyConfigured
from django.db.backends.postgresql import base, compiler, psycopg_any

import tenantry
from tenantry.backends.postgresql import base as our_base
from tests.app.models import Note

SOURCE = Path(tenantry.__file__).parent
MODULES = sorted(SOURCE.rglob("*.py"))
NAMES = [
    ".".join(("tenantry", *module.relative_to(SOURCE).with_suffix("").parts)).removesuffix(
        ".__init__"
    )
    for module in MODULES
]


def test_import_contracts_hold() -> None:
    program = Path(sys.executable).with_name("lint-imports")
    root = SOURCE.parent.parent
    result = subprocess.run([program], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("module", MODULES, ids=NAMES)
def test_a_module_is_short(module: Path) -> None:
    assert len(module.read_text().splitlines()) <= 400


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
    writers = [
        module.relative_to(SOURCE).as_posix()
        for module in MODULES
        if any(map(writes.search, texts(ast.parse(module.read_text()))))
    ]
    assert writers == ["backends/postgresql/apply.py"]


def test_only_the_backends_import_psycopg() -> None:
    importers = set()
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if {name.partition(".")[0] for name in names} & {"psycopg", "psycopg_pool"}:
                importers.add(module.relative_to(SOURCE).parts[0])
    assert importers == {"backends"}


def test_one_context_variable() -> None:
    holders = [module.name for module in MODULES if "ContextVar(" in module.read_text()]
    assert holders == ["binding.py"]


def test_no_private_name_crosses_a_module() -> None:
    for module in MODULES:
        for node in ast.walk(ast.parse(module.read_text())):
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


@pytest.mark.parametrize("name", [name for name in NAMES if importable(name)])
def test_public_names_say_what_they_are(name: str) -> None:
    module: Any = import_module(name)
    assert module.__doc__ or name.endswith(
        ("backends", "commands", "management", "postgresql", "postgis", "policies")
    )
    for public, value in vars(module).items():
        if not public.startswith("_") and getattr(value, "__module__", None) == name:
            assert not callable(value) or value.__doc__, public


def test_the_async_wrapper_is_imported_when_somebody_asks_for_it() -> None:
    installed = find_spec("django_async_backend")
    missing = pytest.raises(ImproperlyConfigured, match="here is none; install it with: pip")
    with nullcontext() if installed else missing:
        assert our_base.AsyncDatabaseWrapper.__name__ == "AsyncDatabaseWrapper"
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        our_base.nonsense  # noqa: B018


# Private or undocumented names of others that are relied on. A release that renames one fails here.


def test_names_of_psycopg() -> None:
    cursor: Any = psycopg.Cursor
    for name in (
        "_execute_gen",
        "_execute_send",
        "_last_query",
        "_maybe_prepare_gen",
        "_reset",
        "_send_query_prepared",
        "_check_results",
        "_raise_for_result",
        "_stream_send_gen",
        "_start_copy_gen",
        "_start_query",
        "_convert_query",
        "_set_results",
        "_execmany_returning",
    ):
        assert hasattr(cursor, name) or name in cursor.__mro__[1].__slots__, name
    slots = cursor.__mro__[1].__slots__
    assert {"_conn", "_pgconn", "_query", "_tx", "_execmany_returning"} <= set(slots)
    for name in ("_declare_gen", "_describe_gen", "_fetch_gen", "_scroll_gen"):
        assert hasattr(psycopg.ServerCursor, name), name
    for name in ("_enter_gen", "_exit_gen", "_exit", "_enqueue_sync", "_process_results"):
        assert callable(getattr(psycopg.Pipeline, name)), name
    for name in (
        "_check_connection_ok",
        "_commit_gen",
        "_exec_command",
        "_get_tx_start_command",
        "_rollback_gen",
        "_start_query",
    ):
        assert callable(getattr(psycopg.Connection, name)), name
    assert callable(psycopg.generators.execute)
    assert callable(psycopg.generators.fetch)
    assert "_info" in vars(psycopg.Error())
    assert "_tpc" in psycopg.BaseConnection.__init__.__code__.co_names


def test_names_of_django() -> None:
    assert base.TIMESTAMPTZ_OID == 1184
    assert callable(psycopg_any.register_tzloader)
    assert callable(base.CursorMixin.callproc)
    assert Note._meta.original_attrs["constraints"] is Note._meta.constraints
    assert callable(compiler.SQLCompiler.get_from_clause)
    assert callable(compiler.SQLCompiler.get_related_selections)
    assert hasattr(compiler.SQLDeleteCompiler, "_as_sql")
    for name in (
        "_configure_connection",
        "_configure_role",
        "_configure_timezone",
        "_cursor",
        "_savepoint",
        "_savepoint_rollback",
        "_savepoint_commit",
    ):
        assert callable(getattr(base.DatabaseWrapper, name)), name


async def test_names_of_asyncio() -> None:
    assert asyncio._get_running_loop() is asyncio.get_running_loop()


async def test_names_of_asgiref() -> None:
    def in_hop() -> Any:
        return SyncToAsync.threadlocal.main_event_loop, SyncToAsync.threadlocal.main_event_loop_pid

    loop, pid = await sync_to_async(in_hop)()
    assert loop.is_running()
    assert pid > 0
