"""The way from a row to its tenant: a column, or a column of a row that it refers to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .predicates import unlike

Quote = Callable[[str], str]


@dataclass(frozen=True, slots=True)
class Hop:
    """A foreign key's column, and the table and the key that it refers to."""

    column: str
    table: str
    key: str


@dataclass(frozen=True, slots=True)
class Way:
    """The tenant column, and the foreign keys that lead to its table, if that is another."""

    column: str
    hops: tuple[Hop, ...] = ()

    def holds_sql(self, table: str, tenant: str, quote: Quote, around: str | None = None) -> str:
        """Return the predicate of a policy: that a row of the quoted `table` is of `tenant`.

        It is part of a policy of the quoted table `around`, where that is not `table`. PostgreSQL
        looks at the row that is referred to, or at all those of the tenant at once,
        whichever it takes to be cheaper.
        """
        if not self.hops:
            return f"{quote(self.column)} = {tenant}"
        first = self.hops[0]
        aliases = [unlike(each, around or table) for each in self._aliases]
        return (
            f"EXISTS (SELECT FROM {self._joined(quote, aliases)}"
            f" WHERE {aliases[0]}.{quote(first.key)} = {table}.{quote(first.column)}"
            f" AND {aliases[-1]}.{quote(self.column)} = {tenant})"
        )

    def equals_sql(self, alias: str, quote: Quote) -> str:
        """Return the same for a query, of the quoted `alias` and a parameter.

        A subquery of IN can be joined in any order, and so begin with the tenant's rows.
        """
        if not self.hops:
            return f"{alias}.{quote(self.column)} = %s"
        # The column of `alias` stands outside of the subquery, where nothing hides it.
        return f"{alias}.{quote(self.hops[0].column)} IN ({self.keys_sql('%s', quote)})"

    def keys_sql(self, tenant: str, quote: Quote) -> str:
        """Return a query for the keys of the rows of `tenant` that its rows may refer to."""
        aliases = self._aliases
        rows = f"SELECT {aliases[0]}.{quote(self.hops[0].key)} FROM {self._joined(quote, aliases)}"  # noqa: S608 - quoted
        return f"{rows} WHERE {aliases[-1]}.{quote(self.column)} = {tenant}"

    @property
    def _aliases(self) -> list[str]:
        return [f"o{number}" for number, _ in enumerate(self.hops, 1)]

    def _joined(self, quote: Quote, aliases: Sequence[str]) -> str:
        tables = [f"{quote(self.hops[0].table)} AS {aliases[0]}"]
        for hop, before, alias in zip(self.hops[1:], aliases, aliases[1:], strict=False):
            tables.append(
                f"JOIN {quote(hop.table)} AS {alias}"
                f" ON {alias}.{quote(hop.key)} = {before}.{quote(hop.column)}"
            )
        return " ".join(tables)
