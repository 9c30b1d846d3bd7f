"""An environment for each candidate, with the newest release of its package."""

from __future__ import annotations

import subprocess
import sys
import venv
from importlib.metadata import version
from pathlib import Path

from .candidates import Candidate

PLACE = Path(__file__).with_name(".envs")


class NotInstalledError(RuntimeError):
    """A candidate cannot be installed; the message is why."""


def interpreter(candidate: Candidate, *, upgrade: bool = False) -> str:
    """Return the Python of the candidate's environment, after making it if need be.

    All have the same Python, Django and psycopg, those of the benchmark itself. Raises
    NotInstalledError with the last line of pip.
    """
    if not candidate.package:
        return sys.executable
    tag = f"{sys.version_info.major}.{sys.version_info.minor}-django-{version('django')}"
    place = PLACE / f"{candidate.name}-{tag}"
    python, done = place / "bin" / "python", place / "done"
    if upgrade or not done.exists():
        if not python.exists():
            venv.create(place, with_pip=True)
        install(python, candidate.package)
        done.touch()
    return str(python)


def install(python: Path, package: str) -> None:
    """Install the newest release of `package` beside the benchmark's Django and psycopg."""
    same = [f"{name}=={version(name)}" for name in ("django", "psycopg", "psycopg-binary")]
    command = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--upgrade"]
    done = subprocess.run([*command, package, *same], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalledError(lines[-1] if lines else f"pip ended with {done.returncode}")
