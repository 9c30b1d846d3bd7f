"""What else runs when somebody writes to a table: its rules and triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import rls_tenants
from .exempt import EXEMPT, exempt_admin
from .findings import Finding

RULES = """\
SELECT rulename::text FROM pg_rewrite
WHERE ev_class = %(table)s AND rulename <> '_RETURN' ORDER BY 1"""

# A partition has copies of those of its parent.
TRIGGERS = f"""\
SELECT tgname::text, p.oid::regprocedure::text, rolname::text
FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid JOIN pg_roles o ON o.oid = proowner
WHERE tgrelid = %(table)s AND NOT tgisinternal AND (tgparentid = 0 OR %(copies)s)
  AND prosecdef AND {EXEMPT}
ORDER BY 1"""  # noqa: S608 - a constant


def inspect_rules(cursor: Any, subject: str, oid: int) -> Iterator[Finding]:
    """Yield rules, whose statements get past the policy."""
    cursor.execute(RULES, {"table": oid})
    for (rule,) in cursor.fetchall():
        yield Finding(
            "tenantry.W113",
            subject,
            f"has the rule {rule}, whose statements run with the rights of the owner",
            "drop it, or write a trigger",
        )


def inspect_triggers(
    cursor: Any, subject: str, oid: int, *, copies: bool = True
) -> Iterator[Finding]:
    """Yield triggers that no policy binds; without `copies` not those that the parent has, too."""
    # Where the admin is a role, no other owner that policies bind is the admin: that is no fix.
    of_another = "" if rls_tenants().admin_role else ", or give it to another owner"
    cursor.execute(TRIGGERS, {"table": oid, "admin": exempt_admin(), "copies": copies})
    for trigger, function, owner in cursor.fetchall():
        yield Finding(
            "tenantry.W114",
            subject,
            f"has the trigger {trigger}, whose function {function} runs as {owner}, whom no policy"
            " binds",
            f"run ALTER FUNCTION {function} SECURITY INVOKER{of_another}",
        )
