"""Who sees every row: in SQL, for checks of what runs as somebody else."""

from __future__ import annotations

from ..conf import rls_tenants

# Whether a role o of pg_roles sees every row, given the parameter `admin`: the policy for the admin
# role holds for its heirs, too.
EXEMPT = """\
(o.rolsuper OR o.rolbypassrls OR COALESCE(pg_has_role(o.oid,
  (SELECT oid FROM pg_roles WHERE rolname = %(admin)s), 'USAGE'), false))"""


def exempt_admin() -> str | None:
    """Return the admin role, if to be it is all that a policy asks of the admin."""
    settings = rls_tenants()
    return None if settings.sealed else settings.admin_role
