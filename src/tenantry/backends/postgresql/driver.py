"""The DB-API module that Django's backend connects with: psycopg's, with our connections."""

from __future__ import annotations

from typing import Any

import psycopg

from .connection import BoundConnection


def connect(*args: Any, **options: Any) -> BoundConnection:
    """Return a new connection; tracing may have replaced psycopg's method since the import."""
    return BoundConnection.connect(*args, **options)


def __getattr__(name: str) -> Any:
    """Return everything else that psycopg has."""
    return getattr(psycopg, name)
