"""The DB-API module that Django's backend connects with: psycopg's, with our connections."""

from __future__ import annotations

from psycopg import (
    DatabaseError,
    DataError,
    Error,
    IntegrityError,
    InterfaceError,
    InternalError,
    NotSupportedError,
    OperationalError,
    ProgrammingError,
    Warning,  # noqa: A004 - DB-API's name
    __version__,
    apilevel,
    paramstyle,
    threadsafety,
)

from .connection import BoundConnection

connect = BoundConnection.connect

__all__ = [
    "BoundConnection",
    "DataError",
    "DatabaseError",
    "Error",
    "IntegrityError",
    "InterfaceError",
    "InternalError",
    "NotSupportedError",
    "OperationalError",
    "ProgrammingError",
    "Warning",
    "__version__",
    "apilevel",
    "connect",
    "paramstyle",
    "threadsafety",
]
