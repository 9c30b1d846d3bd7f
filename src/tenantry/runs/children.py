"""A process of its own for each tenant's command, whose output is passed on line by line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from .interruption import Interrupted

# Lines of output that a report keeps of each tenant.
KEPT = 20
# Seconds that a process has to end by itself.
PATIENCE = 10


@dataclass
class Outcome:
    """How a command went for one tenant."""

    tenant: str
    status: str = "not run"
    seconds: float = 0.0
    exit_code: int | None = None
    output: deque[str] = field(default_factory=lambda: deque(maxlen=KEPT))


class Children:
    """Run processes, and end them all when they are to stop."""

    def __init__(
        self,
        command: Sequence[str],
        say: Callable[[str, str], None],
        *,
        fail_fast: bool = False,
        program: Sequence[str] = ("-m", "django"),
    ) -> None:
        self.command = list(command)
        self.say = say
        self.fail_fast = fail_fast
        self.program = program
        self.lock = threading.Lock()
        self.running: set[subprocess.Popen[str]] = set()
        self.stopped = False
        self.killed = False

    def run(self, outcome: Outcome) -> Outcome:
        """Run the command as a tenant, unless it is too late; note how it went."""
        start = time.monotonic()
        process = self.start(outcome.tenant)
        if process is None:
            return outcome
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        broken = False
        try:
            for line in process.stdout:
                outcome.output.append(line.rstrip("\n"))
                self.say(outcome.tenant, line.rstrip("\n"))
            process.wait()
        except BaseException:
            # Where nobody reads its output, it must not go on, and no other must start.
            broken = True
            self.stop()
            process.stdout.close()
            end([process])
            raise
        finally:
            with self.lock:
                self.running.discard(process)
            process.stdout.close()
            outcome.seconds = round(time.monotonic() - start, 3)
            self.conclude(outcome, process.wait(), interrupted=broken or self.killed)
        return outcome

    def conclude(self, outcome: Outcome, code: int, *, interrupted: bool) -> None:
        """Note how a process ended."""
        # As a shell does where a signal ended it.
        outcome.exit_code = code if code >= 0 else 128 - code
        outcome.status = "ok" if code == 0 else "interrupted" if interrupted else "failed"
        # Here, and not where outcomes are collected: this thread would start the next one first.
        if self.fail_fast and code != 0:
            self.stop()

    def start(self, tenant: str) -> subprocess.Popen[str] | None:
        """Start the command as a tenant; return None if nothing is to start any more."""
        arguments = [*self.program, "run_as_tenant", "--", tenant, "--", *self.command]
        # What a script such as manage.py put on the path is there for its child, too.
        path = os.pathsep.join(filter(None, sys.path))
        with self.lock:
            if self.stopped:
                return None
            process = subprocess.Popen(  # noqa: S603 - a list, without a shell
                [sys.executable, *arguments],
                env=os.environ | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # Ctrl-C reaches them by stop(), once.
                start_new_session=True,
            )
            self.running.add(process)
            return process

    def stop(self) -> None:
        """Start no other process."""
        with self.lock:
            self.stopped = True

    def kill(self) -> None:
        """Interrupt all processes as Ctrl-C does, and kill what has not ended soon."""
        self.killed = True
        self.stop()
        with self.lock:
            left = list(self.running)
        end(left)


def end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """Interrupt processes, and kill those that have not ended soon.

    Who is interrupted once more meanwhile waits no longer.
    """
    with suppress(KeyboardInterrupt, Interrupted):
        for process in processes:
            signal_group(process, signal.SIGINT)
        deadline = time.monotonic() + PATIENCE
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    for process in processes:
        if process.poll() is None:
            signal_group(process, signal.SIGKILL)


def signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    """Send a signal to a process and to those that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
