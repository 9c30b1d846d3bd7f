"""The file that holds a tenant: JSON, a line for each row, between a header and a trailer.

The header says what the rows are, and the trailer how many there are, and a checksum, by which a
truncated file is recognised. A row is a list of texts, as PostgreSQL writes and reads them, or
null: the one form that loses nothing of any type.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError

VERSION = 1
Row = list[str | None]


class Writer:
    """Write a file, and count."""

    def __init__(self, file: IO[bytes], header: dict[str, Any]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.rows: dict[str, int] = {}
        self.write({"tenantry": VERSION, **header})

    def write(self, value: Any) -> None:
        """Write one line."""
        line = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n"
        self.digest.update(line)
        self.file.write(line)

    def begin(self, table: str) -> None:
        """Say that rows of a table follow."""
        self.rows[table] = 0
        self.table = table
        self.write({"table": table})

    def add(self, row: Sequence[str | None]) -> None:
        """Write a row."""
        self.rows[self.table] += 1
        self.write(row)

    def end(self) -> None:
        """Write the trailer."""
        digest = self.digest.hexdigest()
        self.write({"rows": self.rows, "sha256": digest})


class Reader:
    """Read a file, and refuse one that is not whole."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.digest = hashlib.sha256()
        self.lines = self.read(file)
        self.header = self.read_header()

    def problem(self, what: str) -> CommandError:
        """Return the error that says what is wrong with the file."""
        return CommandError(f"{self.name!r} {what}; nothing of it was imported")

    def read(self, file: IO[bytes]) -> Iterator[tuple[bytes, Any]]:
        """Yield the lines, and what they say."""
        try:
            for line in file:
                yield line, json.loads(line)
        except (ValueError, EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise self.problem(
                "is damaged or truncated, or does not end with .gz where it is compressed"
                f" ({error}); export the tenant again, or rename the file"
            ) from error

    def read_header(self) -> dict[str, Any]:
        """Return the first line."""
        line, header = next(self.lines, (b"", None))
        if not isinstance(header, dict) or "tenantry" not in header:
            raise self.problem("was not written by export_tenant")
        if header["tenantry"] != VERSION:
            raise self.problem(
                f"has the format {header['tenantry']!r}, and this release reads {VERSION}"
            )
        for name in ("tenant", "tables", "date_style", "interval_style", "content_types"):
            if name not in header:
                raise self.problem(f"has a header without {name!r}")
        self.digest.update(line)
        return header

    def rows(self) -> Iterator[tuple[str, Row]]:
        """Yield the table and the values of each row; raise CommandError if some are missing."""
        table = None
        for line, value in self.lines:
            if isinstance(value, dict) and "sha256" in value:
                if value["sha256"] != self.digest.hexdigest():
                    raise self.problem(
                        "was changed after export_tenant wrote it; export the tenant again"
                    )
                if next(self.lines, None) is not None:
                    raise self.problem("has data after its last line; export the tenant again")
                return
            self.digest.update(line)
            if isinstance(value, list) and table is not None:
                yield table, value
            elif isinstance(value, dict) and "table" in value:
                table = str(value["table"])
            else:
                raise self.problem(
                    f"has a line that cannot be read ({line[:60]!r}); export the tenant again"
                )
        raise self.problem("is truncated; export the tenant again")


def is_packed(path: Path) -> bool:
    """Return whether a file is compressed, by its name."""
    return path.suffix == ".gz"
