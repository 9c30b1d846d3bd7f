"""Tables that lose their protection in a migration that is not a transaction.

A constraint that changes is removed, and added again. Everybody would see the table in between, and
from then on if the second fails. So it shows nothing until it is protected anew, or the migration
ends.
"""

from __future__ import annotations

from typing import Any

from django.db.backends.ddl_references import Statement, Table

from .policies.ddl import reopen
from .policies.predicates import literal


class Opening(Statement):
    """The SQL that waits to let everybody see a table; Django forgets it with its table."""

    def __init__(self, table: str, schema_editor: Any) -> None:
        quote = schema_editor.quote_name
        super().__init__(
            reopen("%(table)s", "%(name)s"),
            table=Table(table, quote),
            name=Table(table, lambda name: literal(quote(name))),
        )


def stay_closed(table: str, schema_editor: Any) -> None:
    """Forget what waits to let everybody see a table."""
    schema_editor.deferred_sql[:] = [
        sql
        for sql in schema_editor.deferred_sql
        if not (isinstance(sql, Opening) and sql.references_table(table))
    ]
