"""A child process, and what it may reach."""

from __future__ import annotations

import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

LOOPBACK = "127.0.0.1"


class ServerError(RuntimeError):
    """A server could not be started, with the end of its log."""


class Child:
    """A child process that writes to a log file; `name` is what errors call it."""

    def __init__(
        self, args: Iterable[str | Path], log: Path, *, name: str = "", **popen: Any
    ) -> None:
        command = [str(arg) for arg in args]
        self.name = name or Path(command[0]).name
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(  # noqa: S603 (the callers' own commands)
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                # Ctrl-C in a terminal reaches the whole group; children end when we say so.
                start_new_session=True,
                **popen,
            )

    def wait_until(self, ready: Callable[[], bool], timeout: float = 30) -> None:
        """Return once `ready()`; raise ServerError if the process ends first or is too late."""
        deadline = time.monotonic() + timeout
        while not ready():
            if self.process.poll() is not None:
                raise ServerError(self.report(f"ended with status {self.process.returncode}"))
            if time.monotonic() > deadline:
                raise ServerError(self.report(f"was not ready after {timeout:g} seconds"))
            time.sleep(0.02)

    def finish(self) -> int:
        """Wait for the end and return the exit status; an exception ends the process."""
        try:
            return self.process.wait()
        finally:
            self.stop()

    def stop(self, grace: float = 5) -> None:
        """End the process: politely, then by force."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(grace)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def report(self, what: str) -> str:
        """Return one sentence about the process, and the end of its log."""
        return f"{self.name} {what}\n{log_tail(self.log)}".rstrip()


def free_port() -> int:
    """Return a free TCP port of the loopback address."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port


def let_through(directory: Path) -> None:
    """Let other OS users pass through a directory and those above it, without listing them."""
    for place in (directory, *directory.parents):
        mode = place.stat().st_mode
        if not mode & stat.S_IXOTH:
            place.chmod(mode | stat.S_IXOTH)


def log_tail(log: Path, lines: int = 20) -> str:
    """Return the last lines of a log, or nothing if there is none."""
    if not log.exists():
        return ""
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
