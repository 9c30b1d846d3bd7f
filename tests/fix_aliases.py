"""Databases that only one test has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import connections

Add = Callable[..., str]


@pytest.fixture
def alias(project: None) -> Iterator[Add]:
    """Return a function that adds a database like another one, but with other OPTIONS."""
    added: list[str] = []

    def add(like: str = "pool", options: dict[str, Any] | None = None, **settings: Any) -> str:
        name = f"{like}_{len(added)}"
        entry = {**connections.settings[like], **settings}
        entry["OPTIONS"] = {**entry["OPTIONS"], **(options or {})}
        connections.settings[name] = entry
        added.append(name)
        return name

    yield add
    for name in added:
        connection: Any = connections[name]
        connection.close()
        if isinstance(connection.settings_dict["OPTIONS"].get("pool"), dict):
            getattr(connection, "close_pool", bool)()
        del connections[name]
        del connections.settings[name]
