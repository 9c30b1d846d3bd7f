"""A project with names of its own for the foreign key and the parameters, and UUIDs for keys."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from example_asgi.servers import Postgres, grant_by_default
from tests.fix_docs import SOURCE

ROOT = Path(__file__).resolve().parent.parent
DATABASE = "renamed"
TENANTS = {name: f"00000000-0000-0000-0000-00000000000{name}" for name in "ab"}
OF_POLICY = 'new row violates row-level security policy for table "renamed_row"'
OF_INDEX = 'duplicate key value violates unique constraint "renamed_row_customer_id_code_'


@pytest.fixture
def run(
    postgres: Postgres, superuser: psycopg.Connection[Any], tmp_path: Path
) -> Iterator[Callable[..., str]]:
    """Return a function that runs a module of Python with the project's settings."""
    superuser.execute(f"CREATE DATABASE {DATABASE} OWNER owner")
    grant_by_default(postgres.dsn("postgres", DATABASE), owner="owner", to="app")
    (tmp_path / "migrations_of_renamed").mkdir()
    (tmp_path / "migrations_of_renamed" / "__init__.py").touch()
    paths = [str(SOURCE), str(ROOT), str(tmp_path), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.renamed.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TENANTRY_TEST_DATABASE": DATABASE,
        "TENANTRY_TEST_HOST": str(postgres.host),
        "TENANTRY_TEST_PORT": str(postgres.port),
    }

    def module(*arguments: str) -> str:
        command = [sys.executable, "-W", "error", "-m", *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    yield module
    superuser.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")


@pytest.mark.guc_shape
def test_all_that_has_a_name_of_its_own_is_found_by_it(run: Callable[..., str]) -> None:
    run("django", "check", "--fail-level", "WARNING")
    run("django", "makemigrations", "renamed")
    run("django", "migrate", "--database", "owner")
    run("django", "makemigrations", "--check", "--dry-run")
    run("django", "check_rls", "--fail-level", "WARNING")
    found = json.loads(run("tests.renamed"))

    rows = {"nobody": [], "a": ["of a", "same"], "b": ["of b", "same"]}
    rows["admin"] = sorted(rows["a"] + rows["b"])
    for name, expected in rows.items():
        assert found[name]["orm"] == found[name]["raw"] == expected, name
        assert sorted(found[f"user, {name}"]) == rows["b"]
        assert found[name]["parameters"] == [TENANTS.get(name, ""), ""]
    for name, tenant in TENANTS.items():
        value = f"'{tenant.replace('-', '')}'"
        assert f'WHERE "renamed_row"."customer_id" = {value}' in found[name]["sql"]
    assert 'WHERE "renamed_row"."customer_id" = NULL' in found["nobody"]["sql"]
    assert "WHERE" not in found["admin"]["sql"]

    for name in TENANTS:
        *foreign, twice = found[f"refused, {name}"]
        assert foreign == [OF_POLICY] * 3
        assert twice.startswith(OF_INDEX)
    assert found["policies"]
    for policy in found["policies"]:
        assert "customer_id" in policy
        assert "acme" in policy
        assert not re.search(r"rls|\btenant_id", policy)
    indexes = " ".join(found["indexes"])
    assert "(customer_id, code DESC)" in indexes
    assert "UNIQUE INDEX" in indexes
    assert "(customer_id, code)" in indexes
