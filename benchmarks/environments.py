"""An environment for each candidate, with the newest release of its package."""

from __future__ import annotations

import subprocess
import sys
import venv
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from .candidates import Candidate

PLACE = Path(__file__).with_name(".envs")
# What every candidate has in the version of the benchmark itself.
SAME = ("django", "psycopg", "psycopg-binary")


class NotInstalledError(RuntimeError):
    """A candidate cannot be installed; the message is why."""


def interpreter(candidate: Candidate, *, upgrade: bool = False, same: Sequence[str] = SAME) -> str:
    """Return the Python of the candidate's environment, after making it if need be.

    All have the Python of the benchmark itself, and the packages `same` in its versions. Raises
    NotInstalledError with the last line of pip.
    """
    if not candidate.package:
        return sys.executable
    tag = f"{sys.version_info.major}.{sys.version_info.minor}-django-{version('django')}"
    place = PLACE / f"{candidate.name}-{tag}"
    python, done = place / "bin" / "python", place / "done"
    if upgrade or not done.exists():
        # One that was not finished, because somebody ended the run, may lack pip.
        if not done.exists():
            venv.create(place, clear=True, with_pip=True)
        install(python, candidate.package, same)
        done.touch()
    return str(python)


def install(python: Path, package: str, same: Sequence[str]) -> None:
    """Install the newest release of `package` beside packages that the benchmark has, too."""
    pinned = [f"{name}=={version(name)}" for name in same]
    command: list[str | Path] = [
        python,
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        "--upgrade",
    ]
    done = subprocess.run([*command, package, *pinned], capture_output=True, text=True, check=False)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise NotInstalledError(lines[-1] if lines else f"pip ended with {done.returncode}")
