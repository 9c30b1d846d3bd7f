"""Signals that ask for the end of a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

# What ends a run beside Ctrl-C: a program that stops it, and the terminal that it was started from.
SIGNALS = (signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A signal asks for the end of a run."""


@contextmanager
def signals() -> Iterator[None]:
    """Let SIGTERM and SIGHUP interrupt the block as Ctrl-C does, so that it ends its processes.

    What is ignored, as SIGHUP is by ``nohup``, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        # Python delivers signals to the main thread only.
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise Interrupted

    heard = [each for each in SIGNALS if signal.getsignal(each) is not signal.SIG_IGN]
    before = [(each, signal.signal(each, interrupt)) for each in heard]
    try:
        yield
    finally:
        for each, handler in before:
            signal.signal(each, handler)
