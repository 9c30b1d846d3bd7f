"""What mixins stand over: classes of Django's or psycopg's, whose methods no one type has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Be they sync or async, or of one backend or another.
    Base = Any
else:
    Base = object
