"""What ``RLSTenantMiddleware`` adds to a request whose user is known; nothing is sent.

It needs no server. ``benchmarks/README.md`` says how to read the result.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import sys
from pathlib import Path
from time import process_time
from types import SimpleNamespace
from typing import Any

import django
from django.conf import settings

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import report
from benchmarks.facts import software
from benchmarks.project import TENANTRY
from benchmarks.stats import Round, spread

settings.configure(
    DATABASES={"default": {"ENGINE": TENANTRY, "NAME": "none"}},
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["tenantry", "benchmarks"],
    RLS_TENANTS={"TENANT_MODEL": "benchmarks.Tenant"},
)
django.setup()

from django.http import HttpRequest, HttpResponse  # noqa: E402

from tenantry.binding import current_binding  # noqa: E402
from tenantry.middleware import RLSTenantMiddleware  # noqa: E402

REQUESTS = 2000
USER = SimpleNamespace(is_authenticated=True, is_tenant_admin=False, rls_tenant_id=7)


def view(request: HttpRequest) -> HttpResponse:
    """Return an empty response that says who asked."""
    return HttpResponse(headers={"X-Tenant": str(current_binding().tenant_id)})


async def async_view(request: HttpRequest) -> HttpResponse:
    """Return what the other view does."""
    return view(request)


async def known() -> SimpleNamespace:
    """Return the user, as ``request.auser()`` does once it has been asked."""
    return USER


def request_of_user() -> Any:
    """Return a request behind ``AuthenticationMiddleware``."""
    request: Any = HttpRequest()
    request.method, request.user, request.auser = "GET", USER, known
    return request


async def timed_async(respond: Any, request: Any) -> float:
    """Return the microseconds of processor time of one request: it waits for nothing."""
    start = process_time()
    for _ in range(REQUESTS):
        await respond(request)
    return (process_time() - start) / REQUESTS * 1e6


def timed(respond: Any, request: Any) -> float:
    """Return the microseconds of processor time of one request: it waits for nothing."""
    start = process_time()
    for _ in range(REQUESTS):
        respond(request)
    return (process_time() - start) / REQUESTS * 1e6


def measure(rounds: int) -> list[Round]:
    """Return what the views and the middleware around them took, round by round."""
    request = request_of_user()
    bound, async_bound = RLSTenantMiddleware(view), RLSTenantMiddleware(async_view)
    for answer in (bound(request), asyncio.run(async_bound(request))):  # type: ignore[arg-type]
        assert answer["X-Tenant"] == "7"  # type: ignore[index]
    results = []
    for number in range(rounds + 3):
        # Each is the first one in every other round.
        turn = slice(None, None, -1 if number % 2 else 1)
        sync = {respond: timed(respond, request) for respond in (view, bound)[turn]}
        asynchronous = {
            respond: asyncio.run(timed_async(respond, request))
            for respond in (async_view, async_bound)[turn]
        }
        results.append(
            {
                "sync": sync[bound] - sync[view],
                "async": asynchronous[async_bound] - asynchronous[async_view],
            }
        )
    return results[3:]


def main() -> None:
    """Measure, print a table, and write ``middleware_cost.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--output", type=Path, default=report.RESULTS, help="folder of the JSON")
    options = parser.parse_args()
    machine = software()
    gc.disable()
    results = measure(options.rounds)
    costs = {name: spread(each[name] for each in results) for name in results[0]}
    for name, cost in costs.items():
        print(f"{name:6} {cost.median:5.1f} us  ({cost.low:.1f} to {cost.high:.1f})")
    result = {"machine": machine, "options": vars(options), "microseconds": costs}
    report.write("middleware_cost", result, directory=options.output)


if __name__ == "__main__":
    main()
