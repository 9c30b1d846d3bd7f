"""Django's source distribution, which has its test suite, in a cache folder."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import tempfile
from importlib.metadata import version
from pathlib import Path


def installed_version() -> str:
    """Return the version of Django in this environment."""
    return version("django")


def source(django: str, cache: Path) -> Path:
    """Return the unpacked source distribution of a version of Django, downloaded if need be."""
    folder = cache / f"django-{django}"
    if folder.exists():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as name:
        unpacked = unpack(download(django, Path(name)), Path(name))
        unpacked.rename(folder)
    return folder


def download(django: str, into: Path) -> Path:
    """Download the archive with the package index that pip is set up for."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--no-binary", "django", "--dest", str(into), f"django=={django}"]
    subprocess.run(command, check=True)
    return next(into.glob("*.tar.gz"))


def unpack(archive: Path, into: Path) -> Path:
    """Unpack the archive, and return the one folder that it holds."""
    with tarfile.open(archive) as tar:
        tar.extractall(into, filter="data")
    return next(path for path in into.iterdir() if path.is_dir())
