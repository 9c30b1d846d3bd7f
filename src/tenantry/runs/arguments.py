"""Arguments that several commands take."""

from __future__ import annotations

import argparse
from typing import Any

from django.core.management.base import CommandParser
from django.db import DEFAULT_DB_ALIAS, connections

from ..conf import rls_tenants
from .databases import bound_database, home_of
from .tenants import find_tenant


def add_tenant(parser: CommandParser) -> None:
    """Declare the arguments that name one tenant; see :func:`named_tenant`."""
    parser.add_argument("tenant", help="the tenant's primary key")
    parser.add_argument(
        "--by", default="pk", metavar="FIELD", help="a unique field, instead of the key"
    )
    parser.add_argument(
        "--database", choices=list(connections), help="the alias (default: the tenant's)"
    )


def named_tenant(options: dict[str, Any]) -> tuple[Any, Any]:
    """Return the connection of the database to work on, and the tenant, as it is there.

    Raises CommandError when there is no such tenant, or the database is of another ENGINE.
    """
    value, by, alias = options["tenant"], options["by"], options["database"]
    if alias is None:
        is_spread = rls_tenants().shard_of is not None
        alias = home_of(find_tenant(value, by).pk) if is_spread else DEFAULT_DB_ALIAS
    connection = bound_database(alias)
    return connection, find_tenant(value, by, connection.alias)


def positive(text: str) -> int:
    """Return a number from one on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is too few; give 1 or more")
    return number


def without_dashes(words: list[str]) -> list[str]:
    """Return the words without a ``--`` in front, which ends the options of a command."""
    return words[1:] if words[:1] == ["--"] else words
