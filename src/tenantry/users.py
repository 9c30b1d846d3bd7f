"""Users: whom a binding is taken from."""

from __future__ import annotations

from typing import Any, Protocol, cast, runtime_checkable

from django.core.exceptions import ImproperlyConfigured

from .binding import ADMIN, UNBOUND, Binding
from .conf import tenant_key


@runtime_checkable
class TenantUser(Protocol):
    """What is asked of a user that has logged in."""

    @property
    def is_tenant_admin(self) -> bool:
        """Whether the user sees every tenant."""

    @property
    def rls_tenant_id(self) -> Any:
        """The primary key of the user's tenant; None for an admin."""


def binding_of(user: object) -> Binding:
    """Return the binding of a user: its tenant, the admin, or unbound when not logged in.

    Raises ImproperlyConfigured when the user model lacks the protocol :class:`TenantUser`, and
    ValueError when a user that is no admin has no tenant.
    """
    if not getattr(user, "is_authenticated", False):
        return UNBOUND
    # Not isinstance(): the protocol would look at request.user's lazy wrapper, not through it.
    for name in ("is_tenant_admin", "rls_tenant_id"):
        if not hasattr(user, name):
            raise ImproperlyConfigured(
                f"the user {user!r} has no {name}, which tenantry reads; add it to the"
                " user model as a field or a property"
            )
    member = cast(TenantUser, user)
    if member.is_tenant_admin:
        return ADMIN
    if member.rls_tenant_id is None:
        raise ValueError(
            "Non-admin user has rls_tenant_id=None. Assign the user to a tenant or set"
            " is_tenant_admin=True."
        )
    return Binding(tenant_key().parse(member.rls_tenant_id))
