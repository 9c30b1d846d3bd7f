"""However many rows a tenant has, the commands keep few of them in memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.app.models import Tenant
from tests.fix_commands import ROOT

Tenants = tuple[Tenant, Tenant]
ROWS = 100_000
# Runs a command, and prints the most memory that it had, in kilobytes.
MEASURED = """\
import resource, sys, django
from django.core.management import call_command
django.setup()
call_command(*sys.argv[1:], stdout=sys.stderr)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def memory(*arguments: object) -> int:
    """Return the kilobytes that a command needs."""
    result = subprocess.run(
        [sys.executable, "-c", MEASURED, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return int(result.stdout)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(
    tenants: Tenants,
    superuser: psycopg.Connection[Any],
    processes: dict[str, str],
    tmp_path: Path,
) -> None:
    a, b = tenants
    small, large = tmp_path / "small.jsonl", tmp_path / "large.jsonl"
    superuser.execute(
        "INSERT INTO app_note (title, tenant_id)"
        " SELECT format('%%s %%s', i, repeat('x', 500)), %s FROM generate_series(1, %s) i",
        [b.pk, ROWS],
    )
    least = memory("export_tenant", a.pk, "--output", small)
    most = memory("export_tenant", b.pk, "--output", large)
    assert large.stat().st_size > 50_000_000
    assert most - least < 10_000

    for tenant in tenants:
        memory("delete_tenant", tenant.pk, "--yes", "--batch", 20_000)
    least = memory("import_tenant", small, "--database", "owner")
    most = memory("import_tenant", large, "--database", "owner")
    # A batch of rows, their columns and the statement.
    assert most - least < 30_000
    row = superuser.execute(
        "SELECT count(*), count(DISTINCT title) FROM app_note WHERE tenant_id = %s", [b.pk]
    ).fetchone()
    assert row == (ROWS + 2, ROWS + 2)
