"""Files that are whole or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def written(path: Path) -> Iterator[IO[bytes]]:
    """Open a file that takes the place of `path` when the block ends well, and is removed if not.

    Only its owner can read it.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(part, "wb", opener=private) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def private(path: str, flags: int) -> int:
    """Open a file as its owner's alone."""
    return os.open(path, flags, 0o600)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document in place of `path`."""
    with written(path) as file:
        file.write(json.dumps(value, indent=2).encode() + b"\n")
