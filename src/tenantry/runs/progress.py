"""How far a run is: a bar on a terminal, where ``rich`` is installed, and plain lines elsewhere."""

from __future__ import annotations

import threading
from importlib.util import find_spec
from typing import Any

from .children import Outcome


class Lines:
    """Write a line for each tenant."""

    def __init__(self, output: Any, errors: Any, total: int) -> None:
        self.output = output
        self.errors = errors
        self.total = total
        self.count = 0
        self.lock = threading.Lock()

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Do nothing: a line is written at once."""

    def say(self, tenant: str, line: str) -> None:
        """Pass on a line of a tenant's output."""
        with self.lock:
            self.output.write(f"[{tenant}] {line}")

    def note(self, outcome: Outcome) -> None:
        """Write how a tenant's command went."""
        with self.lock:
            self.count += 1
            self.errors.write(f"[{self.count}/{self.total}] {text_of(outcome)}")


class Bar(Lines):
    """Draw a bar below what else is written."""

    def __init__(self, output: Any, errors: Any, total: int) -> None:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.progress import MofNCompleteColumn, Progress, TimeElapsedColumn  # noqa: PLC0415

        super().__init__(output, errors, total)
        self.bar = Progress(
            *Progress.get_default_columns(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=Console(stderr=True),
        )
        self.task = self.bar.add_task("tenants", total=total)

    def __enter__(self) -> Lines:
        self.bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Leave the bar as it is."""
        self.bar.stop()

    def note(self, outcome: Outcome) -> None:
        """Move the bar on, and write of what failed."""
        self.bar.advance(self.task)
        if outcome.status != "ok":
            super().note(outcome)
            return
        with self.lock:
            self.count += 1


def progress(output: Any, errors: Any, total: int) -> Lines:
    """Return what shows the progress on the streams of a command."""
    drawn = errors.isatty() and find_spec("rich") is not None
    return (Bar if drawn else Lines)(output, errors, total)


def text_of(outcome: Outcome) -> str:
    """Return how a tenant's command went, as a line says it."""
    code = f" with {outcome.exit_code}" if outcome.exit_code else ""
    return f"{outcome.tenant} {outcome.status}{code} {outcome.seconds:.1f} s"
