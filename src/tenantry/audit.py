"""The audit log: who ran as which tenant, and who was refused.

Records go to the logger ``tenantry.audit`` where ``RLS_TENANTS["AUDIT_LOG"]`` is set. What they say
is in attributes of the record, as JSON knows them, and once more in the message, whose values are
JSON on one line: nobody can write a line of their own into the log with a header or a name.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from .binding import Binding, current_binding
from .conf import rls_tenants
from .exceptions import TenantDeniedError

logger = logging.getLogger("tenantry.audit")

# Longer values come only from somebody who makes them up.
LONGEST = 200


def entered(binding: Binding, previous: Binding) -> None:
    """Record that a scope has begun, around which `previous` was current."""
    _record(logging.INFO, "entered", previous=plain(described(previous)), **as_attributes(binding))


def exited(binding: Binding) -> None:
    """Record that a scope has ended."""
    _record(logging.INFO, "exited", **as_attributes(binding))


def rebound(binding: Binding) -> None:
    """Record that a view has bound its request anew."""
    _record(logging.INFO, "rebound", **as_attributes(binding))


def denial(
    reason: str, *, wanted: object = None, user: object = None, request: Any = None
) -> TenantDeniedError:
    """Record that somebody asked for a tenant in vain; return the error that says so.

    `wanted` is what they asked for. The request's path is recorded, not its query.
    """
    if rls_tenants().audit_log:
        _record(
            logging.WARNING,
            "denied",
            reason=reason,
            wanted=plain(wanted),
            user_id=plain(getattr(user, "pk", None)),
            request_method=plain(getattr(request, "method", None)),
            request_path=plain(getattr(request, "path", None)),
        )
    return TenantDeniedError(reason)


def crossed(detail: str) -> None:
    """Record that the database has refused a row of another tenant, in its own words."""
    _record(logging.WARNING, "crossed", detail=plain(detail), **as_attributes(current_binding()))


def as_attributes(binding: Binding) -> dict[str, Any]:
    """Return what a binding says, by name."""
    return {
        "tenant_id": None if binding.tenant_id is None else plain(str(binding.tenant_id)),
        "is_admin": binding.is_admin,
        "bypass": binding.bypass,
        "read_only": binding.read_only,
    }


def described(binding: Binding) -> str:
    """Return a binding in a word: a tenant's id, or who else it is."""
    if binding.tenant_id is not None:
        return f"tenant {binding.tenant_id}"
    return binding.grant or "nobody"


def plain(value: object) -> Any:
    """Return `value` as JSON has it; what is not a number or a truth becomes a bounded text."""
    if value is None or isinstance(value, bool | int):
        return value
    return str(value)[:LONGEST]


def _record(level: int, event: str, **attributes: Any) -> None:
    if logger.isEnabledFor(level):
        # JSON escapes line breaks, and all that is not ASCII.
        said = " ".join(f"{name}={json.dumps(value)}" for name, value in attributes.items())
        logger.log(level, "%s %s", event, said, extra={"event": event, **attributes})
