"""A broker, and the workers of task queues."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from example_asgi.servers import LOOPBACK, Child, Postgres, free_port
from tests.fix_docs import SOURCE

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def broker(directory: Path) -> Iterator[str]:
    """Return the address of a Redis that stores nothing on disk."""
    program = shutil.which("redis-server")
    assert program, "the tests of Celery need redis-server; install it with the system's packages"
    port = str(free_port())
    command = [program, "--bind", LOOPBACK, "--port", port, "--save", "", "--dir", str(directory)]
    server = Child(command, directory / "redis.log")
    try:
        server.wait_until(lambda: "eady to accept connections" in server.log.read_text())
        yield f"redis://{LOOPBACK}:{port}/0"
    finally:
        server.stop()


@pytest.fixture(scope="session")
def environment_of_workers(postgres: Postgres, broker: str) -> dict[str, str]:
    paths = [str(SOURCE), str(ROOT), os.environ.get("PYTHONPATH", "")]
    return os.environ | {
        "DJANGO_SETTINGS_MODULE": "tests.jobs.settings",
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TENANTRY_TEST_HOST": str(postgres.host),
        "TENANTRY_TEST_PORT": str(postgres.port),
        "TENANTRY_TEST_BROKER": broker,
    }


@pytest.fixture(scope="module", params=["solo", "threads", "prefork"])
def celery_worker(
    request: pytest.FixtureRequest,
    environment_of_workers: dict[str, str],
    broker: str,
    directory: Path,
    project: None,
) -> Iterator[Child]:
    """Run a worker of two threads, processes or none, and let this process publish to it."""
    from tests.jobs.app import app

    pool = request.param
    app.conf.update(
        broker_url=broker,
        result_backend=broker,
        # Workers of other pools have what is left in queues of their own.
        task_default_queue=pool,
    )
    app.set_default()
    options = ["--pool", pool, "--concurrency", "2", "--queues", pool, "--loglevel", "INFO"]
    options += ["--without-gossip", "--without-mingle", "--without-heartbeat"]
    worker = Child(
        [sys.executable, "-m", "celery", "-A", "tests.jobs.app", "worker", *options],
        directory / f"celery-{pool}.log",
        cwd=directory,
        env=environment_of_workers | {"TENANTRY_TEST_QUEUE": pool},
    )
    try:
        worker.wait_until(lambda: " ready." in worker.log.read_text())
        yield worker
    finally:
        worker.stop(grace=10)
        app.close()
