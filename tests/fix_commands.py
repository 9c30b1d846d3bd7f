"""Commands that start processes, which find the database by the environment of libpq."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import tenantry
from example_asgi.servers import Postgres

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def processes(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the environment in which a process finds the project and its database."""
    source = Path(tenantry.__file__).resolve().parent.parent
    for name, value in {
        "PGHOST": str(postgres.host),
        "PGPORT": str(postgres.port),
        "PATH": os.pathsep.join([str(postgres.bindir), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(source)]),
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "PYTHONWARNINGS": "error",
    }.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


def manage(*arguments: object, text: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, as somebody at a terminal would."""
    return subprocess.run(
        [sys.executable, "-m", "django", *map(str, arguments)],
        input=text,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
