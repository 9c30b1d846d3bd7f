"""Django 6.1's ``FETCH_PEERS``, where rows are read in another scope than that of their query."""

from __future__ import annotations

from typing import Any

from .binding import Binding, current_binding


class PeersIn:
    """A fetch mode of rows that were fetched in `binding`: what all of them refer to, at once.

    Read as somebody else, a row asks for itself: Django would note of all others that what they
    refer to is not there, where it is only not to be seen.
    """

    __slots__ = ("binding", "mode")
    track_peers = True

    def __init__(self, mode: Any, binding: Binding) -> None:
        self.mode: Any = mode.mode if isinstance(mode, PeersIn) else mode
        self.binding = binding

    def fetch(self, fetcher: Any, instance: Any) -> None:
        """Fetch what `instance` lacks, and maybe its peers too."""
        if self.binding.sees_as(current_binding()):
            self.mode.fetch(fetcher, instance)
        else:
            fetcher.fetch_one(instance)
