"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
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
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        opened = open(part, "wb", opener=private)  # noqa: SIM115 - closed below
    except OSError as error:
        raise cannot_write(path, error) from error
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
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        open(part, "wb", opener=private).close()
        part.unlink()
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> CommandError:
    """Return the error that says so."""
    return CommandError(
        f"cannot write {str(path)!r}: {error.strerror}; name a file in a folder that is there and"
        " that you may write to"
    )


def private(path: str, flags: int) -> int:
    """Open a file as its owner's alone."""
    return os.open(path, flags, 0o600)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document in place of `path`."""
    with written(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")
