"""The file that says for which tenants a command is done, so that a run can go on later."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from django.core.management.base import CommandError

from .files import require_regular, write_json

VERSION = 1


class Ledger:
    """The tenants that are done, in a file if there is one.

    Raises CommandError for a file of another command, or one that no run has written.
    """

    def __init__(self, path: Path | None, command: Sequence[str]) -> None:
        self.path = path
        self.command = list(command)
        self.done: list[str] = []
        if path is not None and path.exists():
            # A pipe would be waited for.
            require_regular(path)
            self.done = self.read(path)

    def read(self, path: Path) -> list[str]:
        """Return the tenants that a file names."""
        try:
            found = json.loads(path.read_text())
            version, command, done = found["version"], found["command"], found["done"]
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise CommandError(
                f"--resume names {str(path)!r}, which run_for_all_tenants did not write: {error!r};"
                " name another one, or remove it to start anew"
            ) from error
        if (version, command) != (VERSION, self.command):
            raise CommandError(
                f"--resume names {str(path)!r}, which is of the command {command!r}, not"
                f" {self.command!r}; name another file, or remove it to start anew"
            )
        return [str(key) for key in done]

    def add(self, key: str) -> None:
        """Note that the command is done for a tenant."""
        # The file first: whom it lacks must not be taken for noted.
        self.write([*self.done, key])
        self.done.append(key)

    def save(self) -> None:
        """Write the file; what cannot be written is known before a command runs."""
        self.write(self.done)

    def write(self, done: Sequence[str]) -> None:
        """Write the tenants that are done, if there is a file."""
        if self.path is not None:
            write_json(self.path, {"version": VERSION, "command": self.command, "done": [*done]})
