"""Functions that answer from processes of their own.

CPython fits the code that it runs, Django's too, to the classes that it meets, and only a benchmark
has the classes of two backends in one process.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

from django.db import connections

Answer = Callable[[Any], Any]


@contextmanager
def forked(functions: Mapping[str, Answer]) -> Iterator[dict[str, Answer]]:
    """Run each function in a process of its own; yield functions that ask them, and wait.

    An exception in there is raised here.
    """
    # The processes would share what is open.
    connections.close_all()
    context = multiprocessing.get_context("fork")
    asking: dict[str, Answer] = {}
    children = []
    try:
        for name, function in functions.items():
            pipe, end = context.Pipe()
            child = context.Process(target=serve, args=(end, function), daemon=True)
            child.start()
            end.close()
            children.append(child)
            asking[name] = partial(ask, pipe)
        yield asking
    finally:
        for child in children:
            child.kill()
            child.join()


def ask(pipe: Connection, question: Any) -> Any:
    """Return what the function at the other end of `pipe` returns, or raise what it raises."""
    pipe.send(question)
    answer, error = pipe.recv()
    if error is not None:
        raise error
    return answer


def serve(pipe: Connection, function: Answer) -> None:
    """Answer what is asked until nobody does."""
    # Collections leave alone what was there before.
    gc.freeze()
    with suppress(EOFError):
        while True:
            question = pipe.recv()
            try:
                answer, error = function(question), None
            except Exception as raised:  # noqa: BLE001 - it is raised for who asked
                answer, error = None, raised
            pipe.send((answer, error))
