"""One candidate in a process of its own: told over a pipe what to do, it answers with times.

Each line on standard input is a JSON object with a command and its arguments, each line of the
answer one with the result, or with the error.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import io
import json
import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django
import psycopg
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.core.signals import got_request_exception
from django.db import connection

from benchmarks.candidates import CANDIDATES, Candidate
from benchmarks.shop import Shop


def set_up(candidate: Candidate, database: dict[str, str], *, pooled: bool) -> Any:
    """Set Django up with the candidate's settings; return its project."""
    module = importlib.import_module(candidate.project)
    # Who shares another's tables may have settings of its own.
    chosen = importlib.import_module(candidate.module)
    project = getattr(chosen, "project", module.project)(candidate.project)
    entry = {
        "ENGINE": project.engine,
        **database,
        # All views but one are exempt from it.
        "ATOMIC_REQUESTS": True,
        "CONN_MAX_AGE": None,
        "DISABLE_SERVER_SIDE_CURSORS": True,
        "OPTIONS": {"sslmode": "disable", "gssencmode": "disable"},
    }
    settings.configure(
        ALLOWED_HOSTS=["*"],
        DATABASES={"default": entry},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=[*project.apps, project.module],
        LOGGING_CONFIG=None,
        MIDDLEWARE=list(project.middleware),
        PROJECT=project,
        ROOT_URLCONF="benchmarks.views",
        SECRET_KEY="benchmark",
        USE_TZ=True,
        **project.settings(pooled=pooled),
    )
    django.setup()
    return project


class Requests:
    """Call Django as a WSGI server does, with the tenant in the host name and in a header."""

    def __init__(self) -> None:
        self.handler = WSGIHandler()
        self.status = ""
        self.error: BaseException | None = None
        got_request_exception.connect(self.keep_error)

    def keep_error(self, **more: Any) -> None:
        """Keep the exception that Django turns into a response."""
        self.error = sys.exception()

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> None:
        """Keep the status."""
        self.status = status

    def request(self, workload: str, tenant: int) -> str:
        """Return the body of the response; raise RuntimeError if its status is not 200."""
        environ = {
            "REQUEST_METHOD": "GET",
            "PATH_INFO": f"/{workload}/",
            "SCRIPT_NAME": "",
            "QUERY_STRING": "",
            "SERVER_NAME": "bench.test",
            "SERVER_PORT": "80",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "HTTP_HOST": f"t{tenant}.bench.test",
            "HTTP_X_USER": str(tenant),
            "wsgi.input": io.BytesIO(),
            "wsgi.url_scheme": "http",
            "wsgi.errors": sys.stderr,
        }
        response = self.handler(environ, self.start_response)
        body = b"".join(response).decode()
        response.close()
        if self.status != "200 OK":
            raise RuntimeError(f"{workload} was answered {self.status}: {self.error!r}")
        return body


class Worker:
    """Do what the parent asks for; the names of the methods are the commands."""

    def __init__(self, name: str, place: dict[str, Any]) -> None:
        self.candidate = CANDIDATES[name]
        self.place = place
        self.shop = Shop(place["rows"], place["tenants"])
        self.project = set_up(self.candidate, place["database"], pooled=place["pooled"])
        self.superuser = psycopg.connect(place["superuser"], autocommit=True)
        self.requests: Any = None

    def create(self) -> None:
        """Create the tables and fill them."""
        self.project.create(self.shop, self.superuser)
        self.superuser.execute("VACUUM (ANALYZE)")

    def connect(self) -> None:
        """Be ready for requests; raise RuntimeError if a policy is expected and does not work."""
        if self.project.policies:
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM note")
                if (seen := cursor.fetchone()[0]) != 0:
                    raise RuntimeError(f"{seen} notes are seen without a tenant: no policy works")
        module = importlib.import_module(self.candidate.module)
        if hasattr(module, "Requests"):
            database = self.place["database"]
            names = {"HOST": "host", "PORT": "port", "USER": "user", "NAME": "dbname"}
            values = {names[key]: value for key, value in database.items()}
            dsn = psycopg.conninfo.make_conninfo(sslmode="disable", gssencmode="disable", **values)
            self.requests = module.Requests(dsn)
        else:
            self.requests = Requests()
        # A collection before each batch would go through all that was imported, and leave the
        # processor's cache full of it.
        gc.collect()
        gc.freeze()

    def run(self, workload: str, tenants: Sequence[int]) -> dict[str, Any]:
        """Return the nanoseconds of a request for each of `tenants`, and the CPU's for all."""
        answers, times = [], []
        gc.collect()
        gc.disable()
        cpu = time.process_time_ns()
        for tenant in tenants:
            start = time.perf_counter_ns()
            answer = self.requests.request(workload, tenant)
            times.append(time.perf_counter_ns() - start)
            answers.append(answer)
        cpu = time.process_time_ns() - cpu
        gc.enable()
        self.check(workload, tenants, answers)
        return {"ns": times, "cpu_ns": cpu}

    def check(self, workload: str, tenants: Sequence[int], answers: Sequence[str]) -> None:
        """Raise RuntimeError unless every answer, and every row that was written, is right."""
        for tenant, answer in zip(tenants, answers, strict=True):
            if answer != (right := self.shop.answer(workload, tenant)):
                raise RuntimeError(
                    f"{workload} of tenant {tenant} was answered {answer[:200]!r},"
                    f" not {right[:200]!r}"
                )
        if each := self.shop.inserted(workload):
            found = self.project.events(self.superuser, tenants)
            if found != (right := {n: each * count for n, count in Counter(tenants).items()}):
                raise RuntimeError(f"{workload} inserted {found}, not {right}")

    def facts(self) -> dict[str, Any]:
        """Return versions, and the most memory that the process had."""
        package = self.candidate.package
        return {
            "package": importlib.metadata.version(package) if package else "",
            "python": platform.python_version(),
            "django": django.get_version(),
            "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
            "most_memory_mib": most_memory(),
        }


def most_memory() -> int | None:
    """Return the most MiB that this process had at a time, where Linux tells it.

    What getrusage() says would include the parent's, from before this program was loaded.
    """
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    return next(int(line.split()[1]) >> 10 for line in lines if line.startswith("VmHWM"))


def serve(worker: Worker, commands: Any, answers: Any) -> None:
    """Answer commands until there are no more."""
    for line in commands:
        command, arguments = json.loads(line)
        try:
            answer = {"result": getattr(worker, command)(**arguments)}
        except Exception as error:  # noqa: BLE001 - the parent raises it
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def main() -> None:
    """Be the worker of the candidate and the place on the command line."""
    # What a package prints must not be taken for an answer.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    name, place = sys.argv[1:]
    serve(Worker(name, json.loads(place)), sys.stdin, answers)


if __name__ == "__main__":
    main()
