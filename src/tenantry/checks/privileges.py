"""Privileges on a table that policies do not limit."""

from __future__ import annotations

from collections.abc import Iterator

from .findings import Finding

# Why the fix is another one there.
FOREIGN = "as a foreign table has no policies"


def inspect_privileges(
    table: str, subject: str, may_truncate: bool, may_refer: bool, may_trigger: bool
) -> Iterator[Finding]:
    """Yield privileges of the role that policies do not limit."""
    if may_truncate:
        yield Finding(
            "tenantry.E117",
            subject,
            "can be truncated by this role, which removes the rows of all tenants",
            f"run REVOKE TRUNCATE ON {table} FROM the role that was granted it",
        )
    if may_refer:
        yield Finding(
            "tenantry.W111",
            subject,
            "can be referred to by tables of this role, which shows which keys other tenants have",
            f"run REVOKE REFERENCES ON {table} FROM the role that was granted it",
        )
    if may_trigger:
        yield Finding(
            "tenantry.W112",
            subject,
            "can be given triggers by this role, which see other tenants' rows as they are written",
            f"run REVOKE TRIGGER ON {table} FROM the role that was granted it",
        )


def belonging(subject: str, owner: str) -> Finding:
    """Return the finding that the role can become the owner of a table."""
    return Finding(
        "tenantry.E113",
        subject,
        f"belongs to {owner}, which this role is or can become, and so can switch Row-Level"
        " Security off",
        "serve requests as a role that is not a member of it, and use this one for migrations only",
    )
