"""What errors may show of settings: the values of a resolver's options may be secret."""

from __future__ import annotations

from collections.abc import Mapping


def masked(resolvers: object) -> object:
    """Return RESOLVERS, or a part of it, with the names of its options and not their values."""
    if isinstance(resolvers, list | tuple):
        return [masked(each) for each in resolvers]
    if not isinstance(resolvers, Mapping):
        return resolvers
    options = resolvers.get("OPTIONS")
    names = dict.fromkeys(options, "***") if isinstance(options, Mapping) else "***"
    return {
        key: value if key == "NAME" else names if key == "OPTIONS" else "***"
        for key, value in resolvers.items()
    }
