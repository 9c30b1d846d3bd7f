"""How a row names its tenant: in a column, or in a column of a row that it refers to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Quote = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Hop:
    """Name a foreign key's column, and the table and the key that it refers to."""

    column: str
    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Owner:
    """Name the tenant column, and the foreign keys that lead to its table, if that is another."""

    column: str
    hops: tuple[Hop, ...] = ()

    def holds(self, table: str, tenant: str, quote: Quote) -> str:
        """Return the predicate of a policy: that a row of the quoted `table` is of `tenant`.

        PostgreSQL looks at the row that is referred to, or at all those of the tenant at once,
        whichever it takes to be cheaper.
        """
        if not self.hops:
            return f"{quote(self.column)} = {tenant}"
        first = self.hops[0]
        return (
            f"EXISTS (SELECT FROM {self._joined(quote)}"
            f" WHERE o1.{quote(first.key)} = {table}.{quote(first.column)}"
            f" AND {self._tenant(quote)} = {tenant})"
        )

    def equals(self, alias: str, quote: Quote) -> str:
        """Return the same for a query, of the quoted `alias` and a parameter.

        A subquery of IN can be joined in any order, and so begin with the tenant's rows.
        """
        if not self.hops:
            return f"{alias}.{quote(self.column)} = %s"
        first = self.hops[0]
        rows = f"SELECT o1.{quote(first.key)} FROM {self._joined(quote)}"  # noqa: S608 - quoted
        return f"{alias}.{quote(first.column)} IN ({rows} WHERE {self._tenant(quote)} = %s)"

    def _joined(self, quote: Quote) -> str:
        tables = [f"{quote(self.hops[0].table)} AS o1"]
        for number, hop in enumerate(self.hops[1:], 1):
            tables.append(
                f"JOIN {quote(hop.table)} AS o{number + 1}"
                f" ON o{number + 1}.{quote(hop.key)} = o{number}.{quote(hop.column)}"
            )
        return " ".join(tables)

    def _tenant(self, quote: Quote) -> str:
        return f"o{len(self.hops)}.{quote(self.column)}"
