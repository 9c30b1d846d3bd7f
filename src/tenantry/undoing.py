"""What the undoing of a migration leaves to do.

It knows no apps that came later. Where it protects a table again, the tables of their children and
many-to-many relations do not follow; after it, all apps are known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.apps.registry import Apps
from django.db import connections

from .dependents import has_constraint, protecting_links
from .engine import is_bound


def protect_dependents(
    sender: Any,
    using: str,
    plan: Iterable[tuple[Any, bool]] = (),
    apps: Apps | None = None,
    **kwargs: Any,
) -> None:
    """Protect what hangs on protected tables, if migrations were undone; ``migrate`` calls it."""
    connection: Any = connections[using]
    if apps is None or not is_bound(connection):
        return
    if any(backwards for _, backwards in plan):
        hanging = [
            model
            for model in apps.get_models(include_auto_created=True)
            if not has_constraint(model) and protecting_links(model, apps)
        ]
        with connection.schema_editor() as editor:
            editor.depend_as_wanted(hanging, apps)
