"""Run Django's own test suite on its PostgreSQL backend and on tenantry's, and compare.

A test that passes on the one has to pass on the other; what fails on both is not looked at. The
suite comes from Django's source distribution of the installed version, or of ``--django VERSION``,
which is then used instead of the installed one. ``make django-suite`` installs what the tests need.
Logs and outcomes stay in ``.data/django-suite``.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg

ROOT = Path(__file__).resolve().parent.parent.parent
# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(ROOT))

from example_asgi.servers import Postgres, ensure_database  # noqa: E402
from tests.django_suite.outcomes import Run, gained, lost  # noqa: E402
from tests.django_suite.sdist import installed_version, source  # noqa: E402

DATA = ROOT / ".data"
ENGINES = {"stock": "django.db.backends.postgresql", "tenantry": "tenantry.backends.postgresql"}
MODULES = [
    "backends",
    "transactions",
    "transaction_hooks",
    "async",
    "select_for_update",
    "queries",
    "aggregation",
    "migrations",
    "schema",
    "postgres_tests",
]
# Of all tests: others are of other databases, or of packages that are not installed.
LEAST_SHARE = 0.7
SERVER = {
    # Nothing here has to survive a crash of the machine.
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    # All of Django's test models are flushed in one transaction.
    "max_locks_per_transaction": 1024,
}


class Process:
    """Run Django's suite on one engine, in a process of its own."""

    def __init__(self, name: str, options: argparse.Namespace, server: Postgres) -> None:
        self.name = name
        folder = DATA / "django-suite" / run_name(options, server)
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{name}.log"
        self.outcomes = folder / f"{name}.jsonl"
        self.outcomes.unlink(missing_ok=True)
        django = source(options.django, DATA)
        for database in (name, f"{name}_other"):
            ensure_database(server.dsn(), database, owner=server.superuser)
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *arguments(options)],
                cwd=django / "tests",
                env=os.environ | self.environment(options, server, django),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def environment(
        self, options: argparse.Namespace, server: Postgres, django: Path
    ) -> dict[str, str]:
        """Return what ``settings.py`` and ``runner.py`` read, and where Python finds modules."""
        given = filter(None, [os.environ.get("PYTHONPATH")])
        wanted = {
            "PYTHONPATH": os.pathsep.join([*given, str(django), str(ROOT / "src"), str(ROOT)]),
            "DJANGO_SUITE_ENGINE": ENGINES[self.name],
            "DJANGO_SUITE_HOST": server.host,
            "DJANGO_SUITE_PORT": str(server.port),
            "DJANGO_SUITE_NAME": self.name,
            "DJANGO_SUITE_OUTCOMES": str(self.outcomes),
        }
        if options.bound:
            wanted["DJANGO_SUITE_BOUND"] = "1"
        if options.pool:
            own = self.name == "tenantry"
            wanted["DJANGO_SUITE_POOL_MODE"] = "transaction" if own else "stock"
        if options.all:
            wanted["DJANGO_SUITE_DATABASE_TESTS"] = "1"
        if not has_icu(server):
            wanted["DJANGO_SUITE_LACKS_ICU"] = "1"
        return wanted

    def finish(self) -> Run:
        """Wait for the end, and return what became of the tests."""
        status = self.process.wait()
        run = Run.read(self.outcomes)
        print(f"{self.name}: {run.counts()}", flush=True)
        # 1 says that tests failed; any other, or a log without a count, that the run broke off.
        log = self.log.read_text(errors="replace")
        if status not in (0, 1) or "\nRan " not in log:
            lines = "\n".join(log.splitlines()[-40:])
            raise SystemExit(f"{lines}\n{self.name} broke off, with status {status}")
        return run


def has_icu(server: Postgres) -> bool:
    """Return whether the server has the collations that Django's suite uses."""
    with psycopg.connect(server.dsn()) as connection:
        cursor = connection.execute("SELECT FROM pg_collation WHERE collname = 'sv-x-icu'")
        return cursor.fetchone() is not None


