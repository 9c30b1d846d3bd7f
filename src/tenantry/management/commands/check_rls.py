"""``check_rls``: whether the database protects what the models say."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from ...checks.findings import Finding
from ...checks.inspection import (
    inspect_connection,
    inspect_database,
    login,
    protected_models,
)
from ...checks.labels import inspect_labels
from ...checks.models import inspect_models
from ...checks.options import inspect_options
from ...checks.policies import mend, shape_for
from ...checks.tables import problems_of
from ...conf import silenced_checks
from ...exceptions import TenantryError
from ...policies.bodies import called
from ...policy_tests import policy_tests
from ...runs.databases import bound_database

# What SQL of the owner of a table can mend.
MENDABLE = {f"tenantry.E{number}" for number in (111, 112, 114, 115, 116)}
# That something could not be checked. A report without it would pass although nobody has looked.
UNCHECKED = "tenantry.E190"
Report = dict[str, list[Finding]]


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
        parser.add_argument("--verbose", action="store_true", help="also print what is silenced")
        parser.add_argument(
            "--generate", action="store_true", help="print SQL for what is missing or differs"
        )
        parser.add_argument(
            "--fail-level",
            default="ERROR",
            choices=["ERROR", "WARNING"],
            help="exit with 1 for findings of this level or above (default: ERROR)",
        )
        parser.add_argument(
            "--policy-tests",
            nargs=2,
            metavar="TENANT",
            help="print checks for rls-policy-tester instead, of two tenants with rows everywhere",
        )

    def generate(self, connection: Any) -> None:
        """Print the SQL for what the database lacks."""
        if unreachable := inspect_connection(connection):
            each = unreachable[0]
            raise CommandError(f"{each.subject} {each.message}; {each.fix}")
        wrong = {each.subject for each in inspect_database(connection) if each.id in MENDABLE}
        models = protected_models(connection)
        functions = [
            shape.functions()
            for shape in map(shape_for, models)
            if any(f"function {each.name}" in wrong for each in called(shape))
        ]
        for sql in dict.fromkeys(functions):
            self.stdout.write(f"{sql};\n")
        for model in models:
            if f"table {model._meta.db_table}" in wrong:
                refuse_misspelled(model)
                with connection.cursor() as cursor:
                    self.stdout.write(f"{mend(connection, cursor, model)};\n")

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what was found."""
        connection = bound_database(options["database"])
        if options["policy_tests"]:
            for model in protected_models(connection):
                refuse_misspelled(model)
            try:
                self.stdout.write(policy_tests(connection, options["policy_tests"]))
            except TenantryError as error:
                raise CommandError(str(error)) from error
            return
        if options["generate"]:
            self.generate(connection)
            return
        report, silenced = without_silenced(collect(connection))
        if options["json"]:
            self.stdout.write(json.dumps(list(as_json(report, silenced)), indent=2))
        else:
            self.write_text(report, silenced, verbose=options["verbose"])
        levels = {"ERROR", options["fail_level"]}
        if any(each.level in levels for found in report.values() for each in found):
            sys.exit(1)

    def write_text(self, report: Report, silenced: Report, *, verbose: bool) -> None:
        """Print each subject with its findings, and a summary."""
        for subject, found in report.items():
            hidden = silenced[subject]
            if found or verbose or not hidden:
                self.stdout.write(f"{subject}:" if found or hidden else f"{subject}: OK")
            for each in found:
                self.stdout.write(f"  {each.id} {each.message}; {each.fix}")
            if verbose:
                for each in hidden:
                    self.stdout.write(f"  {each.id} is silenced")
        for line in summary(report, silenced):
            self.stdout.write(line)


def refuse_misspelled(model: Any) -> None:
    """Raise CommandError where no policy can be made of the constraints of `model`."""
    if problem := next(problems_of(model), None):
        raise CommandError(f"{problem.msg} {problem.hint}")


def collect(connection: Any) -> Report:
    """Return the findings by subject: the role, every protected table, and what else is wrong.

    No table is reported to be well in a database that does not answer.
    """
    report: Report = {}
    found = inspect_connection(connection)
    if not found:
        report[login(connection)] = []
        for model in protected_models(connection):
            report[f"table {model._meta.db_table}"] = []
        found = list(inspect_database(connection))
    for each in [
        *found,
        *inspect_models(apps.get_models(include_auto_created=True)),
        *inspect_labels(),
        *inspect_options(connection.alias, connection.settings_dict),
    ]:
        report.setdefault(each.subject, []).append(each)
    return report


def without_silenced(report: Report) -> tuple[Report, Report]:
    """Return the findings that are reported, and those that the settings silence, by subject."""
    ids = silenced_checks() - {UNCHECKED}
    kept = {name: [each for each in found if each.id not in ids] for name, found in report.items()}
    rest = {name: [each for each in found if each.id in ids] for name, found in report.items()}
    return kept, rest


def summary(report: Report, silenced: Report) -> Iterator[str]:
    """Yield how many subjects are well or not, and how many findings were left out."""
    wrong = sum(any(each.is_error for each in found) for found in report.values())
    warned = sum(bool(found) for found in report.values()) - wrong
    hidden = sum(bool(silenced[subject]) and not found for subject, found in report.items())
    counts = [f"{len(report) - wrong - warned - hidden} OK", f"{wrong} wrong"]
    if warned:
        counts.append(f"{warned} with warnings")
    if hidden:
        counts.append(f"{hidden} silenced")
    yield ", ".join(counts)
    left_out = [each.id for found in silenced.values() for each in found]
    if left_out:
        ids = ", ".join(sorted(set(left_out)))
        yield f"silenced by SILENCED_SYSTEM_CHECKS: {len(left_out)} ({ids})"


def as_json(report: Report, silenced: Report) -> Iterator[dict[str, Any]]:
    """Yield the subjects with what was found about them, and the ids of what was left out."""
    for subject, found in report.items():
        yield {
            "subject": subject,
            "findings": [
                {"id": each.id, "level": each.level, "message": each.message, "fix": each.fix}
                for each in found
            ],
            "silenced": [each.id for each in silenced[subject]],
        }
