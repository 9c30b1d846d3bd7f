"""``CurrentTenant``: the tenant that the database sees, as an expression."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import models
from django.db.models.expressions import Expression

from .conf import rls_tenants, tenant_key
from .policies.predicates import tenant_sql
from .policies.seal import NAMESPACE_1, verifier

FIELDS: dict[str, type[models.Field[Any, Any]]] = {
    "int": models.IntegerField,
    "bigint": models.BigIntegerField,
    "uuid": models.UUIDField,
    "text": models.TextField,
}


class CurrentTenant(Expression):
    """The tenant id of the binding that a statement runs in; NULL when unbound, and for the admin.

    It reads what the policies read (PostgreSQL documentation, "current_setting"). As a column's
    database default it stamps what is written by the ORM, in bulk and by raw SQL::

        customer = ForeignKey(Tenant, on_delete=CASCADE, db_default=CurrentTenant())

    The arguments come from the settings when left out; migrations spell them out.

    Do not filter by it: ORM queries have the tenant in their SQL already, as a value that the
    planner can see.
    """

    allowed_default = True

    def __init__(
        self, guc_prefix: str | None = None, key_type: str | None = None, *, sealed: bool = False
    ) -> None:
        super().__init__()
        self.guc_prefix = guc_prefix
        self.key_type = key_type
        self.sealed = sealed

    @property
    def names(self) -> dict[str, Any]:
        """The GUC prefix and the key type, and ``sealed`` if so; the settings fill the rest."""
        if self.guc_prefix and self.key_type:
            sealed = self.sealed
        else:
            sealed = self.sealed or rls_tenants().sealed
        names = {
            "guc_prefix": self.guc_prefix or rls_tenants().guc_prefix,
            "key_type": self.key_type or tenant_key().sql_type,
        }
        return {**names, "sealed": True} if sealed else names

    def _resolve_output_field(self) -> models.Field[Any, Any]:
        return FIELDS[self.names["key_type"]]()

    def as_sql(self, compiler: Any, connection: Any) -> Any:
        """Return the expression, which has no parameters."""
        # A list, to which Django's schema editor adds others.
        return tenant_sql(**self.names), []

    def deconstruct(self) -> tuple[str, tuple[()], dict[str, Any]]:
        """Return what a migration needs to make this expression again, settings included."""
        return "tenantry.CurrentTenant", (), self.names


def functions_of(default: Any) -> Iterator[str]:
    """Yield the SQL that creates the functions which a database default calls, or a part of it."""
    # One that is no expression, such as 0, has no parts.
    for part in default.flatten() if hasattr(default, "flatten") else ():
        if isinstance(part, CurrentTenant) and part.names.get("sealed"):
            yield f"{NAMESPACE_1};\n{verifier(part.names['guc_prefix'])}"


def current_tenant_sql() -> str:
    """Return the tenant of the binding as an expression for raw SQL, without parameters.

    It is a subquery, evaluated once per statement, that PostgreSQL uses as an index condition; NULL
    unbound and as admin::

        cursor.execute(f"SELECT ... WHERE tenant_id = {current_tenant_sql()}")

    The policy isolates without it.
    """
    # Spelled out, because the function is as the migration that ran last has left it.
    settings = rls_tenants()
    tenant = tenant_sql(settings.guc_prefix, tenant_key().sql_type, sealed=settings.sealed)
    return f"(SELECT {tenant})"
