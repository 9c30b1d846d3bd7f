"""psycopg without Django: the same SQL, with BEGIN, SAVEPOINT and COMMIT beside the statements.

The limit of what a program in Python can do over one connection that waits for each answer: no
request, no ORM, no policy, the tenant in every WHERE. The tables are stock Django's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg

from benchmarks.shop import BULK, PAGE, READS, SAVES, joined
from benchmarks.views import RAW, REPORT

COLUMNS = "id, tenant_id, author_id, category_id, title, created_at"
READ = f"SELECT {COLUMNS} FROM note WHERE tenant_id = %s ORDER BY created_at DESC LIMIT {PAGE}"
PAGE_OF = f"""
SELECT n.id, n.tenant_id, n.author_id, n.category_id, n.title, n.created_at,
    a.id, a.tenant_id, a.name, c.id, c.tenant_id, c.name
FROM note n JOIN author a ON a.id = n.author_id JOIN category c ON c.id = n.category_id
WHERE n.tenant_id = %s ORDER BY n.created_at DESC LIMIT {PAGE}
"""
WRITE = "INSERT INTO event (tenant_id, name) VALUES (%s, 'it') RETURNING id"
SAVE = "UPDATE note SET title = %s WHERE id = %s"


class Requests:
    """Do what the views do, over one connection."""

    def __init__(self, dsn: str) -> None:
        self.connection = psycopg.connect(dsn, autocommit=True, cursor_factory=psycopg.ClientCursor)

    def request(self, workload: str, tenant: int) -> str:
        """Return the answer of the view `workload` for a tenant."""
        work: Callable[[int], str] = getattr(self, workload)
        return work(tenant)

    def rows(self, query: str, *parameters: Any) -> list[Any]:
        """Send one message; return the rows of the statement that has any."""
        found: list[Any] = []
        with self.connection.cursor() as cursor:
            cursor.execute(query, parameters)
            while True:
                if cursor.description is not None:
                    found = cursor.fetchall()
                if not cursor.nextset():
                    return found

    def read(self, tenant: int) -> str:
        return joined(row[0] for row in self.rows(READ, tenant))

    def reads(self, tenant: int) -> str:
        return joined(
            row[0]
            for page in range(READS)
            for row in self.rows(f"{READ} OFFSET {page * PAGE}", tenant)
        )

    def write(self, tenant: int) -> str:
        self.rows(WRITE, tenant)
        return "done"

    def atomic(self, tenant: int) -> str:
        return joined(row[0] for row in self.rows(f"BEGIN; {READ}; COMMIT", tenant))

    def nested(self, tenant: int) -> str:
        notes = self.rows(f"BEGIN; {READ}", tenant)
        for number, note in enumerate(notes[:SAVES], 1):
            end = "; COMMIT" if number == SAVES else ""
            self.rows(f"SAVEPOINT s; {SAVE}; RELEASE s{end}", note[4], note[0])
        return joined(note[0] for note in notes)

    def atomic_request(self, tenant: int) -> str:
        notes = self.rows(f"BEGIN; {READ}", tenant)
        self.rows(f"{WRITE}; COMMIT", tenant)
        return joined(note[0] for note in notes)

    def page(self, tenant: int) -> str:
        return ",".join(f"{row[0]}:{row[8]}:{row[11]}" for row in self.rows(PAGE_OF, tenant))

    def bulk(self, tenant: int) -> str:
        values = ", ".join(["(%s, 'it')"] * BULK)
        query = f"INSERT INTO event (tenant_id, name) VALUES {values} RETURNING id"
        self.rows(query, *[tenant] * BULK)
        return "done"

    def raw(self, tenant: int) -> str:
        return joined(
            row[0] for row in self.rows(RAW.format(where="WHERE n.tenant_id = %s"), tenant)
        )

    def report(self, tenant: int) -> str:
        rows = self.rows(REPORT.format(where="WHERE n.tenant_id = %s"), tenant)
        return ",".join(f"{name}:{count}" for name, count in rows)
