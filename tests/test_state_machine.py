"""Any order of scopes, transactions, cursors and errors, in six configurations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from example_asgi.servers import Postgres
from tests.machine import KINDS
from tests.soak import (
    World,
    pooled_world,
    world_of_one_connection,
    world_without_riding,
)

SETTINGS = settings(
    max_examples=100,
    stateful_step_count=30,
    deadline=None,
    derandomize=True,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def one_session(
    project: None, postgres: Postgres, directory: Path, superuser: psycopg.Connection[Any]
) -> Iterator[World]:
    with pooled_world(postgres, directory / "one", superuser) as world:
        yield world


def run(world: World) -> None:
    world.prepare()
    with world.runner:
        run_state_machine_as_test(world.machine(), settings=SETTINGS)
        # Chance may have left out what can be done at few times only.
        for number in range(10):
            if KINDS - world.done.keys():
                more = seed(number)(world.machine())
                run_state_machine_as_test(more, settings=settings(SETTINGS, max_examples=30))
    assert KINDS - world.done.keys() == set()


@pytest.mark.parametrize("alias", ["default", "pool", "wire_server_side"])
def test_a_connection_of_our_own(
    alias: str, project: None, superuser: psycopg.Connection[Any]
) -> None:
    run(World(alias, superuser))


def test_transaction_control_in_messages_of_its_own(
    project: None, superuser: psycopg.Connection[Any]
) -> None:
    with world_without_riding(superuser) as world:
        run(world)


def test_one_connection_in_the_pool(project: None, superuser: psycopg.Connection[Any]) -> None:
    with world_of_one_connection(superuser) as world:
        run(world)


def test_one_server_session_that_others_use_too(one_session: World) -> None:
    run(one_session)
