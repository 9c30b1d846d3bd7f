"""What became of each test, and how two runs of the same tests differ."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """The outcome of a test, from the mildest to the worst."""

    PASSED = "passed"
    SKIPPED = "skipped"
    FAILED_AS_EXPECTED = "failed as expected"
    UNEXPECTED_SUCCESS = "unexpected success"
    FAILED = "failed"
    ERROR = "error"

    @property
    def severity(self) -> int:
        """The position among the outcomes."""
        return list(Outcome).index(self)

    @property
    def is_failure(self) -> bool:
        """Whether it makes a run fail."""
        return self.severity >= Outcome.UNEXPECTED_SUCCESS.severity


@dataclass(frozen=True, slots=True)
class Event:
    """Hold one outcome of a test, which has several when its subtests fail."""

    test: str
    outcome: Outcome
    text: str = ""

    def as_line(self) -> str:
        """Return the event as a line of JSON."""
        return json.dumps(asdict(self)) + "\n"


class Run:
    """Hold what became of the tests of one run; the worst outcome of a test counts."""

    def __init__(self, events: list[Event]) -> None:
        self.outcomes: dict[str, Outcome] = {}
        self.texts: dict[str, str] = {}
        for event in events:
            known = self.outcomes.get(event.test, Outcome.PASSED)
            self.outcomes[event.test] = max(known, event.outcome, key=lambda each: each.severity)
            if event.text:
                self.texts[event.test] = f"{self.texts.get(event.test, '')}{event.text}\n"

    @classmethod
    def read(cls, file: Path) -> Run:
        """Return the run that wrote `file`."""
        lines = file.read_text().splitlines() if file.exists() else []
        given = map(json.loads, lines)
        return cls([Event(each["test"], Outcome(each["outcome"]), each["text"]) for each in given])

    def passed(self, test: str) -> bool:
        """Return whether a test passed."""
        return self.outcomes.get(test) is Outcome.PASSED

    def failed(self, test: str) -> bool:
        """Return whether a test failed, rather than was skipped or did not run."""
        return test in self.outcomes and self.outcomes[test].is_failure

    def failures(self) -> list[str]:
        """Return the tests that failed."""
        return sorted(filter(self.failed, self.outcomes))

    def counts(self) -> str:
        """Return how many tests had each outcome."""
        counter = Counter(self.outcomes.values())
        return ", ".join(f"{counter[outcome]} {outcome}" for outcome in Outcome if counter[outcome])

    def describe(self, test: str) -> str:
        """Return what became of a test, with the traceback."""
        outcome = self.outcomes.get(test, "did not run")
        return f"{test}: {outcome}\n{self.texts.get(test, '')}".rstrip()


def lost(stock: Run, ours: Run) -> list[str]:
    """Return the tests that passed on stock and do not on ours, or fail on ours only."""
    tests = {*stock.outcomes, *ours.outcomes}
    return sorted(
        test
        for test in tests
        if (stock.passed(test) and not ours.passed(test))
        or (ours.failed(test) and not stock.failed(test))
    )


def gained(stock: Run, ours: Run) -> list[str]:
    """Return the tests that pass on ours only."""
    return sorted(test for test in ours.outcomes if ours.passed(test) and not stock.passed(test))
