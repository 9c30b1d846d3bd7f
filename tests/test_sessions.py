"""What is looked at before the pattern that finds session state, which takes long for long SQL."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tenantry.backends.postgresql.sessions import SESSION_STATE, is_plain

WORDS = (
    *("select", "WITH", "insert", "INTO", "TEMP", "temporary", "pg_temp", '"pg_temp"', ".", "SET"),
    *("LISTEN", "DISCARD ALL", "RESET", "PREPARE", "DECLARE", "WITH HOLD", "EXPLAIN", "CREATE"),
    *("UNLOGGED", "TABLE", "VIEW", "ON COMMIT DROP", "pg_advisory_lock(", "pg_catalog.", "UPDATE"),
    *("pg_try_advisory_lock_shared(", "set_config(", "'a',", "'b',", "false)", "SET_CONFIG(", ")"),
    *("is_local =>", ";", "--", "\n", "/* c */", "'", "delete", "from app_note", "ß", "1"),
)


@settings(max_examples=500)
@given(
    first=st.sampled_from(["SELECT", "with", " insert", "/**/UPDATE", "delete\n", ""]),
    words=st.lists(st.sampled_from(WORDS), max_size=12),
)
def test_what_is_plain_at_a_glance_leaves_nothing(first: str, words: list[str]) -> None:
    for gap in ("", " "):
        text = gap.join([first + " ", *words]).encode()
        assert not (is_plain(text) and SESSION_STATE.search(text))


def test_reads_and_writes_are_plain_at_a_glance() -> None:
    many = ", ".join(map(str, range(5000)))
    for statement in (
        f'SELECT "app_note"."title" FROM "app_note" WHERE "app_note"."id" IN ({many})',
        "INSERT INTO app_shared (text) VALUES ('x')",
        "WITH n AS (SELECT 1) DELETE FROM app_note",
    ):
        assert is_plain(statement.encode())
