"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from django.core.management.base import CommandError


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends well, and is removed if not.

    Only its owner can read it. Raises CommandError where it cannot be written.
    """
    part, opened = part_of(path)
    try:
        with opened as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def require_writable(path: Path) -> None:
    """Raise CommandError where :func:`written` could write nothing in place of `path`."""
    part, opened = part_of(path)
    opened.close()
    part.unlink()


def require_regular(path: Path) -> None:
    """Raise CommandError if there is something at `path` that is not a regular file."""
    # A folder has no place to take, and whoever reads from a pipe or by a link would get nothing.
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise CommandError(
            f"cannot write {str(path)!r}, which is not a regular file; name a regular file, or one"
            " that does not exist yet"
        )


def part_of(path: Path) -> tuple[Path, IO[bytes]]:
    """Open the file beside `path` that is to take its place; raise CommandError if that fails."""
    require_regular(path)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        return part, open(part, "wb", opener=private)
    except OSError as error:
        raise CommandError(
            f"cannot write {str(path)!r}: {error.strerror}; name a file in a folder that is there"
            " and that you may write to"
        ) from error


def private(path: str, flags: int) -> int:
    """Open a file as its owner's alone."""
    return os.open(path, flags, 0o600)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document in place of `path`."""
    with written(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")
