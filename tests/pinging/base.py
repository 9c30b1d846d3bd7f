"""A backend that asks its driver's connection whether it is usable, as Django's for MySQL does."""

from __future__ import annotations

from django.db.backends.sqlite3 import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Be Django's SQLite backend, which does not ask."""

    def is_usable(self) -> bool:
        """Return whether the connection, which Django says may be assumed, answers."""
        self.connection.execute("SELECT 1")
        return True
