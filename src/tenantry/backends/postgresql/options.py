"""The OPTIONS in ``DATABASES`` that are tenantry's own, and not the driver's."""

from __future__ import annotations

import difflib
from functools import lru_cache
from typing import Any

from django.core.exceptions import ImproperlyConfigured

OWN = ("ride_along", "pool_mode", "sealed_database")
# How alike two names are; none of libpq's or Django's is so close to one of ours.
CLOSE = 0.75


def take_own(alias: str, params: dict[str, Any]) -> None:
    """Take what is tenantry's out of the parameters of a new connection.

    Raises ImproperlyConfigured for a value that is not allowed, and for a name that is only nearly
    one of ours, of which psycopg would say less.
    """
    rides = params.get("ride_along", True)
    if not isinstance(rides, bool):
        raise ImproperlyConfigured(
            f"OPTIONS['ride_along'] of the database {alias!r} is {rides!r}; it must be True or"
            " False"
        )
    for own in OWN:
        params.pop(own, None)
    for name in params:
        if meant := meant_by(name, OWN):
            raise ImproperlyConfigured(
                f"OPTIONS of the database {alias!r} has the unknown key {name!r} (did you mean"
                f" {meant!r}?)"
            )


@lru_cache(maxsize=256)
def meant_by(name: str, known: tuple[str, ...]) -> str | None:
    """Return the known option that `name` is close to; None where there is none."""
    return next(iter(difflib.get_close_matches(name.lower(), known, 1, CLOSE)), None)
