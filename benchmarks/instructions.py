"""The instructions that a statement, a transaction and a query take: counted, not timed.

It needs valgrind. ``benchmarks/README.md`` says what is compared, and how to read the result.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from itertools import count
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.db import connections

from benchmarks import report, tables
from benchmarks.project import STOCK, TENANTRY, project

ROOT = Path(__file__).resolve().parent.parent
COUNTED = Path(__file__).with_name("counted.py")
# What `counted.py` does, in its order, and the numbers of turns of each.
WORKS = (
    "statement",
    "atomic(statement)",
    "compiling a queryset",
    "compiling one, beside no filter for the tenant",
)
TURNS = (5, 30)
# How often all of it. Each round draws chance again, which moves a count by a hundredth or two.
ROUNDS = 11
# Of an entry of DATABASES.
KEYS = ("NAME", "USER", "HOST", "PORT", "OPTIONS")


def counted(database: Mapping[str, Any], rounds: int) -> dict[str, dict[str, float]]:
    """Return the instructions of each work with both ENGINEs, and their ratio.

    `database` is an entry of DATABASES.
    """
    stock, ours = (instructions(database, engine, rounds) for engine in (STOCK, TENANTRY))
    return {
        work: {
            "stock": stock[work],
            "tenantry": ours[work],
            "ratio": round(ours[work] / stock[work], 4),
        }
        for work in WORKS
    }


def instructions(database: Mapping[str, Any], engine: str, rounds: int) -> dict[str, int]:
    """Return the instructions of one turn of each work, the median of the rounds.

    Raises RuntimeError if valgrind fails.
    """
    entry = {key: database[key] for key in KEYS} | {"ENGINE": engine}
    place = None
    if entry["HOST"].startswith("/"):
        # What the process is told is the same each time, and so is what it does with it.
        place, entry["HOST"] = entry["HOST"], "/proc/self/cwd"
    arguments = [json.dumps(each) for each in (entry, rounds, *TURNS)]
    with tempfile.TemporaryDirectory(prefix="callgrind-") as name:
        command = ["valgrind", "--tool=callgrind", "--instr-atstart=no"]
        command += [f"--callgrind-out-file={name}/out", sys.executable, str(COUNTED), *arguments]
        done = subprocess.run(
            command, cwd=place, env=environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"valgrind ended with {done.returncode}:\n{done.stderr}")
        return medians(Path(name), rounds)


def environment() -> dict[str, str]:
    """Return the same environment each time."""
    paths = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "src")}
    return paths | {"PYTHONHASHSEED": "0"}


def medians(directory: Path, rounds: int) -> dict[str, int]:
    """Return what the files of callgrind's say of one turn of each work."""
    files = count(1)
    found: dict[str, list[float]] = {work: [] for work in WORKS}
    for _ in range(rounds):
        next(files)
        for counts in found.values():
            few, many = (total(directory / f"out.{next(files)}") for _ in TURNS)
            counts.append((many - few) / (TURNS[1] - TURNS[0]))
    return {work: round(statistics.median(counts)) for work, counts in found.items()}


def total(file: Path) -> int:
    """Return the instructions that a file of callgrind's has counted."""
    totals = re.search(r"^totals: (\d+)", file.read_text(), re.MULTILINE)
    assert totals is not None
    return int(totals[1])


def main() -> None:
    """Count, print a table, and write ``instructions.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    with project() as facts:
        found = counted(connections["direct stock"].settings_dict, ROUNDS)
    print(f"{'':48}{'stock':>12}{'tenantry':>12}{'ratio':>9}")
    for work, each in found.items():
        print(f"{work:48}{each['stock']:12,}{each['tenantry']:12,}{each['ratio']:9.3f}")
    result = {"machine": facts, "works": found}
    report.write("instructions", result, directory=options.output, markdown=tables.works_markdown)


if __name__ == "__main__":
    main()
