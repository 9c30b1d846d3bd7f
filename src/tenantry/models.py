"""``RLSProtectedModel``: a model whose rows belong to a tenant."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.db import models
from django.db.models.signals import class_prepared

from .binding import current_binding
from .conf import rls_tenants
from .constraints import RLSConstraint
from .declared import constraints_of
from .exceptions import RLSConfigurationError
from .expressions import CurrentTenant
from .managers import RLSManager
from .validation import not_shown, tenant_fields


class RLSProtectedModel(models.Model):
    """Protect a model's table: rows can be seen and written only in a binding that owns them.

    Adds a foreign key to ``RLS_TENANTS["TENANT_MODEL"]``, named ``TENANT_FK_FIELD``, and an
    :class:`RLSConstraint`, also where ``class Meta`` does not inherit. The database fills the
    foreign key with the current tenant where a row names none. Declare a field of that name
    yourself to choose its options, with ``db_default=CurrentTenant()`` to keep that. Lead composite
    indexes with the tenant.

    What is unique in a tenant is validated in forms that do not show the tenant, too, except for an
    admin's new row, whose tenant is not known then.

    Not for tables that all tenants share. Raises RLSConfigurationError for a subclass that replaces
    the foreign key, and has neither a constraint of its own nor a protected parent; also for one
    with a foreign key of that name in a base behind this one.
    """

    # In a class body, because the field's name is a setting.
    vars()[rls_tenants().tenant_fk_field] = models.ForeignKey(
        rls_tenants().tenant_model, on_delete=models.CASCADE, db_default=CurrentTenant()
    )

    objects = RLSManager()

    class Meta:
        abstract = True

    def validate_unique(self, exclude: Collection[str] | None = None) -> None:
        """Check what is unique, in the tenant too; see Django's ``Model.validate_unique()``.

        Raises django.core.exceptions.ValidationError.
        """
        with not_shown(tenant_fields(self, exclude)):
            super().validate_unique(exclude)

    def validate_constraints(self, exclude: Collection[str] | None = None) -> None:
        """Check the constraints that name the tenant too; see ``Model.validate_constraints()``.

        Raises django.core.exceptions.ValidationError.
        """
        names = tenant_fields(self, exclude)
        with not_shown(names):
            super().validate_constraints({*(exclude or ())} - names)

    def _get_unique_checks(
        self, exclude: Collection[str] | None = None, include_meta_constraints: bool = False
    ) -> Any:
        # Formsets ask too, for rows that are twice in one of them; but an admin's rows may be of
        # several tenants.
        compares = include_meta_constraints and current_binding().is_admin
        names = set() if compares else tenant_fields(self, exclude)
        return super()._get_unique_checks(  # type: ignore[misc]
            {*(exclude or ())} - names, include_meta_constraints
        )


def protect(sender: type[models.Model], **kwargs: Any) -> None:
    """Add the constraint to a protected model that has none of its own."""
    if not issubclass(sender, RLSProtectedModel):
        return
    options = sender._meta
    field = rls_tenants().tenant_fk_field
    require_in_front(sender, field)
    if options.proxy or constraints_of(sender):
        return
    if field not in {local.name for local in options.local_fields}:
        require_protected_parent(sender, field)
        return
    label = {"app_label": options.app_label.lower(), "class": sender.__name__.lower()}
    constraint = RLSConstraint(field=field)
    constraint.name %= label
    options.constraints = [*options.constraints, constraint]
    # Migrations take the constraints of a model only if its Meta named some; Django offers no
    # other way to say so after the class exists.
    options.original_attrs["constraints"] = options.constraints


def require_in_front(model: type[models.Model], name: str) -> None:
    """Raise RLSConfigurationError if a base behind RLSProtectedModel declares its foreign key.

    The one of the first base counts, as with all attributes in Python.
    """
    added: Any = RLSProtectedModel._meta.get_field(name)
    # Django copies fields of abstract bases, with their numbers.
    if added.creation_counter not in {field.creation_counter for field in model._meta.local_fields}:
        return
    for base in model.__mro__:
        options = getattr(base, "_meta", None)
        if options is None or not options.abstract or issubclass(base, RLSProtectedModel):
            continue
        if name in {field.name for field in options.local_fields}:
            raise RLSConfigurationError(
                f"{model._meta.label} has the foreign key {name!r} of RLSProtectedModel, and not"
                f" that of {base.__name__}, which is behind it; put {base.__name__} before"
                " RLSProtectedModel in the bases"
            )


def require_protected_parent(model: type[models.Model], name: str) -> None:
    """Raise RLSConfigurationError unless a parent that has a table is protected.

    In multi-table inheritance the rows of `model` then belong to those of the parent, whatever
    names their tenant.
    """
    if not any(map(constraints_of, model._meta.get_parent_list())):
        raise RLSConfigurationError(
            f"{model._meta.label} is an RLSProtectedModel without the foreign key {name!r} in its"
            " table, so that nothing would protect it; remove what replaces the field, or name"
            " another foreign key to the tenant in an RLSConstraint(field=...) in"
            " Meta.constraints"
        )


class_prepared.connect(protect, dispatch_uid="tenantry.models.protect")
