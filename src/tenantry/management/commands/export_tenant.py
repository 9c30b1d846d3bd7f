"""``export_tenant``: all rows of one tenant, in a file."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from ...lifecycle.archive import is_packed
from ...lifecycle.export import export
from ...runs.arguments import add_tenant, named_tenant
from ...runs.files import written


class Command(BaseCommand):
    """Write all rows of a tenant to a file, or to the standard output."""

    help = (
        "Writes the tenant's row and its rows of every protected table to a file, from one"
        " snapshot; import_tenant brings them back."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        add_tenant(parser)
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="the file, compressed if it ends with .gz (default: the standard output)",
        )
        parser.add_argument("--format", default="jsonl", choices=["jsonl"])

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the file, and how many rows it has."""
        connection, tenant = named_tenant(options)
        path = options["output"]
        if path is None:
            counts = export(connection, tenant, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            counts = to_path(connection, tenant, path)
        self.stderr.write(f"{sum(counts.values())} rows of {len(counts)} tables")


def to_path(connection: Any, tenant: Any, path: Path) -> dict[str, int]:
    """Write a file, which is there when it is complete."""
    with written(path) as file:
        if not is_packed(path):
            return export(connection, tenant, file)
        packed: Any
        with gzip.GzipFile(fileobj=file, mode="wb", filename="", mtime=0) as packed:
            return export(connection, tenant, packed)
