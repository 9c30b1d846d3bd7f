"""``delete_tenant``: all rows of one tenant, and the tenant, deleted."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import router

from ...conf import rls_tenants
from ...lifecycle.removal import Removal
from ...runs.arguments import add_tenant, named_tenant, positive


class Command(BaseCommand):
    """Delete the rows of a tenant, table by table, and then the tenant."""

    help = (
        "Deletes the rows of a tenant in every protected table, in batches, and then the tenant."
        " Run it again if it was interrupted."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_tenant(parser)
        add = parser.add_argument
        add("--batch", type=positive, default=1000, help="rows of a transaction (default: 1000)")
        add("--dry-run", action="store_true", help="print how many rows would go, and of what")
        add("--keep-tenant", action="store_true", help="delete the rows, and keep the tenant")
        add("--yes", action="store_true", help="do not ask")
        add(
            "--also",
            action="append",
            default=[],
            metavar="MODEL",
            help="label of a model without protection whose rows that refer to the tenant's are"
            " deleted, too; can be given again",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Print what there is, ask, and delete it."""
        connection, tenant = named_tenant(options)
        removal = Removal(
            connection,
            tenant,
            batch=options["batch"],
            keep_tenant=options["keep_tenant"],
            also=options["also"],
        )
        counts = removal.counts()
        for table, number in counts.items():
            if number:
                self.stdout.write(f"{table}: {number}")
        total = sum(counts.values())
        if options["dry_run"]:
            for name, number in removal.obstacles().items():
                self.stdout.write(
                    f"{name}: {number} rows refer to these, and would stop the deletion"
                )
            for refusal in removal.refusals():
                self.stdout.write(f"it would be refused: {refusal}")
            self.stdout.write(f"{total} rows would be deleted")
            self.say_what_is_left(tenant, options)
            return
        removal.require_safe()
        if not options["yes"]:
            self.confirm(tenant, total)
        deleted: dict[str, int] = {}

        def note(table: str, number: int) -> None:
            deleted[table] = deleted.get(table, 0) + number
            if options["verbosity"] > 1:
                self.stdout.write(f"{table}: {deleted[table]} of {counts[table]} deleted")

        removal.run(note)
        self.stdout.write(f"{sum(deleted.values())} rows deleted")
        self.say_what_is_left(tenant, options)

    def say_what_is_left(self, tenant: Any, options: dict[str, Any]) -> None:
        """Print how to delete the tenant where all tenants are, if its shard is another."""
        if rls_tenants().shard_of is None or options["database"] or options["keep_tenant"]:
            return
        home = router.db_for_write(type(tenant))
        if tenant._state.db != home:
            self.stdout.write(
                f"the database {home!r} still has the tenant, and what refers to it there; delete"
                f" these with: python manage.py delete_tenant {tenant.pk} --database {home}"
            )

    def confirm(self, tenant: Any, total: int) -> None:
        """Ask; raise CommandError unless the answer is the tenant's key."""
        if not sys.stdin.isatty():
            raise CommandError(
                "standard input is not a terminal, so nobody can confirm; pass --yes"
            )
        question = f"Delete {total} rows of {tenant} for ever? Type {tenant.pk} to go on: "
        if input(question).strip() != str(tenant.pk):
            raise CommandError("nothing was deleted")
