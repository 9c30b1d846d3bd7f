"""In which order tables are filled and emptied, when their rows refer to each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter


@dataclass(frozen=True)
class Reference:
    """What refers from columns of a table to columns of another: mostly a foreign key."""

    name: str
    table: str
    columns: tuple[str, ...]
    target: str
    keys: tuple[str, ...]
    # What PostgreSQL does by itself to a row whose target is deleted: nothing, if it is "a" or "r".
    action: str = "a"
    # A column that can be NULL.
    nullable: str | None = None
    # A column that may be set to NULL in any row, so that it refers to nothing any more.
    loose: str | None = None
    # Whether it says whose a row is, which is known only while its target is there.
    decides: bool = False
    # Whether all rows keep it: those that were there before it may not, if it is NOT VALID.
    is_valid: bool = True

    @property
    def place(self) -> str:
        """The table and the columns, as messages name them."""
        return f"{self.table}.{','.join(self.columns)}"


@dataclass
class Order:
    """Groups of tables, those that are referred to first, and the references to cut before.

    Tables are in one group when they refer to each other by columns that cannot be NULL; in it,
    those are first that say whose the rows of others are.
    """

    groups: list[list[str]] = field(default_factory=list)
    cuts: list[Reference] = field(default_factory=list)

    @property
    def tables(self) -> list[str]:
        """All tables, those that are referred to first."""
        return [table for group in self.groups for table in group]


def in_order(tables: Sequence[str], references: Iterable[Reference]) -> Order:
    """Return the order of tables; a cycle is cut, or else becomes a group."""
    edges = [each for each in references if each.table in tables and each.target in tables]
    group = {table: table for table in sorted(tables)}
    cuts: list[Reference] = []
    while True:
        sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(group.values(), ()))
        for each in edges:
            if group[each.table] != group[each.target]:
                sorter.add(group[each.table], group[each.target])
        try:
            names = list(sorter.static_order())
            break
        except CycleError as error:
            cycle = set(error.args[1])
            within = [
                each
                for each in edges
                if group[each.table] != group[each.target]
                and {group[each.table], group[each.target]} <= cycle
            ]
            loose = [each for each in within if each.loose is not None]
            # One is enough: what is left may have no cycle.
            cuts += loose[:1]
            edges = [each for each in edges if each not in loose[:1]]
            if not loose:
                group |= {table: min(cycle) for table, name in group.items() if name in cycle}
    inside = [each for each in edges if group[each.table] == group[each.target]]
    cuts += [each for each in inside if each.loose is not None]
    groups = [[table for table, name in group.items() if name == each] for each in names]
    return Order([owners_first(tables, edges) for tables in groups], cuts)


def owners_first(tables: Sequence[str], references: Sequence[Reference]) -> list[str]:
    """Return tables of a group, each after those that say of its rows whose they are."""
    ordered: list[str] = []
    seen: set[str] = set()

    def add(table: str) -> None:
        if table in seen or table not in tables:
            return
        seen.add(table)
        for each in references:
            if each.decides and each.table == table:
                add(each.target)
        ordered.append(table)

    for table in tables:
        add(table)
    return ordered


def is_cyclic(tables: Sequence[str], references: Iterable[Reference]) -> bool:
    """Return whether rows of the tables refer to each other, so that only all of them can go."""
    return any(
        each.table in tables and each.target in tables and each.loose is None for each in references
    )
