"""Cursors that keep what is between two statements in slots."""

from __future__ import annotations

from typing import Any

from .statement import StatementMixin

# For the classes that are made of LeanMixin and others: Python does not combine bases with slots.
SLOTS = (
    *("_prefix", "_prefix_results", "_bare", "_control", "_unparsed", "_may_not_parse"),
    *("_asked", "_many", "_queued", "_together", "closed_by"),
)


class LeanMixin(StatementMixin):
    """Hold the attributes of the other mixins in a class whose ``__slots__`` are ``SLOTS``.

    With attributes of its own in a dict, Python would search that first for every method of the
    cursor, which was a quarter of what a bound statement takes more than another.
    """

    __slots__ = ()

    def __init__(self, connection: Any, *, row_factory: Any = None) -> None:
        super().__init__(connection, row_factory=row_factory)
        self._prefix = b""
        self._prefix_results = 0
        self._bare = self._unparsed = self._may_not_parse = False
        self._together = self._queued = False
        self._control = []
        self._asked = self._many = self.closed_by = None
