"""``run_as_tenant``: any management command, in the scope of one tenant."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management import call_command, get_commands
from django.core.management.base import BaseCommand, CommandError, CommandParser

from ...context import Scope, admin_context, tenant_context
from ...exceptions import TenantryError
from ...runs.arguments import without_dashes
from ...runs.tenants import find_tenant


class Command(BaseCommand):
    """Run a command as a tenant, or as the admin."""

    help = (
        "Runs a management command as one tenant: run_as_tenant [options] TENANT COMMAND [...]."
        " What follows the command's name is for that command."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument(
            "--by", metavar="FIELD", help="a unique field of the tenant's model, instead of its key"
        )
        parser.add_argument(
            "--admin", action="store_true", help="run as the admin; no TENANT is named then"
        )
        # Options begin the rest only after a word, so that those before it are this command's own.
        parser.add_argument(
            "words",
            nargs=argparse.PARSER,
            metavar="TENANT COMMAND",
            help="the tenant's primary key, the command and its arguments",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Open the scope and call the command."""
        scope, name, arguments = self.parse(options)
        if name not in get_commands():
            raise CommandError(
                f"there is no command {name!r}; the order is: run_as_tenant TENANT COMMAND"
            )
        # Not our own, which would end each piece of a line with another newline.
        streams = {key: options[key] for key in ("stdout", "stderr") if options.get(key)}
        try:
            with scope:
                call_command(name, *arguments, **streams)
        except TenantryError as error:
            raise CommandError(str(error)) from error

    def parse(self, options: dict[str, Any]) -> tuple[Scope, str, list[str]]:
        """Return the scope, the command's name and its arguments."""
        words = without_dashes(options["words"])
        if options["admin"]:
            if options["by"]:
                raise CommandError("--by and --admin cannot be combined: the admin is no tenant")
            return admin_context(), next(iter(words), ""), words[1:]
        tenant, *rest = words
        rest = without_dashes(rest)
        if not rest:
            raise CommandError(
                f"run_as_tenant {tenant} lacks a command; the order is: run_as_tenant TENANT"
                " COMMAND"
            )
        found = find_tenant(tenant, options["by"] or "pk")
        return tenant_context(found.pk), rest[0], rest[1:]
