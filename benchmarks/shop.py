"""The rows of the benchmark, which every candidate has in the same order, and the right answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache

PAGE = 20
READS = 5
SAVES = 3
BULK = 500
AUTHORS, CATEGORIES = 5, 4


@dataclass(frozen=True)
class Shop:
    """So many notes of so many tenants; each tenant's lie scattered over the table."""

    rows: int
    tenants: int

    def fill(self) -> Iterator[str]:
        """Yield statements that insert all rows but those of the tenants."""
        count = self.tenants
        for table, each, prefix in (("author", AUTHORS, "a"), ("category", CATEGORIES, "c")):
            yield (
                f"INSERT INTO {table} (id, tenant_id, name)"
                f" SELECT i, 1 + (i - 1) % {count}, '{prefix}' || i"
                f" FROM generate_series(1, {each * count}) i"
            )
        yield (
            "INSERT INTO note (id, tenant_id, author_id, category_id, title, created_at)"
            f" SELECT i, 1 + (i - 1) % {count}, {self.of_note(AUTHORS)},"
            f" {self.of_note(CATEGORIES)}, {self.columns()}"
            f" FROM generate_series(1, {self.rows}) i"
        )

    def fill_schema(self, schema: str, tenant: int) -> Iterator[str]:
        """Yield statements that insert one tenant's rows into tables without a tenant."""
        count = self.tenants
        for table, each, prefix in (("author", AUTHORS, "a"), ("category", CATEGORIES, "c")):
            yield (
                f"INSERT INTO {schema}.{table} (id, name) SELECT i, '{prefix}' || i"
                f" FROM generate_series({tenant}, {each * count}, {count}) i"
            )
        yield (
            f"INSERT INTO {schema}.note (id, author_id, category_id, title, created_at)"
            f" SELECT i, {self.of_note(AUTHORS)}, {self.of_note(CATEGORIES)}, {self.columns()}"
            f" FROM generate_series({tenant}, {self.rows}, {count}) i"
        )

    def of_note(self, each: int) -> str:
        """Return SQL for the author, or category, of note `i`."""
        count = self.tenants
        return f"1 + (i - 1) % {count} + {count} * ((i - 1) / {count} % {each})"

    def columns(self) -> str:
        """Return SQL for the title and the time of note `i`."""
        return "'note ' || repeat(md5(i::text), 4), '2026-01-01Z'::timestamptz + i * interval '1 s'"

    @cache  # noqa: B019 - it lives as long as the process
    def notes(self, tenant: int) -> tuple[int, ...]:
        """Return the ids of a tenant's notes, the newest first."""
        return tuple(range(tenant, self.rows + 1, self.tenants))[::-1]

    def related(self, note: int, each: int) -> int:
        """Return the id of the author, or category, of a note."""
        index, tenant = divmod(note - 1, self.tenants)
        return 1 + tenant + self.tenants * (index % each)

    @cache  # noqa: B019 - it lives as long as the process
    def answer(self, workload: str, tenant: int) -> str:
        """Return what a request is to be answered with."""
        notes = self.notes(tenant)
        if workload in ("write", "bulk"):
            return "done"
        if workload == "page":
            return ",".join(
                f"{note}:a{self.related(note, AUTHORS)}:c{self.related(note, CATEGORIES)}"
                for note in notes[:PAGE]
            )
        if workload == "report":
            counted = Counter(f"c{self.related(note, CATEGORIES)}" for note in notes)
            return ",".join(f"{name}:{count}" for name, count in sorted(counted.items()))
        return joined(notes[: PAGE * READS if workload == "reads" else PAGE])

    def inserted(self, workload: str) -> int:
        """Return how many events a request inserts."""
        return {"write": 1, "bulk": BULK, "atomic_request": 1}.get(workload, 0)


def joined(ids: Iterable[object]) -> str:
    """Return ids as the body of a response."""
    return ",".join(map(str, ids))
