"""What somebody may set on a connection of a pool, and whoever gets it next must not find."""

from __future__ import annotations

from operator import attrgetter

OF_TRANSACTIONS = ("isolation_level", "read_only", "deferrable")
OF_CURSORS = (
    "row_factory",
    "cursor_factory",
    "server_cursor_factory",
    "prepare_threshold",
    "prepared_max",
)
NAMES = OF_TRANSACTIONS + OF_CURSORS
preferences = attrgetter(*NAMES)

# Those that an async connection has methods for.
BY_METHOD = ("autocommit", *OF_TRANSACTIONS)
async_preferences = attrgetter(*BY_METHOD, *OF_CURSORS)
