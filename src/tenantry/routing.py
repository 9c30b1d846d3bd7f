"""Which tables a database has, by ``DATABASE_ROUTERS``."""

from __future__ import annotations

from typing import Any

from django.db import router


def declaring(model: Any) -> Any:
    """Return the model with which Django makes the table of `model`.

    That of a many-to-many relation without a model of its own comes with what declares it.
    """
    return model._meta.auto_created or model


def is_placed(alias: str, model: Any) -> bool:
    """Return whether the database `alias` is to have the table of `model`."""
    return router.allow_migrate_model(alias, declaring(model))


def is_migrated(connection: Any, model: Any) -> bool:
    """Return whether ``migrate`` makes the table of `model` in a database."""
    can_be: bool = declaring(model)._meta.can_migrate(connection)
    return can_be and is_placed(connection.alias, model)
