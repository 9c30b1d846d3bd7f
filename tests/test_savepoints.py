"""Which savepoints the server has, as we follow them."""

from __future__ import annotations

import pytest

from tenantry.backends.postgresql.savepoints import Savepoints, SavepointSQL


@pytest.fixture
def savepoints() -> Savepoints:
    return Savepoints()


def test_those_that_are_sent_at_once_and_released_are_forgotten(savepoints: Savepoints) -> None:
    """Else each would be looked for among all that a long transaction has had."""
    for number in range(100):
        savepoints.note(f'SAVEPOINT "{number}"')
        savepoints.note(f'SAVEPOINT "inner {number}"')
        savepoints.note(f'RELEASE SAVEPOINT "{number}"')
    assert savepoints.sent == []


def test_what_is_sent_at_once_is_undone_behind_its_savepoint(savepoints: Savepoints) -> None:
    for statement in ("SAVEPOINT a", "SAVEPOINT b", "SAVEPOINT a", "SAVEPOINT c"):
        savepoints.note(statement)
    savepoints.note("ROLLBACK TO SAVEPOINT a")
    assert savepoints.sent == ["a", "b", "a"]
    savepoints.note("RELEASE SAVEPOINT a")
    assert savepoints.sent == ["a", "b"]
    for unknown in ("RELEASE SAVEPOINT d", "ROLLBACK TO SAVEPOINT d"):
        savepoints.note(unknown)
    assert savepoints.sent == ["a", "b"]


def test_a_release_that_has_waited_counts_once(savepoints: Savepoints) -> None:
    for _ in range(2):
        savepoints.note("SAVEPOINT a")
    assert savepoints.defer(SavepointSQL("RELEASE SAVEPOINT a"))
    assert savepoints.take() == [b"RELEASE SAVEPOINT a"]
    # The one that the other had hidden is there.
    assert savepoints.sent == ["a"]


def test_a_release_that_waits_is_sent_before_another_savepoint_of_the_name_is_undone(
    savepoints: Savepoints,
) -> None:
    for _ in range(2):
        savepoints.note("SAVEPOINT a")
    assert savepoints.defer(SavepointSQL("RELEASE SAVEPOINT a"))
    assert savepoints.defer(SavepointSQL("SAVEPOINT b"))
    assert not savepoints.defer(SavepointSQL("ROLLBACK TO SAVEPOINT a"))
    assert savepoints.take() == [b"RELEASE SAVEPOINT a"]
