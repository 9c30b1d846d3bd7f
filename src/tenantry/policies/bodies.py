"""The functions that policies call, as the catalog has them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from .ddl import Shape

# As the templates have them. Those in SQL are for raw SQL: no policy calls them.
_CALLED = re.compile(
    r"CREATE OR REPLACE FUNCTION ([^\s(]+)\((?:\w+ (\w+))?\) RETURNS \w+\n"
    r"  LANGUAGE plpgsql STABLE PARALLEL SAFE( SECURITY DEFINER)?\n"
    r"  SET search_path = ([^\n]+)\n"
    r" *AS \$tenantry\$(.*?)\$tenantry\$",
    re.DOTALL,
)


class Function(NamedTuple):
    """A function in PL/pgSQL: its name with its arguments' types, its text and its settings."""

    name: str
    text: str
    settings: list[str]
    is_definer: bool


def called(shape: Shape) -> Iterator[Function]:
    """Yield the functions that the policies of a table call."""
    for name, argument, definer, path, text in _CALLED.findall(shape.functions()):
        yield Function(f"{name}({argument})", text, [f"search_path={path}"], bool(definer))
