"""The same work by one ENGINE, again and again, while callgrind counts instructions.

``instructions.py`` runs this program under valgrind, with the database, the number of rounds and
those of turns on its command line. Each work has a small and a large number of turns: what it takes
to tell callgrind that they have ended is in both.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

# Run as a script, Python would look for modules beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import django
from django.apps import apps
from django.conf import settings
from django.db import connection, transaction
from django.utils.module_loading import import_string

# Until Python has specialized its code and every cache is filled.
WARM_UP = 60
TENANTRY = "tenantry.backends.postgresql"


def statement() -> None:
    """Send a statement, and fetch its row."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT %s", [1])
        cursor.fetchall()


def block() -> None:
    """Send a statement in a transaction."""
    with transaction.atomic():
        statement()


def compiling(*, by_hand: bool) -> Callable[[], Any]:
    """Return what compiles a page; its filter is written by hand where no backend adds it."""
    model: Any = apps.get_model("benchmarks", "PlainNote" if by_hand else "ProtectedNote")
    notes = model.objects.order_by("-created_at")
    return compiled((notes.filter(tenant_id=1) if by_hand else notes.all())[:20])


def compiling_unfiltered() -> Callable[[], Any]:
    """Return what compiles a simple queryset, to which Django's ENGINE adds no tenant."""
    model: Any = apps.get_model("benchmarks", "ProtectedNote")
    return compiled(model.objects.filter(title="x"))


def compiled(queryset: Any) -> Callable[[], Any]:
    """Return what compiles `queryset`."""
    return lambda: queryset.query.get_compiler("default").as_sql()


def set_up(database: dict[str, Any]) -> None:
    """Set Django up on the database."""
    settings.configure(
        # The models need tenantry, which needs a database with its ENGINE; nobody uses that one.
        DATABASES={"default": database, "unused": {"ENGINE": TENANTRY}},
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        INSTALLED_APPS=["tenantry", "benchmarks"],
        RLS_TENANTS={"TENANT_MODEL": "benchmarks.Tenant"},
        USE_TZ=True,
    )
    django.setup()


def callgrind(*commands: str) -> None:
    """Tell callgrind, which runs this process, what to do; ``-c`` separates commands."""
    told = ["vgdb", f"--pid={os.getpid()}", *commands]
    subprocess.run(told, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def count(works: Sequence[Callable[[], Any]], turns: Sequence[int]) -> None:
    """Let callgrind count every number of turns of all work, and write a file for each.

    The file before those has what was counted until the first turn.
    """
    callgrind("instrumentation", "on")
    callgrind("dump")
    for work in works:
        for number in turns:
            for _ in range(number):
                work()
            callgrind("dump")
    callgrind("instrumentation", "off")


def reshuffle() -> None:
    """Give every class another version.

    Python finds attributes by a cache of a few thousand places, of which the version is a part. Who
    shares a place with whom is chance, and one or two percent of all instructions; it is drawn
    again.
    """
    for each in gc.get_objects():
        if isinstance(each, type):
            with suppress(TypeError):
                type.__setattr__(each, "reshuffled", True)
                type.__delattr__(each, "reshuffled")


def main() -> None:
    """Do all work in the order in which the files are read."""
    database, rounds, *turns = map(json.loads, sys.argv[1:])
    set_up(database)
    ours = database["ENGINE"] == TENANTRY
    scope = import_string("tenantry.tenant_context")(1) if ours else nullcontext()
    with scope:
        works = [statement, block, compiling(by_hand=not ours), compiling_unfiltered()]
        for _ in range(rounds):
            reshuffle()
            for work in works:
                for _ in range(WARM_UP):
                    work()
            gc.collect()
            gc.disable()
            count(works, turns)
    # Nobody waits for what Python does at its end.
    os._exit(0)


if __name__ == "__main__":
    main()
