"""Tables that show their owner all rows, for as long as a change of the schema looks at them.

Django fills the NULLs of a column with an UPDATE, and PostgreSQL checks a new foreign key with a
query, both as the owner, whom FORCE ROW LEVEL SECURITY binds. They would find no rows: NULLs stay,
and a foreign key holds for none, or for all where only the table that it refers to is hidden.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from django.db import models, transaction

from ...binding import ADMIN, running_as
from ...conf import rls_tenants
from ...retyping import referred_column
from ...seal import send_seal_keys

# Only if the first one has rows to look at; the size is of all rows, which a partitioned table has
# none of itself. Nothing else is worth a lock. A foreign key is checked in each partition alone.
_FORCED = """\
SELECT name FROM (
  SELECT name, to_regclass(name) AS oid FROM unnest(%(tables)s::text[]) name
  UNION ALL SELECT relid::text, relid FROM unnest(%(tables)s::text[]) name,
    pg_partition_tree(to_regclass(name)) WHERE relid <> to_regclass(name)
) looked_at JOIN pg_class c USING (oid)
WHERE relrowsecurity AND relforcerowsecurity
  AND (pg_relation_size(to_regclass(%(first)s)) > 0 OR EXISTS (
    SELECT FROM pg_partition_tree(to_regclass(%(first)s)) WHERE pg_relation_size(relid) > 0))"""


@contextmanager
def released(editor: Any, *tables: str) -> Iterator[None]:
    """Let the owner see all rows of `tables`, if what is asked of the first one needs them.

    Nobody else does meanwhile: it is one transaction, which locks the tables.
    """
    if not tables:
        yield
        return
    quoted = [*dict.fromkeys(map(editor.quote_name, tables))]
    with editor.connection.cursor() as cursor:
        cursor.execute(_FORCED, {"tables": quoted, "first": quoted[0]})
        forced = [name for (name,) in cursor.fetchall()]
    if not forced:
        yield
        return
    block: AbstractContextManager[Any] = nullcontext()
    if not editor.collect_sql:
        block = transaction.atomic(using=editor.connection.alias)
    with block:
        # PostgreSQL alters no table with checks that are still to come.
        editor.execute("SET CONSTRAINTS ALL IMMEDIATE", params=None)
        for table in forced:
            editor.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY", params=None)
        yield
        for table in forced:
            editor.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY", params=None)


@contextmanager
def as_admin(editor: Any, *closed: str) -> Iterator[None]:
    """Be the admin for several statements in one string; the owner sees all rows of `closed`."""
    block: AbstractContextManager[Any] = nullcontext()
    if rls_tenants().sealed and not editor.collect_sql:
        # This migration may be the one that has made their table.
        send_seal_keys(editor.connection)
        if not editor.connection.in_atomic_block:
            # The string is a transaction anyway; what is sealed goes in front of it.
            block = transaction.atomic(using=editor.connection.alias)
    with running_as(ADMIN), block, released(editor, *closed):
        yield


def filled(model: Any, old: Any, new: Any) -> list[str]:
    """Return the table of `model` if Django fills the NULLs of a column that becomes NOT NULL."""
    becomes = old.null and not new.null and (new.has_default() or new.has_db_default())
    return [model._meta.db_table] if becomes else []


def looked_at(model: Any, field: Any) -> list[str]:
    """Return the tables in which PostgreSQL looks whether the rows may refer to a default."""
    is_key = isinstance(field, models.ForeignKey)
    has_default = field.has_default() or field.has_db_default()
    if is_key and has_default and field.db_constraint:
        return [model._meta.db_table, referred_column(field)[0]]
    return []
