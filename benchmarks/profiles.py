"""Where the time goes: of an ORM read, an async request and raw SQL; flame graphs and a table.

It needs ``py-spy``, which looks at the process from outside. ``benchmarks/README.md`` says how to
read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from django.urls import path

from benchmarks import data, report, tables
from benchmarks.program import ROWS_READ
from benchmarks.project import project
from benchmarks.servers import servers
from benchmarks.side_by_side import Benchmark
from tenantry import tenant_context

ALIAS, TENANTS = "direct tenantry", 500
# The candidate whose requests are those of the benchmark side by side, and how many in a row.
CANDIDATE, BATCH = "with_tenantry", 2000
RATE = 500
# Whose a frame is, by a part of what py-spy calls it; the first that fits. What is in C, such as
# waiting and receiving, is part of the frame that calls it.
OWNERS = (
    ("the server", "wait (psycopg/connection"),
    ("tenantry", "tenantry/"),
    ("psycopg", "psycopg"),
    ("Django, ORM", "django/db"),
    ("Django, requests", "django/"),
    ("asgiref", "asgiref"),
    ("asyncio, threads", "asyncio"),
    ("asyncio, threads", "concurrent/"),
    ("asyncio, threads", "threading.py"),
    ("asyncio, threads", "selectors.py"),
)
# Until a time on the monotonic clock; returns how often it was done, and the seconds that it took.
Work = Callable[[float], tuple[int, float]]


def newest() -> list[Any]:
    """Return the newest notes of the tenant that is current."""
    notes = data.rows("ProtectedNote", ALIAS).order_by("-created_at")
    return list(notes[:ROWS_READ])


def read(until: float) -> tuple[int, float]:
    """Read as one tenant after another."""
    count, start = 0, time.monotonic()
    while time.monotonic() < until:
        count += 1
        with tenant_context(1 + count % TENANTS):
            if len(newest()) != ROWS_READ:
                raise RuntimeError("the wrong notes")
    return count, time.monotonic() - start


class User:
    """A user who has logged in, without SQL."""

    is_authenticated, is_tenant_admin, rls_tenant_id = True, False, 7


def known(get_response: Any) -> Any:
    """Stand for authentication."""

    async def middleware(request: Any) -> HttpResponse:
        async def auser() -> User:
            return user

        request.user, request.auser = user, auser
        return await get_response(request)  # type: ignore[no-any-return]

    user = User()
    return middleware


known.async_capable, known.sync_capable = True, False  # type: ignore[attr-defined]


async def page(request: HttpRequest) -> HttpResponse:
    """Answer with the newest notes."""
    notes = data.rows("ProtectedNote", ALIAS).order_by("-created_at")
    return HttpResponse(str([note.pk async for note in notes[:ROWS_READ]]))


urlpatterns = [path("", page)]


def serve(until: float) -> tuple[int, float]:
    """Answer requests through Django's ASGI handler."""
    from django.core.handlers.asgi import ASGIHandler  # noqa: PLC0415 - Django is set up by now

    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["*"]
    settings.MIDDLEWARE = ["benchmarks.profiles.known", "tenantry.middleware.RLSTenantMiddleware"]
    handler = ASGIHandler()
    factory = AsyncRequestFactory()

    async def answer_all() -> tuple[int, float]:
        count, start = 0, time.monotonic()
        while time.monotonic() < until:
            count += 1
            response: Any = await handler.get_response_async(factory.get("/"))
            if response.status_code != 200:
                raise RuntimeError("the wrong answer")
        return count, time.monotonic() - start

    return asyncio.run(answer_all())


# What this process does.
WORKLOADS: dict[str, Work] = {"orm-read": read, "async-request": serve}


