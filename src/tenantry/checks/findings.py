"""A finding: what is wrong, with what, and how to mend it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.core import checks


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong; the letter of its id says how bad it is.

    `awaited` says that ``migrate`` mends it, or a migration which is yet to run.
    """

    id: str
    subject: str
    message: str
    fix: str
    awaited: bool = False

    @property
    def is_error(self) -> bool:
        """Whether tenants are exposed, rather than likely to be by what comes next."""
        return self.id.startswith("tenantry.E")

    @property
    def level(self) -> str:
        """What Django calls it."""
        return "ERROR" if self.is_error else "WARNING"

    def message_for_django(self, *, as_error: bool) -> checks.CheckMessage:
        """Return it as a message of Django's check framework."""
        kind: Any = checks.Error if as_error and self.is_error else checks.Warning
        text = f"{self.subject} {self.message}."
        found: checks.CheckMessage = kind(text, hint=f"{self.fix}.", id=self.id)
        return found
