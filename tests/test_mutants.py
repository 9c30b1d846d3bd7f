"""Each guarantee has a test that fails when it is broken."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as Xml

import pytest

from tests.fix_commands import ROOT
from tests.mutants import MUTANTS, WHOLE, id_of
from tests.settings import SHAPES

pytestmark = [pytest.mark.guc_shape, pytest.mark.slow]
# What a test says that has noticed something, and not one that could not run.
NOTICED = re.compile("AssertionError|DID NOT RAISE")


def outcomes(report: Path) -> dict[str, str]:
    """Return what each test of a report has failed with, or nothing."""
    found = {}
    for case in Xml.parse(report).iter("testcase"):
        test = f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}"
        failures = [*case.iter("failure"), *case.iter("error")]
        found[test] = "".join(each.text or "" for each in failures)
    return found


@pytest.mark.parametrize("shape", sorted({each.shape for each in MUTANTS.values()}))
def test_what_is_broken_is_noticed(shape: str, tmp_path: Path) -> None:
    mutants = {name: each for name, each in MUTANTS.items() if each.shape == shape}
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants", "-p", "no:cacheprovider"]
    command += [f"--junitxml={report}", *sorted({each.function for each in mutants.values()})]
    environment = os.environ | {"TENANTRY_SHAPE": shape}
    if "ADMIN_ROLE" in SHAPES[shape]:
        # The embedded server can have one.
        environment.pop("TENANTRY_PG_BINDIR", None)
    result = subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert report.exists(), result.stdout + result.stderr
    found = outcomes(report)
    broken = {id_of(each.test, name) for name, each in mutants.items()}
    whole = {id_of(each.test, WHOLE) for each in mutants.values()}
    assert found.keys() == broken | whole, result.stdout
    assert {test for test in whole if found[test]} == set(), result.stdout
    assert {test for test in broken if not NOTICED.search(found[test])} == set(), result.stdout