def run_name(options: argparse.Namespace, server: Postgres) -> str:
    """Return a name for the combination that is run."""
    chosen = [name for name in ("bound", "pool", "all") if getattr(options, name)]
    return "-".join([options.django, f"pg{server.major}", *chosen])


def arguments(options: argparse.Namespace) -> list[str]:
    """Return the command line for Python."""
    command = ["runtests.py", "--settings=tests.django_suite.settings", "--noinput"]
    command.append(f"--parallel={options.parallel}")
    return command if options.all else [*command, *options.modules]


@contextmanager
def postgres(bindir: Path | None) -> Iterator[Postgres]:
    """Run a server on new data."""
    with tempfile.TemporaryDirectory(prefix="suite-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with Postgres(directory / "pg", bindir=bindir, **SERVER) as server:
            yield server


def run(options: argparse.Namespace) -> dict[str, Run]:
    """Run the suite on the engines, at the same time."""
    with postgres(options.pg_bindir) as server:
        names = list(ENGINES) if options.engine == "both" else [options.engine]
        print(f"Django {options.django}, PostgreSQL {server.version}: {' and '.join(names)}")
        started = time.monotonic()
        processes = []
        try:
            for name in names:
                processes.append(Process(name, options, server))
                print(f"{name}: see {processes[-1].log.relative_to(ROOT)}", flush=True)
            runs = {each.name: each.finish() for each in processes}
        finally:
            for each in processes:
                each.process.kill()
                each.process.wait()
        print(f"took {time.monotonic() - started:.0f} s", flush=True)
        return runs


def report(failed: Iterable[str], passed: int, ours: Run) -> int:
    """Print what failed, and the summary; return how many failed."""
    tests = list(failed)
    for test in tests:
        print(f"{'=' * 70}\n{ours.describe(test)}")
    print(f"{passed} passed, {len(tests)} failed")
    return len(tests)


def compare(stock: Run, ours: Run) -> int:
    """Print how the runs differ; return how many tests pass on stock and not on ours."""
    more = gained(stock, ours)
    print(f"fail on stock: {len(stock.failures())}; pass on tenantry only: {len(more)}")
    print(
        "".join(f"    {test}: {stock.outcomes.get(test, 'did not run')}\n" for test in more), end=""
    )
    passed = sum(stock.passed(test) and ours.passed(test) for test in ours.outcomes)
    failed = report(lost(stock, ours), passed, ours)
    if passed < LEAST_SHARE * len(stock.outcomes):
        # What keeps stock from running keeps ours from being compared.
        raise SystemExit(f"only {passed} of {len(stock.outcomes)} tests pass on both")
    return failed


def main() -> None:
    """Run and compare; exit with 1 when a test is lost."""
    options = parse_arguments()
    runs = run(options)
    if options.engine == "both":
        failed = compare(runs["stock"], runs["tenantry"])
    else:
        [only] = runs.values()
        passed = sum(map(only.passed, only.outcomes))
        failed = report(only.failures(), passed, only)
    sys.exit(min(failed, 1))


def parse_arguments() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--engine", choices=[*ENGINES, "both"], default="both")
    parser.add_argument("--bound", action="store_true", help="run with a tenant bound")
    parser.add_argument(
        "--pool", action="store_true", help="with a pool, tenantry's for a transaction at a time"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--modules", nargs="+", default=MODULES, help="labels of Django's tests")
    which.add_argument("--all", action="store_true", help="all tests that use a database")
    parser.add_argument("--django", default=installed_version(), metavar="VERSION")
    parser.add_argument("--parallel", type=int, default=1, help="processes for each engine")
    bindir = os.environ.get("TENANTRY_PG_BINDIR")
    parser.add_argument("--pg-bindir", type=Path, default=bindir, help="programs of a PostgreSQL")
    options = parser.parse_args()
    if options.bound and options.parallel != 1:
        parser.error("--bound binds a tenant in one process only")
    return options


if __name__ == "__main__":
    main()
