"""Which tables a database has, by ``DATABASE_ROUTERS``."""

from __future__ import annotations

from typing import Any

from django.db import router


def is_placed(alias: str, model: Any) -> bool:
    """Return whether the database `alias` is to have the table of `model`.

    Django makes the table of a many-to-many relation with that of its model, and asks for that
    alone.
    """
    return router.allow_migrate_model(alias, model._meta.auto_created or model)
