"""A command for many tenants, some at a time."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from .children import Children, Outcome
from .interruption import Interrupted, signals
from .ledger import Ledger
from .progress import Lines


class Fleet:
    """Run one command for tenants, and keep what became of each."""

    def __init__(self, command: Sequence[str], tenants: Sequence[str], ledger: Ledger) -> None:
        self.command = list(command)
        self.ledger = ledger
        done = set(ledger.done)
        self.skipped = [Outcome(key, "skipped") for key in tenants if key in done]
        self.outcomes = [Outcome(key) for key in tenants if key not in done]
        self.was_interrupted = False

    def run(self, lines: Lines, *, jobs: int, fail_fast: bool) -> None:
        """Run it for the tenants for whom it is not done, until one fails or a signal comes."""
        children = Children(self.command, lines.say, fail_fast=fail_fast)
        try:
            with signals(), ThreadPoolExecutor(jobs) as executor:
                try:
                    futures = [executor.submit(children.run, each) for each in self.outcomes]
                    for future in as_completed(futures):
                        self.note(future.result(), lines)
                except (KeyboardInterrupt, Interrupted):
                    self.was_interrupted = True
                    children.kill()
                except BaseException:
                    children.kill()
                    raise
        finally:
            # Those that ended well while the others were ended.
            done = set(self.ledger.done)
            late = [each for each in self.outcomes if each.status == "ok"]
            late = [each for each in late if each.tenant not in done]
            for each in late:
                self.ledger.add(each.tenant)
        for each in late:
            lines.note(each)

    def note(self, outcome: Outcome, lines: Lines) -> None:
        """Note how it went for a tenant."""
        if outcome.status == "not run":
            return
        if outcome.status == "ok":
            self.ledger.add(outcome.tenant)
        lines.note(outcome)

    @property
    def exit_code(self) -> int:
        """The exit code of the whole run."""
        if self.was_interrupted:
            return 130
        return int(any(each.status != "ok" for each in self.outcomes))

    def counts(self) -> dict[str, int]:
        """Return how many tenants there are of each status."""
        found: dict[str, int] = {}
        for each in [*self.skipped, *self.outcomes]:
            found[each.status] = found.get(each.status, 0) + 1
        return found

    def report(self) -> dict[str, Any]:
        """Return what became of each tenant."""
        return {
            "command": self.command,
            "exit_code": self.exit_code,
            "counts": self.counts(),
            "tenants": [
                {
                    "tenant": each.tenant,
                    "status": each.status,
                    "seconds": each.seconds,
                    "exit_code": each.exit_code,
                    "output": list(each.output),
                }
                for each in [*self.skipped, *self.outcomes]
            ],
        }
