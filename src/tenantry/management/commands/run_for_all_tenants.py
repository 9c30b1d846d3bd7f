"""``run_for_all_tenants``: any management command, as each tenant in turn."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from django.core.management import get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...runs.arguments import positive, without_dashes
from ...runs.files import require_writable, write_json
from ...runs.fleet import Fleet
from ...runs.ledger import Ledger
from ...runs.progress import progress
from ...runs.tenants import all_tenants, filtered, parse_key
from ...tenants import seeing_all

CHOOSE = "choose tenants by another field with --filter FIELD=VALUE, or list them with --list"


class Command(BaseCommand):
    """Run a command for all tenants, or for some, in a process for each."""

    help = (
        "Runs a management command as each tenant: run_for_all_tenants [options] COMMAND [...]."
        " What follows the command's name is for that command. Exits with 0 when all went well,"
        " with 1 when it failed for some, and with 130 when it was interrupted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add = parser.add_argument
        for name, kind in (("--filter", "for which it is true"), ("--exclude", "to leave out")):
            add(
                name,
                action="append",
                default=[],
                metavar="LOOKUP=VALUE",
                help=f"the tenants {kind}; can be given again",
            )
        add("--only", action="append", metavar="PK", help="a tenant's key; can be given again")
        add("--jobs", type=positive, default=1, metavar="N", help="processes at a time (default 1)")
        add("--fail-fast", action="store_true", help="start no other after one has failed")
        add("--json", type=Path, metavar="FILE", help="write a report of each tenant")
        add(
            "--resume",
            type=Path,
            metavar="FILE",
            help="leave out the tenants that this file says are done, and keep it up to date",
        )
        # Options begin the rest only after a word, so that those before it are this command's own.
        words = add(
            "words", nargs=argparse.PARSER, metavar="COMMAND", help="the command and its arguments"
        )
        add("--list", action=InsteadOf, other=words, help="print the tenants, and run nothing")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the command, write the report, and exit."""
        with seeing_all():
            tenants = self.tenants(options)
            if options["list"]:
                for tenant in tenants:
                    self.stdout.write(f"{tenant.pk}\t{tenant}")
                return
            keys = [str(key) for key in tenants.values_list("pk", flat=True)]
        command = without_dashes(options["words"])
        self.require(command)
        report, state = options["json"], options["resume"]
        if report and state and report.resolve() == state.resolve():
            raise CommandError(
                f"--json and --resume both name {str(report)!r}, so that the report would take the"
                " place of what a run goes on from; name two files"
            )
        ledger = Ledger(options["resume"], command)
        fleet = Fleet(command, keys, ledger)
        # Before anything runs, so that a path that cannot be written stops nothing half-way.
        ledger.save()
        if options["json"]:
            require_writable(options["json"])
        try:
            with progress(self.stdout, self.stderr, len(fleet.outcomes)) as lines:
                fleet.run(lines, jobs=options["jobs"], fail_fast=options["fail_fast"])
        finally:
            if options["json"]:
                write_json(options["json"], fleet.report())
        counts = [f"{number} {status}" for status, number in sorted(fleet.counts().items())]
        self.stderr.write(f"{' '.join(command)}: {', '.join(counts) or 'no tenants'}")
        if fleet.exit_code:
            sys.exit(fleet.exit_code)

    def tenants(self, options: dict[str, Any]) -> Any:
        """Return the tenants that the options choose."""
        chosen = filtered(all_tenants(), options["filter"])
        chosen = filtered(chosen, options["exclude"], exclude=True)
        if options["only"]:
            keys = {parse_key(key, CHOOSE) for key in options["only"]}
            chosen = chosen.filter(pk__in=keys)
            missing = keys - set(chosen.values_list("pk", flat=True))
            if missing:
                raise CommandError(
                    "--only names tenants that do not exist, or that --filter and --exclude leave"
                    f" out: {', '.join(sorted(map(str, missing)))}; list them with --list"
                )
        # Once each, where a lookup finds several rows of a tenant; in the database that was asked.
        return all_tenants(chosen.db).filter(pk__in=chosen.values("pk"))

    def require(self, command: list[str]) -> None:
        """Raise CommandError for what no process could run."""
        name = next(iter(command), "")
        if name not in get_commands():
            raise CommandError(f"there is no command {name!r}; name one after the options")
        if name in ("shell", "dbshell", "runserver"):
            raise CommandError(f"{name} wants a terminal; run it for one tenant with run_as_tenant")
        if "DJANGO_SETTINGS_MODULE" not in os.environ:
            raise CommandError(
                "run_for_all_tenants starts processes, which find the settings by"
                " DJANGO_SETTINGS_MODULE; set it, instead of calling settings.configure()"
            )


class InsteadOf(argparse.Action):
    """A switch that is given instead of a positional argument."""

    def __init__(
        self, option_strings: list[str], dest: str, *, other: argparse.Action, **kwargs: Any
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, default=False, **kwargs)
        self.other = other

    def __call__(self, parser: Any, namespace: argparse.Namespace, *args: Any) -> None:
        """Set the switch."""
        setattr(namespace, self.dest, True)
        self.other.required = False
