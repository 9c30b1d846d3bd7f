"""What mixins stand over: classes of Django's or psycopg's, whose methods no one type has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # Be they sync or async, or of one backend or another.
    Base = Any
else:
    Base = object


def require_first(cls: type, mixin: type, other: type, harm: str) -> None:
    """Raise TypeError if `cls` has `mixin` behind a base of `other`, which does the `harm`."""
    for base in cls.__mro__[1 : cls.__mro__.index(mixin)]:
        if issubclass(base, other) and not issubclass(base, mixin):
            raise TypeError(
                f"{cls.__qualname__} has {base.__qualname__} before {mixin.__name__}, which would"
                f" {harm}; write: class {cls.__name__}({mixin.__name__}, {base.__name__})"
            )
