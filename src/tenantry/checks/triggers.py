"""What else runs when somebody writes to a table: its rules and triggers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import rls_tenants
from .exempt import EXEMPT, exempt_admin
from .findings import Finding
from .reach import reached
from .schema import family_of

RULES = """\
SELECT rulename::text FROM pg_rewrite
WHERE ev_class = %(table)s AND rulename <> '_RETURN' ORDER BY 1"""

# A partition has copies of those of its parent.
TRIGGERS = f"""\
SELECT tgname::text, p.oid::regprocedure::text, rolname::text
FROM pg_trigger JOIN pg_proc p ON p.oid = tgfoid JOIN pg_roles o ON o.oid = proowner
WHERE tgrelid = %(table)s AND (tgparentid = 0 OR %(copies)s)
  AND prosecdef AND {EXEMPT}
ORDER BY 1"""  # noqa: S608 - a constant

# Of tables that belong to no protected one, and that one of the roles may write. Only the text of a
# function says what it uses, with quotes around a name such as "order".
OTHERS = f"""\
SELECT c.oid::regclass::text, tgname::text, p.oid::regprocedure::text, rolname::text,
  min(t.oid::regclass::text)
FROM pg_trigger JOIN pg_class c ON c.oid = tgrelid
JOIN pg_proc p ON p.oid = tgfoid JOIN pg_roles o ON o.oid = proowner
JOIN pg_class t ON t.oid = ANY(%(family)s::oid[])
  AND CASE quote_ident(t.relname) WHEN t.relname THEN prosrc ~* format('\\m%%s\\M', t.relname)
    ELSE strpos(prosrc, quote_ident(t.relname)) > 0 END
WHERE c.oid <> ALL(%(family)s::oid[]) AND tgparentid = 0 AND tgenabled <> 'D'
  AND prosecdef AND {EXEMPT} AND EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
    WHERE has_any_column_privilege(role, c.oid, 'INSERT, UPDATE')
      OR has_table_privilege(role, c.oid, 'DELETE'))
GROUP BY c.oid, tgname, p.oid, rolname ORDER BY 1, 2"""  # noqa: S608 - a constant


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
    cursor.execute(TRIGGERS, {"table": oid, "admin": exempt_admin(), "copies": copies})
    for trigger, function, owner in cursor.fetchall():
        yield unbound(subject, trigger, function, owner)


def inspect_other_triggers(cursor: Any, tables: list[str]) -> Iterator[Finding]:
    """Yield those of unprotected tables by which a role that may write there gets at `tables`."""
    parameters = {
        "family": [*family_of(cursor, tables)],
        "admin": exempt_admin(),
        "roles": reached(cursor),
    }
    cursor.execute(OTHERS, parameters)
    for table, trigger, function, owner, used in cursor.fetchall():
        yield unbound(f"table {table}", trigger, function, owner, f", and whose text names {used}")


def unbound(subject: str, trigger: str, function: str, owner: str, more: str = "") -> Finding:
    """Return the finding that no policy binds what a trigger does."""
    # Where the admin is a role, no other owner that policies bind is the admin: that is no fix.
    of_another = "" if rls_tenants().admin_role else ", or give it to another owner"
    return Finding(
        "tenantry.W114",
        subject,
        f"has the trigger {trigger}, whose function {function} runs as {owner}, whom no policy"
        f" binds{more}",
        f"run ALTER FUNCTION {function} SECURITY INVOKER{of_another}",
    )
