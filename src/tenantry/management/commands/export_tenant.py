"""``export_tenant``: all rows of one tenant, in a file."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

from ...lifecycle.archive import is_packed
from ...lifecycle.export import export
from ...runs.databases import bound_database, database_of
from ...runs.files import written
from ...runs.tenants import find_tenant


class Command(BaseCommand):
    """Write all rows of a tenant to a file, or to the standard output."""

    help = (
        "Writes the tenant's row and its rows of every protected table to a file, from one"
        " snapshot; import_tenant brings them back."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the options."""
        parser.add_argument("tenant", help="the tenant's primary key")
        parser.add_argument(
            "--by", default="pk", metavar="FIELD", help="a unique field, instead of the key"
        )
        parser.add_argument(
            "--database", choices=list(connections), help="the alias (default: the tenant's)"
        )
        parser.add_argument(
            "--output",
            type=Path,
            metavar="FILE",
            help="the file, compressed if it ends with .gz (default: the standard output)",
        )
        parser.add_argument("--format", default="jsonl", choices=["jsonl"])

    def handle(self, *args: Any, **options: Any) -> None:
        """Write the file, and how many rows it has."""
        alias = options["database"] or database_of(options["tenant"], options["by"])
        connection = bound_database(alias)
        tenant = find_tenant(options["tenant"], options["by"], connection.alias)
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
