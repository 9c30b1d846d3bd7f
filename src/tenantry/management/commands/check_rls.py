"""``check_rls``: whether the database protects what the models say."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connections

from ...conf import ENGINES
from ...exceptions import TenantryError
from ...inspection import inspect
from ...policy_tests import policy_tests


class Command(BaseCommand):
    """Compare roles, tables and policies with the models; exit with 1 when they differ."""

    help = (
        "Checks the role that serves requests, and the Row-Level Security of every protected table."
        " Run it with the settings that serve requests, after migrate and in CI."
    )
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, choices=list(connections))
        parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
        parser.add_argument("--verbose", action="store_true", help="print what is well, too")
        parser.add_argument(
            "--policy-tests",
            nargs=2,
            metavar="TENANT",
            help="print checks for rls-policy-tester instead, of two tenants with rows everywhere",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what was found."""
        connection: Any = connections[options["database"]]
        if connection.settings_dict["ENGINE"] not in ENGINES:
            raise CommandError(
                f"the database {options['database']!r} has the ENGINE"
                f" {connection.settings_dict['ENGINE']!r}, not tenantry's; name another one with"
                " --database"
            )
        if options["policy_tests"]:
            try:
                self.stdout.write(policy_tests(connection, options["policy_tests"]))
            except TenantryError as error:
                raise CommandError(str(error)) from error
            return
        try:
            reports = list(inspect(connection))
        except DatabaseError as error:
            raise CommandError(f"the database could not be checked: {error}") from error
        wrong = [report for report in reports if report.problems]
        if options["json"]:
            found = [{"subject": each.subject, "problems": each.problems} for each in reports]
            self.stdout.write(json.dumps(found, indent=2))
        else:
            for report in reports if options["verbose"] else wrong:
                self.stdout.write(f"{report.subject}: {'' if report.problems else 'OK'}".rstrip())
                for problem in report.problems:
                    self.stdout.write(f"  {problem}")
            self.stdout.write(f"{len(reports) - len(wrong)} OK, {len(wrong)} wrong")
        if wrong:
            sys.exit(1)
