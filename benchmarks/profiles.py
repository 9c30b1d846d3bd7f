"""Where the time goes: of an ORM read, and of an async request; as flame graphs and a table.

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
from collections.abc import Callable
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory
from django.urls import path

from benchmarks import data, report
from benchmarks.program import ROWS_READ
from benchmarks.project import project
from tenantry import tenant_context

ALIAS, TENANTS = "direct tenantry", 500
RATE = 500
# Whose a frame is, by a part of its file's name; the first that fits.
OWNERS = (
    ("waiting for the server", "psycopg/waiting.py"),
    ("tenantry", "tenantry/"),
    ("psycopg", "psycopg"),
    ("Django, ORM", "django/db"),
    ("Django, requests", "django/"),
    ("asgiref", "asgiref"),
    ("asyncio, threads", "asyncio"),
    ("asyncio, threads", "concurrent/"),
    ("asyncio, threads", "threading.py"),
)


def newest() -> list[Any]:
    """Return the newest notes of the tenant that is current."""
    notes = data.rows("ProtectedNote", ALIAS).order_by("-created_at")
    return list(notes[:ROWS_READ])


def read(until: float) -> int:
    """Read as one tenant after another; return how often."""
    count = 0
    while time.monotonic() < until:
        count += 1
        with tenant_context(1 + count % TENANTS):
            if len(newest()) != ROWS_READ:
                raise RuntimeError("the wrong notes")
    return count


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


def serve(until: float) -> int:
    """Answer requests through Django's ASGI handler; return how many."""
    from django.core.handlers.asgi import ASGIHandler  # noqa: PLC0415 - Django is set up by now

    settings.ROOT_URLCONF = __name__
    settings.ALLOWED_HOSTS = ["*"]
    settings.MIDDLEWARE = ["benchmarks.profiles.known", "tenantry.middleware.RLSTenantMiddleware"]
    handler = ASGIHandler()
    factory = AsyncRequestFactory()

    async def answer_all() -> int:
        count = 0
        while time.monotonic() < until:
            count += 1
            response: Any = await handler.get_response_async(factory.get("/"))
            if response.status_code != 200:
                raise RuntimeError("the wrong answer")
        return count

    return asyncio.run(answer_all())


WORKLOADS: dict[str, Callable[[float], int]] = {"orm-read": read, "async-request": serve}


def owner_of(frame: str) -> str:
    """Return whose a frame is, as py-spy writes it: ``function (file:line)``."""
    return next((owner for owner, part in OWNERS if part in frame), "Python")


def shares(raw: str) -> dict[str, float]:
    """Return the part of the samples whose innermost frame is of each owner."""
    samples: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        samples[owner_of(stack.rpartition(";")[2])] += int(count)
    total = sum(samples.values())
    return {owner: count / total for owner, count in samples.most_common()}


def py_spy() -> str:
    """Return the path of the program; exit where it is missing."""
    places = [sysconfig.get_path("scripts"), os.environ.get("PATH", "")]
    found = shutil.which("py-spy", path=os.pathsep.join(places))
    return found or sys.exit("py-spy is missing: install it with: pip install py-spy")


def spy(target: Path, seconds: float, kind: str) -> None:
    """Write down what this process does."""
    command = [py_spy(), "record", "--pid", str(os.getpid()), "--rate", str(RATE), "--nonblocking"]
    command += ["--duration", str(int(seconds)), "--format", kind, "--output", str(target)]
    subprocess.run(command, check=True, capture_output=True)


def profile(name: str, seconds: float, directory: Path) -> None:
    """Run a workload while it is looked at; write a flame graph, and print the shares."""
    work = WORKLOADS[name]
    work(time.monotonic() + 1)
    raw = directory / f"{name}.raw"
    for target, kind in ((directory / f"{name}.svg", "flamegraph"), (raw, "raw")):
        spying = threading.Thread(target=spy, args=(target, seconds, kind))
        spying.start()
        count = work(time.monotonic() + seconds + 1)
        spying.join()
    graph = directory / f"{name}.svg"
    # Its title is the command, with paths of this machine.
    graph.write_text(re.sub(r">[^<>]*py-spy record[^<>]*<", f">{name}<", graph.read_text()))
    print(f"\n{name}: {1e6 * (seconds + 1) / count:.0f} us each")
    for owner, share in shares(raw.read_text()).items():
        print(f"  {owner:24} {share:6.1%}")
    raw.unlink()


def main() -> None:
    """Profile the workloads."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=10, help="for each, twice")
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the graphs")
    options = parser.parse_args()
    py_spy()
    options.output.mkdir(parents=True, exist_ok=True)
    with project():
        data.create(rows=ROWS_READ * TENANTS, tenants=TENANTS)
        data.require_isolation(ALIAS)
        for name in WORKLOADS:
            profile(name, options.seconds, options.output)


if __name__ == "__main__":
    main()
