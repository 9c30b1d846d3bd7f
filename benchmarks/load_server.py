"""Uvicorn with one candidate, as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from benchmarks.load_client import Load, ask
from benchmarks.processors import Apart

ROOT = Path(__file__).resolve().parent.parent
# Seconds that a server has to answer its first request.
START = 30


class NotServedError(RuntimeError):
    """A server does not answer, or not rightly."""


class Server:
    """What is asked, and looked at from outside."""

    def __init__(self, process: subprocess.Popen[bytes], socket: str) -> None:
        self.process = process
        self.socket = socket

    def cpu(self) -> float:
        """Return the seconds of processor time that it has taken."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self, kind: str) -> float:
        """Return the MiB that it has (``VmRSS``), or had at most (``VmHWM``)."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))

    async def wait(self, load: Load) -> None:
        """Wait until it answers; raise NotServedError if it has ended, or answers wrongly."""
        deadline = time.monotonic() + START
        while self.process.poll() is None and time.monotonic() < deadline:
            with suppress(FileNotFoundError, ConnectionRefusedError):
                await self.ask(load, 1)
                return
            await asyncio.sleep(0.02)
        raise NotServedError("the server does not answer: its output says why")

    async def ask(self, load: Load, times: int) -> None:
        """Ask one request after another; raise NotServedError where an answer is wrong."""
        reader, writer = await asyncio.open_unix_connection(self.socket)
        try:
            async with asyncio.timeout(START):
                for tenant in range(1, times + 1):
                    await ask(reader, writer, load, tenant)
        except Exception as error:
            raise NotServedError(f"{type(error).__name__}: {error}") from error
        finally:
            writer.close()


@contextmanager
def serving(python: str, place: dict[str, Any], socket: Path, apart: Apart) -> Iterator[Server]:
    """Run Uvicorn inside the block, away from the servers of the database."""
    socket.unlink(missing_ok=True)
    command = [python, "-m", "uvicorn", "--factory", "benchmarks.load_app:application"]
    command += ["--uds", str(socket), "--log-level", "warning", "--no-access-log"]
    with apart.as_client():
        process = subprocess.Popen(command, cwd=ROOT, env=environment(place))
    try:
        yield Server(process, str(socket))
    finally:
        process.kill()
        process.wait()


def create_tables(python: str, place: dict[str, Any]) -> None:
    """Create the tables of a candidate that has its own; raise NotServedError if that fails."""
    command = [python, "-m", "benchmarks.load_app"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(place), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["it ended without a word"]
        raise NotServedError(f"its tables could not be made: {lines[-1]}")


def environment(place: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a process that is to know its `place`."""
    paths = [str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    return os.environ | {"BENCHMARK": json.dumps(place), "PYTHONPATH": path}
