"""The parent's end of a worker."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("worker.py")


class WorkerError(RuntimeError):
    """A worker ended, or could not do what it was asked for."""


class Pipe:
    """Ask a worker to do things, and wait for its answers."""

    def __init__(self, process: subprocess.Popen[str], log: Path) -> None:
        self.process = process
        self.log = log

    def ask(self, command: str, **arguments: Any) -> Any:
        """Return the worker's answer; raise WorkerError with its error."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps([command, arguments]) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # There is no answer either.
        line = self.process.stdout.readline()
        if not line:
            lines = self.log.read_text().strip().splitlines() or ["it ended without a word"]
            raise WorkerError(lines[-1])
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer["result"]


@contextmanager
def working(python: str, name: str, place: Mapping[str, Any], log: Path) -> Iterator[Pipe]:
    """Run the worker of a candidate; what it prints goes to `log`."""
    command = [python, WORKER, name, json.dumps(place)]
    with (
        log.open("w") as output,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True
        ) as process,
    ):
        try:
            yield Pipe(process, log)
        finally:
            process.kill()