@contextmanager
def requests(workload: str) -> Iterator[tuple[Work, int]]:
    """Yield what asks for requests of the benchmark side by side, and the process that has them."""
    options = argparse.Namespace(rows=100_000, tenants=100, rounds=1, seconds=0, batch=BATCH)
    with servers(["direct"]) as started:
        benchmark = Benchmark(started, options)
        benchmark.pythons[CANDIDATE] = sys.executable
        benchmark.create()
        reasons = benchmark.not_run
        with benchmark.workers("direct", started.places["direct"], reasons) as pipes:
            if CANDIDATE in reasons:
                raise RuntimeError(reasons[CANDIDATE])
            pipe = pipes[CANDIDATE]

            def ask(until: float) -> tuple[int, float]:
                count, seconds = 0, 0.0
                while time.monotonic() < until:
                    tenants = [1 + number % options.tenants for number in range(BATCH)]
                    answer = pipe.ask("run", workload=workload, tenants=tenants)
                    count, seconds = count + BATCH, seconds + sum(answer["ns"]) / 1e9
                return count, seconds

            yield ask, pipe.process.pid


def owner_of(frame: str) -> str:
    """Return whose a frame is, as py-spy writes it: ``function (file:line)``."""
    return next((owner for owner, part in OWNERS if part in frame), "Python")


def shares(raw: str, inside: str) -> dict[str, float]:
    """Return the part of the samples whose innermost frame is of each owner.

    Only those count whose stack has `inside` in it.
    """
    samples: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        if inside in stack:
            samples[owner_of(stack.rpartition(";")[2])] += int(count)
    total = sum(samples.values())
    return {owner: round(count / total, 3) for owner, count in samples.most_common()}


def py_spy() -> str:
    """Return the path of the program; exit where it is missing."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    found = shutil.which("py-spy", path=os.pathsep.join(places))
    return found or sys.exit("py-spy is missing: install it with: pip install py-spy")


def spy(target: Path, pid: int, seconds: float, kind: str) -> None:
    """Write down what a process does."""
    command = [py_spy(), "record", "--pid", str(pid), "--rate", str(RATE), "--nonblocking"]
    command += ["--duration", str(int(seconds)), "--format", kind, "--output", str(target)]
    subprocess.run(command, check=True, capture_output=True)


def profile(
    name: str, work: Work, pid: int, options: argparse.Namespace, inside: str = ""
) -> dict[str, Any]:
    """Let a process work while it is looked at; write a flame graph, and return the shares."""
    work(time.monotonic() + 1)
    graph, raw = (options.output / f"{name}.{kind}" for kind in ("svg", "raw"))
    for target, kind in ((graph, "flamegraph"), (raw, "raw")):
        spying = threading.Thread(target=spy, args=(target, pid, options.seconds, kind))
        spying.start()
        count, seconds = work(time.monotonic() + options.seconds + 1)
        spying.join()
    # Its title is the command, with paths of this machine.
    graph.write_text(re.sub(r">[^<>]*py-spy record[^<>]*<", f">{name}<", graph.read_text()))
    found: dict[str, Any] = {
        "microseconds": round(1e6 * seconds / count, 1),
        "shares": shares(raw.read_text(), inside),
    }
    raw.unlink()
    print(f"\n{name}: {found['microseconds']:.0f} us each")
    for owner, share in found["shares"].items():
        print(f"  {owner:24} {share:6.1%}")
    return found


def main() -> None:
    """Profile the workloads; write ``profiles.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="for each, twice")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the graphs")
    options = parser.parse_args()
    py_spy()
    options.output.mkdir(parents=True, exist_ok=True)
    with project() as facts:
        data.create(rows=ROWS_READ * TENANTS, tenants=TENANTS)
        data.require_isolation(ALIAS)
        found = {
            name: profile(name, work, os.getpid(), options) for name, work in WORKLOADS.items()
        }
    with requests("raw") as (work, pid):
        found["raw-request"] = profile("raw-request", work, pid, options, "request (benchmarks/")
    result = {"machine": facts, "options": vars(options), "profiles": found}
    report.write("profiles", result, directory=options.output, markdown=tables.shares_markdown)


if __name__ == "__main__":
    main()
