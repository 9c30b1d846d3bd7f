"""How many instructions of the processor a statement, a transaction and a query take.

As a ratio to stock Django, it is nearly the same on every machine and each time; seconds are not. A
change that needs more says so here. It needs valgrind, which runs on Linux.
"""

from __future__ import annotations

import sys

import pytest
from django.db import connections

from benchmarks.instructions import counted

# Two percent above what was counted, which chance moves by one: a statement took 1.16 to 1.175.
LIMITS = {
    "statement": 1.195,
    "atomic(statement)": 1.115,
    "compiling a queryset": 0.92,
    "compiling one, beside no filter for the tenant": 1.04,
}


@pytest.mark.guc_shape
@pytest.mark.skipif(sys.platform != "linux", reason="valgrind does not run on this platform")
def test_few_instructions_are_added(project: None) -> None:
    found = counted(connections["default"].settings_dict, rounds=3)
    ratios = {work: each["ratio"] for work, each in found.items()}
    assert ratios.keys() == LIMITS.keys()
    assert [work for work, ratio in ratios.items() if ratio > LIMITS[work]] == [], found
