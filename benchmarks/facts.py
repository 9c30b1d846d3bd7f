"""What results depend on, apart from the candidates: every file of results has the same facts."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import psycopg

from example_asgi.servers import PgBouncer, Postgres

ROOT = Path(__file__).resolve().parent.parent
# What is measured, and by what; results are of no commit if anything of it was changed.
SOURCES = ("src", "benchmarks", "example_asgi", ":(exclude)benchmarks/results")
# For how many seconds it is seen whether others use the processors, and how much is too much.
LOOK, BUSY = 0.5, 0.05
# Those that the benchmarks change, and that matter.
SETTINGS = ("fsync", "shared_buffers", "autovacuum")


def facts(
    postgres: Postgres, pgbouncer: PgBouncer | None = None, *, placement: str
) -> dict[str, str | int]:
    """Return what is true of this run; `placement` says on which processors servers run."""
    return software() | {
        "postgresql": postgres.version,
        "pgbouncer": pgbouncer.version if pgbouncer else "",
        **server_settings(postgres),
        "servers_and_clients": placement,
    }


def software() -> dict[str, str | int]:
    """Return what is true without a server."""
    return {
        "processor": processor(),
        "cpus": os.cpu_count() or 0,
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "system": f"{platform.system()} {platform.release()}",
        "load_before": f"{os.getloadavg()[0]:.2f}",
        "busy_before": busy(),
        "tenantry": version("django-tenantry"),
        "commit": commit(),
        "python": platform.python_version(),
        "django": version("django"),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
    }


def busy() -> str:
    """Return the share of the processors that others use now; nothing where Linux does not tell it.

    Warns on stderr where it is so large that results are not to be trusted.
    """
    try:
        before = used()
    except OSError:
        return ""
    time.sleep(LOOK)
    working, every = (now - then for now, then in zip(used(), before, strict=True))
    share = working / every
    if share > BUSY:
        print(
            f"something else uses {share:.0%} of the processors: end it and run this again, or the"
            " results say how it disturbs the candidates",
            file=sys.stderr,
        )
    return f"{share:.0%}"


def used() -> tuple[int, int]:
    """Return the ticks that all processors have worked, or were taken away for, and all ticks."""
    first = Path("/proc/stat").read_text().partition("\n")[0].split()
    # user, nice, system, idle, iowait, irq, softirq, steal; what follows is part of the first two.
    ticks = [int(each) for each in first[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def commit() -> str:
    """Return the commit, and whether the sources differ from it; nothing outside of a checkout."""
    if not (number := git("rev-parse", "--short", "HEAD")):
        return ""
    changed = git("status", "--porcelain", "--", *SOURCES)
    return f"{number}, and changes" if changed else number


def git(*arguments: str) -> str:
    """Return what git says; nothing if it fails, or is not there."""
    try:
        done = subprocess.run(["git", "-C", ROOT, *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def server_settings(postgres: Postgres) -> dict[str, str]:
    """Return the values of :data:`SETTINGS`, as the server has them."""
    with psycopg.connect(postgres.dsn()) as connection:
        rows = connection.execute(
            "SELECT name, current_setting(name) FROM unnest(%s::text[]) name", [list(SETTINGS)]
        )
        return dict(rows.fetchall())


def processor() -> str:
    """Return the name of the processor, if the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(": ")[2] for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())
