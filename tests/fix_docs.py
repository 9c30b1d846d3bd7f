"""A reader who does what a page of the documentation says, in the project of the tutorial."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psycopg
import pytest

import tenantry
from example_asgi.servers import Postgres

SOURCE = Path(tenantry.__file__).resolve().parent.parent
DOCS = Path(__file__).resolve().parent.parent / "docs"
OWNER, APP, DATABASE = "notebook_owner", "notebook_app", "notebook"
# Those that a page has made besides.
MADE_ROLES = r"""
SELECT rolname FROM pg_roles WHERE rolname LIKE 'notebook\_%%' AND rolname <> ALL (%s)"""

# A fenced block: ``` or ```{code-block}, its language, perhaps a caption, its text.
BLOCK = re.compile(
    r"^```(?:\{code-block\} )?(\w+)\n(?::caption: ([^\n]+)\n\n)?(.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
# What a reader installs by hand, and tests have already.
INSTALLATION = ("docker run ", "export PG", "python -m venv ", ". .venv/", "pip install ")
EXPORT = re.compile(r"export (\w+)=.+")
# What check_rls says of a server that is not the newest release, as that of the tests may be.
DATED = re.compile(r"^server:\n  tenantry\.W132 .*\n|, 1 with warnings(?=\n\Z)", re.MULTILINE)
# Runs the examples of an interactive session, and fails if what they print is not what it says.
SESSION = """\
import doctest, sys, django
django.setup()
test = doctest.DocTestParser().get_doctest(sys.stdin.read(), {"__name__": "__main__"}, "", "", 0)
results = doctest.DocTestRunner().run(test)
sys.exit(results.failed > 0 or results.attempted == 0)
"""


@dataclass(frozen=True)
class Block:
    """A code block of a page."""

    language: str
    caption: str
    text: str


def blocks(page: str) -> list[Block]:
    text = (DOCS / page).read_text()
    found = [Block(*groups) for groups in BLOCK.findall(text)]
    assert text.count("\n```") == 2 * len(found), f"{page} has a block that nobody would run"
    return found


def table(page: str, heading: str) -> list[list[str]]:
    """Return the cells of the first table under a heading, without its head."""
    text = (DOCS / page).read_text().split(f"\n## {heading}\n")[1]
    rows = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


@dataclass(frozen=True)
class Reader:
    """Does what a page says, in a folder, with a server."""

    folder: Path
    environment: dict[str, str]
    # What a command says, and what is meant by it here.
    meant: Mapping[str, str] = field(default_factory=dict)
    # What a test does around a command: by a part of it, a function of one that runs it.
    around: Mapping[str, Callable[[Callable[[], str]], str]] = field(default_factory=dict)

    def follow(self, page: str) -> list[str]:
        """Write the page's files and run its commands and sessions; return what was done."""
        done = []
        session = ""
        for block, following in pairwise([*blocks(page), Block("", "", "")]):
            if block.language == "pycon":
                session += block.text
                if following.language != "pycon":
                    self.run_session(session)
                    session = ""
            elif block.language == "console":
                self.run_commands(block.text)
            else:
                self.write(block)
            done.append(block.language)
        return done

    def run_session(self, text: str) -> None:
        self.run([sys.executable, "-W", "error", "-c", SESSION], text)

    def run(self, command: list[str], text: str = "") -> str:
        result = subprocess.run(
            command,
            input=text,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{command}\n{result.stdout}\n{result.stderr}"
        return result.stdout

    def run_commands(self, text: str) -> None:
        for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
            command, _, expected = part.partition("\n")
            if command.startswith(INSTALLATION):
                continue
            if exported := EXPORT.fullmatch(command):
                value = self.run(["sh", "-c", f"{command}; printenv {exported[1]}"])
                self.environment[exported[1]] = value.rstrip("\n")
                continue
            output = DATED.sub("", self.run_watched(command))
            assert not expected or lines(output) == lines(expected)

    def run_watched(self, command: str) -> str:
        for said, meant in self.meant.items():
            command = command.replace(said, meant)

        def run() -> str:
            return self.run(["sh", "-c", command])

        for part, watch in self.around.items():
            if part in command:
                return watch(run)
        return run()

    def write(self, block: Block) -> None:
        name, _, how = block.caption.partition(", ")
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        before = path.read_text() if how else ""
        if how == "instead of the model":
            statement = block.text.partition("(")[0]
            assert before.count(statement) == 1
            before = before[: before.index(statement)]
        else:
            assert how in ("", "at the end")
        path.write_text(before + block.text)


def lines(text: str) -> list[str]:
    return [line.rstrip() for line in text.rstrip().splitlines()]


def reader_in(folder: Path, server: Postgres) -> Reader:
    """Return a reader who has done nothing yet."""
    programs = [str(Path(sys.executable).parent), str(server.bindir), os.environ["PATH"]]
    environment = {name: os.environ[name] for name in os.environ if not name.startswith("PG")} | {
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(SOURCE), os.environ.get("PYTHONPATH")])),
        "LC_ALL": "C.UTF-8",
        "DJANGO_SETTINGS_MODULE": f"{DATABASE}.settings",
        "PGHOST": server.host,
        "PGPORT": str(server.port),
    }
    return Reader(folder, environment)


@pytest.fixture(scope="session")
def tutorial(
    postgres: Postgres, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Reader, list[str]]:
    """Return a reader who has done what the tutorial says, and what that was."""
    reader = reader_in(tmp_path_factory.mktemp("tutorial"), postgres)
    return reader, reader.follow("tutorial.md")


@pytest.fixture
def reader(
    tutorial: tuple[Reader, list[str]], superuser: psycopg.Connection[Any], tmp_path: Path
) -> Iterator[Reader]:
    """Return a reader with the tutorial's project and database, to change as they like."""
    after_tutorial, _ = tutorial
    folder = tmp_path / "project"
    shutil.copytree(after_tutorial.folder, folder)
    superuser.execute(f"ALTER DATABASE {DATABASE} RENAME TO template_of_docs")
    superuser.execute(f"CREATE DATABASE {DATABASE} OWNER {OWNER} TEMPLATE template_of_docs")
    # What a page exports is for its own commands.
    yield replace(after_tutorial, folder=folder, environment={**after_tutorial.environment})
    superuser.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
    superuser.execute(f"ALTER DATABASE template_of_docs RENAME TO {DATABASE}")
    # Roles are of the whole server, which others look at.
    made = superuser.execute(MADE_ROLES, [[OWNER, APP]]).fetchall()
    for (role,) in made:
        superuser.execute(f"DROP ROLE {role}".encode())


@pytest.fixture
def modern_reader(
    postgres: Postgres, modern: Postgres, tmp_path: Path, request: pytest.FixtureRequest
) -> Reader:
    """Return a reader with the same, on a server on which the admin can be a role."""
    if modern is postgres:
        found: Reader = request.getfixturevalue("reader")
        return found
    folder = tmp_path / "project"
    folder.mkdir()
    reader = reader_in(folder, modern)
    reader.follow("tutorial.md")
    return reader
