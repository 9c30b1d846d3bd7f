"""Say what a command sees, and do what a test wants."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from tenantry.binding import current_binding
from tests.app.models import Note


class Command(BaseCommand):
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("words", nargs="*")
        parser.add_argument("--fail-for", default="")
        parser.add_argument("--exit-code", type=int, default=0)
        parser.add_argument("--wait-in", type=Path)
        parser.add_argument("--finish", action="store_true", help="when it is interrupted")
        parser.add_argument("--touch-in", type=Path)
        parser.add_argument("--repeat", type=int, default=1)

    def handle(self, *args: Any, **options: Any) -> None:
        binding = current_binding()
        key = str(binding.tenant_id)
        titles = ",".join(Note.objects.values_list("title", flat=True))
        for _ in range(options["repeat"]):
            self.stdout.write(f"{binding.tenant_id} {binding.grant} {options['words']} {titles}")
        if options["touch_in"]:
            with (options["touch_in"] / key).open("a") as file:
                file.write("ran\n")
        if options["wait_in"]:
            (options["wait_in"] / f"{key}.pid").write_text(str(os.getpid()))
            try:
                while True:
                    # Short: a signal that arrives just before a sleep does not end it.
                    time.sleep(0.05)
            except KeyboardInterrupt:
                if not options["finish"]:
                    raise
        if options["fail_for"] == key:
            if options["exit_code"]:
                sys.exit(options["exit_code"])
            raise CommandError(f"no luck with {key}")
