"""The soak test: it finds a leak where there is one, and says so by its exit status."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tenantry.backends.postgresql import statement
from tenantry.backends.postgresql.apply import prefix
from tenantry.binding import ADMIN
from tests.soak import World, judge


@pytest.fixture
def world(project: None, superuser: psycopg.Connection[Any]) -> World:
    return World("default", superuser)


def found(output: str) -> tuple[int, int]:
    """Return how many operations and leaks there were."""
    match = re.search(r"^operations: (\d+), leaks: (\d+)\Z", output.strip(), re.MULTILINE)
    assert match, output
    return int(match[1]), int(match[2])


@pytest.mark.unsealed
def test_a_binding_of_somebody_else_is_a_leak(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(statement, "prefix", lambda binding, *others: prefix(ADMIN, *others))
    assert judge([world], 0.1, seed=1, examples=3) == 1
    output = capsys.readouterr().out
    assert found(output)[1] >= 1
    assert re.search(r"^default, seed \d+:\nTraceback", output, re.MULTILINE)


def test_where_nothing_leaks_all_is_well(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert judge([world], 0.1, seed=1, examples=3) == 0
    operations, leaks = found(capsys.readouterr().out)
    assert operations > 50
    assert leaks == 0


@pytest.mark.guc_shape
def test_the_program_has_servers_of_its_own() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.soak", "--minutes", "0"],
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert found(done.stdout) == (0, 0)
