"""What a benchmark tells: progress while it runs, then a table and a JSON file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .stats import Outcome, Round

RESULTS = Path(__file__).with_name("results")


def with_progress(title: str, rounds: Iterable[Round], total: int) -> Iterator[Round]:
    """Yield `rounds`, and show on stderr how many are done."""
    live = sys.stderr.isatty()
    for number, each in enumerate(rounds, 1):
        yield each
        if live:
            print(f"\r{title}: round {number} of {total}", end="", file=sys.stderr, flush=True)
        elif number % 25 == 0:
            print(f"{title}: round {number} of {total}", file=sys.stderr, flush=True)
    if live:
        print(file=sys.stderr)


def print_table(
    title: str, outcomes: Mapping[str, Outcome], targets: Mapping[str, float] | None = None
) -> None:
    """Print one line for each candidate, with what its ratio should be at most."""
    print(f"\n{title:46}{'median':>10}{'ratio':>9}   middle half of the rounds")
    for name, outcome in outcomes.items():
        ratio = outcome.ratio
        aimed_at = verdict(ratio.median, (targets or {}).get(name))
        print(
            f"  {name:44}{outcome.microseconds.median:7.0f} us{ratio.median:9.3f}"
            f"   {ratio.low:.3f} to {ratio.high:.3f}{aimed_at}"
        )
    sys.stdout.flush()


def verdict(ratio: float, target: float | None) -> str:
    """Return whether `ratio` is at most `target`, for a table."""
    if target is None:
        return ""
    return f"   at most {target:.2f}: {'yes' if ratio <= target else 'NO'}"


def write(
    name: str,
    result: Mapping[str, Any],
    *,
    directory: Path = RESULTS,
    markdown: Callable[[Any], str] | None = None,
) -> None:
    """Write `result` to ``<name>.json`` in `directory`, and what `markdown` makes of that."""
    directory.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=2, default=as_json)
    (directory / f"{name}.json").write_text(f"{text}\n")
    if markdown is not None:
        (directory / f"{name}.md").write_text(markdown(json.loads(text)))


def as_json(value: Any) -> Any:
    """Return what stands for `value` in JSON; of a path its name, as the rest is this machine's."""
    return value.name if isinstance(value, Path) else asdict(value)
