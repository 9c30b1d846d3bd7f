"""The functions that policies call: whether they are what a migration made."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Any

from ..policies.bodies import called
from .findings import Finding
from .migrations import Migrations
from .policies import shape_for
from .tables import NO_POLICIES

# A missing function shows up as E114 or E115 of the policies that call it. One that is IMMUTABLE is
# called when a statement is planned, and so keeps a tenant in a plan that is used again.
DIFFERS = """\
SELECT FROM pg_proc p JOIN pg_language l ON l.oid = prolang
WHERE p.oid = to_regprocedure(%(name)s) AND (lanname, prosrc, proconfig, prosecdef, provolatile)
  IS DISTINCT FROM ('plpgsql', %(text)s, %(settings)s::text[], %(definer)s, 's')"""


def inspect_bodies(
    cursor: Any, models: Collection[Any], known: Collection[str], migrations: Migrations
) -> Iterator[Finding]:
    """Yield functions that differ from those that the policies of `models` are made to call.

    What follows from findings whose ids are `known` is left out.
    """
    if NO_POLICIES.intersection(known):
        return
    functions = {each.name: each for model in models for each in called(shape_for(model))}
    for name, each in functions.items():
        parameters = {
            "name": name,
            "text": each.text,
            "settings": each.settings,
            "definer": each.is_definer,
        }
        cursor.execute(DIFFERS, parameters)
        if cursor.fetchone() is not None:
            yield Finding(
                "tenantry.E115",
                f"function {name}",
                "is called by policies, and differs from what a migration made: its text, its"
                " settings, its volatility, or as whom it runs",
                "run as its owner what check_rls --generate prints",
                # It comes with the policies.
                any(
                    migrations.protects(model)
                    for model in models
                    if each in called(shape_for(model))
                ),
            )
