"""The reference has every command, and every option of it."""

from __future__ import annotations

import argparse
import re

import pytest
from django.core.management import load_command_class
from django.core.management.base import BaseCommand

from tests.fix_docs import DOCS, SOURCE

COMMANDS = sorted(path.stem for path in (SOURCE / "tenantry/management/commands").glob("[!_]*.py"))
PAGE = (DOCS / "reference/commands.md").read_text()
SECTIONS = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL))


def arguments_of(command: BaseCommand) -> list[argparse.Action]:
    """Return what the parser of a command takes, and that of every command does not."""
    of_all = {action.dest for action in BaseCommand().create_parser("", "")._actions}
    actions = command.create_parser("", "")._actions
    return [action for action in actions if action.dest not in of_all]


def name_of(action: argparse.Action) -> str:
    if action.option_strings:
        return action.option_strings[0]
    return str(action.metavar or action.dest.upper())


def test_every_command_is_in_the_reference() -> None:
    assert sorted(SECTIONS) == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_in_the_reference(name: str) -> None:
    rows = re.findall(r"^\| `([^`]+)` \|", SECTIONS[name], re.MULTILINE)
    documented = [row.split()[0] if row.startswith("-") else row for row in rows]
    taken = [name_of(action) for action in arguments_of(load_command_class("tenantry", name))]
    assert sorted(documented) == sorted(taken)
