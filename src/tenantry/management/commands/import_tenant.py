"""``import_tenant``: the rows of a file of ``export_tenant``, in a database without them."""

from __future__ import annotations

import gzip
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connections

from ...lifecycle.archive import Reader, is_packed
from ...lifecycle.restore import Restore


class Command(BaseCommand):
    """Insert a tenant and its rows."""

    help = (
        "Inserts the tenant and the rows of a file of export_tenant, with their keys, in one"
        " transaction. Refuses a tenant that is there already."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("file", type=Path, help="what export_tenant wrote")
        parser.add_argument(
            "--database", choices=list(connections), help="the alias (default: the tenant's)"
        )
        parser.add_argument("--dry-run", action="store_true", help="insert, and take it back")

    def handle(self, *args: Any, **options: Any) -> None:
        """Read the file, and print how many rows there are of each table."""
        path: Path = options["file"]
        try:
            with ExitStack() as stack:
                file: Any = stack.enter_context(path.open("rb"))
                if is_packed(path):
                    file = stack.enter_context(gzip.GzipFile(fileobj=file))
                restore = Restore(Reader(file, str(path)), options["database"])
                counts = restore.run(dry_run=options["dry_run"])
        except OSError as error:
            raise CommandError(
                f"cannot read {str(path)!r}: {error.strerror}; name a file of export_tenant that"
                " you may read"
            ) from error
        for table, number in counts.items():
            self.stdout.write(f"{table}: {number}")
        would = " would be" if options["dry_run"] else ""
        self.stdout.write(f"{sum(counts.values())} rows{would} imported")
