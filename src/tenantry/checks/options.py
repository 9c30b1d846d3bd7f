"""Options of a database that do not go together with a transaction pooler, or with seals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ..conf import rls_tenants
from .findings import Finding

PGBOUNCER = "6432"


def inspect_options(alias: str, settings: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what goes wrong behind a pooler, which a port or Django's own setting gives away.

    And what gives seals away.
    """
    on_port = str(settings.get("PORT", "")) == PGBOUNCER
    disabled = settings.get("DISABLE_SERVER_SIDE_CURSORS") is True
    subject = f"database {alias!r}"
    if on_port and not disabled:
        yield Finding(
            "tenantry.W141",
            subject,
            f"has the PORT {PGBOUNCER}, that of a pooler, and uses server-side cursors, which a"
            " transaction pooler loses",
            "set DISABLE_SERVER_SIDE_CURSORS = True",
        )
    role = settings.get("OPTIONS", {}).get("assume_role")
    if role and (on_port or disabled):
        yield Finding(
            "tenantry.W142",
            subject,
            f"has OPTIONS['assume_role'] = {role!r}, which a transaction pooler leaves on a server"
            " session and gives to others",
            "log in as that role",
        )
    threshold = settings.get("OPTIONS", {}).get("prepare_threshold")
    if threshold is not None and rls_tenants().sealed:
        yield Finding(
            "tenantry.E144",
            subject,
            f"has OPTIONS['prepare_threshold'] = {threshold!r}: an injection can put a statement of"
            " its own under the name of a prepared one, which reads the seal of the next tenant",
            "remove it",
        )
