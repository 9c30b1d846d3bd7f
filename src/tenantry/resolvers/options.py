"""What the options of resolvers may be, so that what is wrong is said at the start."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

# What Django admits of the header Host, without a port.
DOMAIN = re.compile(r"[A-Za-z0-9.-]*[A-Za-z0-9-][A-Za-z0-9.-]*")
HEADER = re.compile(r"[A-Za-z0-9-]+")


def require(fits: bool, option: str, value: object, allowed: str) -> None:
    """Raise ValueError, which says what is allowed, unless the value of an option fits."""
    if not fits:
        raise ValueError(f"{option} is {value!r}; it must be {allowed}")


def require_text(option: str, value: object, example: str, *, empty: bool = False) -> None:
    """Raise ValueError unless the value of an option is a text, which `empty` lets be empty."""
    fits = isinstance(value, str) and (empty or value != "")
    require(fits, option, value, f"a text such as {example!r}")


def require_texts(option: str, value: object, example: list[str]) -> None:
    """Raise ValueError unless the value is a collection of texts; one text is one of letters."""
    fits = isinstance(value, list | tuple | set | frozenset) and all(
        isinstance(each, str) for each in value
    )
    require(fits, option, value, f"a list such as {example!r}")


def require_header(option: str, value: object, example: str) -> None:
    """Raise ValueError unless the value is the name of a header."""
    fits = isinstance(value, str) and HEADER.fullmatch(value) is not None
    require(fits, option, value, f"the name of a header, such as {example!r}")


def require_domain(option: str, value: object) -> None:
    """Raise ValueError unless the value is a host name, and no address that has one."""
    fits = isinstance(value, str) and DOMAIN.fullmatch(value) is not None
    allowed = "a host name without a scheme, a port and a path, such as 'example.com'"
    require(fits, option, value, allowed)


def require_switch(option: str, value: object) -> None:
    """Raise ValueError unless the value is True or False."""
    require(isinstance(value, bool), option, value, "True or False")


def require_seconds(option: str, value: Any) -> None:
    """Raise ValueError unless the value is a number of seconds."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    fits = is_number and 0 <= value < math.inf
    require(fits, option, value, "a number of seconds, such as 30")


def require_filter(option: str, value: object) -> None:
    """Raise ValueError unless the value is a dict of the arguments of filter()."""
    fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
    require(fits, option, value, "a dict such as {'is_active': True}")
