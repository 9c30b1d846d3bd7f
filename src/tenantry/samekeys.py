"""``SameTenant``: a foreign key that cannot point to another tenant's row."""

from __future__ import annotations

from functools import partial
from typing import Any

from django.core import checks
from django.core.exceptions import FieldDoesNotExist, ValidationError
from django.db import DEFAULT_DB_ALIAS, models
from django.db.backends.ddl_references import Columns, Statement
from django.db.backends.utils import names_digest

from .constraints import RLSConstraint
from .declared import constraint_of
from .dependents import concrete_target
from .dependents import target as referred
from .instances import tenant_to_validate
from .policies import samekeys
from .policies.ddl import Shape
from .policies.predicates import literal
from .statements import DeferredSameTenant, ForAllTenants, parts_of
from .targets import field_of

# PostgreSQL documentation, "Identifiers and Key Words".
MAX_NAME = 63
# A digit comes before what Django's names begin with. PostgreSQL estimates a join by the first
# foreign key that the join agrees with (get_foreign_key_join_selectivity() in its costsize.c). By
# the one without the tenant it would expect one row where the tenant's condition is on both tables,
# because it counts it twice. It promises no order; releases 15 to 18 have that of the names, by
# which pg_constraint is indexed. In another one only estimates would be worse.
FIRST = "0_"
PLACEHOLDER = "-- A foreign key is made at the end of the migration"


class SameTenant(models.BaseConstraint):
    """Let the database refuse a foreign key, `field`, to a row of another tenant.

    For a model and a target that are both protected::

        class Meta:
            constraints = [SameTenant(field="author")]

    The migration that adds it makes a second foreign key, of the tenant and `field` to the tenant
    and the key of the target, and on the target the unique constraint that this needs. It is
    checked when a transaction commits. ``full_clean()`` and forms report such a row as one that
    does not exist. PostgreSQL estimates joins of a tenant's rows by it as long as its name sorts
    before Django's foreign key, as the default name does. A name that is too long is shortened.
    ``tenant`` and ``target`` come from the models when left out; migrations spell them out.

    Not for the table that Django makes for a ``ManyToManyField`` without ``through``.
    """

    def __init__(
        self,
        *,
        field: str,
        name: str | None = None,
        tenant: str | None = None,
        target: tuple[str, str, str] | None = None,
    ) -> None:
        name = name or f"{FIRST}%(app_label)s_%(class)s_{field}{samekeys.SUFFIX}"
        super().__init__(name=shortened(name))
        self.field = field
        self.model: Any = None
        self._tenant = tenant
        self._target = target

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: field={self.field!r} name={self.name!r}>"

    def __eq__(self, other: object) -> bool:
        if isinstance(other, SameTenant):
            return self.deconstruct() == other.deconstruct()
        return NotImplemented

    @property
    def tenant(self) -> str | None:
        """The field that holds the tenant; None where the model is not protected."""
        return self._tenant or (self.model and tenant_field(self.model))

    @property
    def target(self) -> tuple[str, str, str] | None:
        """The target's label, tenant field and key; None where there is no such target."""
        if self._target is not None or self.model is None:
            return self._target
        key = foreign_key(self.model, self.field)
        if key is None:
            return None
        model = concrete_target(key, self.model._meta.apps)
        tenant = tenant_field(model)
        return (model._meta.label_lower, tenant, key.target_field.name) if tenant else None

    def deconstruct(self) -> tuple[str, tuple[()], dict[str, Any]]:
        """Return what a migration needs to make this constraint again, the models' share too."""
        _, _, kwargs = super().deconstruct()
        kwargs["field"] = self.field
        if self.tenant is not None:
            kwargs["tenant"] = self.tenant
        if self.target is not None:
            kwargs["target"] = self.target
        return "tenantry.SameTenant", (), kwargs

    def settle(self, model: Any) -> None:
        """Belong to `model`, which has made the name out of its own."""
        self.model = model
        self.name = shortened(self.name)

    # Django calls these with both arguments, and takes None and Statements; the stubs know strings.

    def constraint_sql(self, model: Any, schema_editor: Any) -> Any:
        """Make the foreign key of a table that is being created, once all tables are there."""
        schema_editor.deferred_sql.append(self.create_sql(model, schema_editor))

    def create_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return the SQL that makes the foreign key, or a comment, and make it later."""
        try:
            return self.statement(model, schema_editor)
        except FieldDoesNotExist:
            schema_editor.deferred_sql.append(DeferredSameTenant(self, model, schema_editor))
            # Not None, which Django would defer, and execute as text, for some new tables.
            return Statement(PLACEHOLDER)

    def remove_sql(self, model: Any, schema_editor: Any) -> Any:
        """Return the SQL that drops the foreign key, and the unique one that nothing else needs."""
        schema_editor.deferred_sql[:] = [
            sql for sql in schema_editor.deferred_sql if not self.is_of(sql, model)
        ]
        return Statement(samekeys.DROP, **self.parts(model, schema_editor))

    def is_of(self, sql: Any, model: Any) -> bool:
        """Return whether `sql` is what waits to make the foreign key of the table of `model`."""
        return (
            isinstance(sql, ForAllTenants)
            and sql.constraint.name == self.name
            and sql.parts["table"].references_table(model._meta.db_table)
        )

    def ends(self, model: Any) -> tuple[Any, list[str], list[str]]:
        """Return the target's model, and the columns of both ends, the tenant's first.

        Raises FieldDoesNotExist when a field of it is not there yet.
        """
        key = field_of(model, self.field)
        to = concrete_target(key, model._meta.apps)
        tenant, to_tenant = self.tenants(model, to)
        columns = [field_of(model, tenant).column, key.column]
        return to, columns, [field_of(to, to_tenant).column, key.target_field.column]

    def statement(self, model: Any, schema_editor: Any, *, valid: bool = True) -> ForAllTenants:
        """Return the SQL that makes the foreign key; it checks no rows unless `valid`.

        Raises FieldDoesNotExist when a field of it is not there yet.
        """
        quote = schema_editor.quote_name
        to, columns, keys = self.ends(model)
        table = to._meta.db_table
        unique = schema_editor._create_index_name(table, keys, suffix=samekeys.SUFFIX)
        # Django counts characters, and cuts the last one off where it puts a letter in front.
        unique = shortened(unique, samekeys.SUFFIX)
        return ForAllTenants(
            samekeys.add(shape_of(model), valid=valid),
            self,
            **self.parts(model, schema_editor, to),
            columns=Columns(model._meta.db_table, columns, quote),
            unique=quote(unique),
            keys=Columns(table, keys, quote),
            keys_text=Columns(table, keys, literal),
        )

    def validation(self, model: Any, schema_editor: Any) -> tuple[list[Any], list[Any]]:
        """Return the SQL that checks the rows of before, and what must follow even if it fails."""
        shape = shape_of(model)
        to = concrete_target(model._meta.get_field(self.field), model._meta.apps)
        parts = self.parts(model, schema_editor, to)
        check = ForAllTenants(samekeys.validate(shape), self, **parts)
        if shape.admin_role is None:
            return [check], []
        first = [Statement(samekeys.SHOW_SESSION, **parts), check]
        if schema_editor.atomic_migration:
            first.insert(0, Statement(samekeys.REFUSE_ROWS, **parts))
        return first, [Statement(samekeys.HIDE_SESSION, **parts)]

    def parts(self, model: Any, schema_editor: Any, to: Any = None) -> dict[str, Any]:
        """Return the table, the target's and the name, as identifiers and as strings."""
        tables = {"table": model._meta.db_table}
        if to is not None:
            tables["target"] = to._meta.db_table
        name = {"name": schema_editor.quote_name(self.name), "name_text": literal(self.name)}
        return {**parts_of(schema_editor, **tables), **name}

    def tenants(self, model: Any, to: Any) -> tuple[str, str]:
        """Return the tenant fields of both ends.

        Raises FieldDoesNotExist when nothing says which they are.
        """
        tenant = self.tenant or tenant_field(model)
        to_tenant = self.target[1] if self.target else tenant_field(to)
        for found, end in ((tenant, model), (to_tenant, to)):
            if found is None:
                raise FieldDoesNotExist(f"{end._meta.label} is not protected")
        return str(tenant), str(to_tenant)

    def validate(
        self,
        model: Any,
        instance: Any,
        exclude: Any = None,
        using: str = DEFAULT_DB_ALIAS,
    ) -> None:
        """Raise Django's ValidationError of a missing row for one of another tenant.

        It is looked for in the current binding, so that the error tells nothing else. An instance
        whose tenant is not known yet is left to the database.
        """
        key = model._meta.get_field(self.field)
        # Before the value, which costs a query where it was deferred.
        if key.name in (exclude or ()) or key.remote_field.parent_link:
            return
        value = getattr(instance, key.attname)
        if value is None:
            return
        to = referred(key, model._meta.apps)
        name, to_name = self.tenants(model, to._meta.concrete_model)
        tenant = tenant_to_validate(instance, model._meta.get_field(name))
        if tenant is None:
            return
        wanted = {key.target_field.name: value, to_name: tenant}
        if not to._base_manager.using(using).filter(**wanted).exists():
            params = {
                "model": to._meta.verbose_name,
                "pk": value,
                "field": key.remote_field.field_name,
                "value": value,
            }
            error = ValidationError(key.error_messages["invalid"], code="invalid", params=params)
            raise ValidationError({key.name: error})

    def _check(self, model: type[models.Model], connection: Any) -> list[checks.CheckMessage]:
        error = partial(checks.Error, obj=model)
        name = f"{model._meta.label}.{self.field}"
        try:
            model._meta.get_field(self.field)
        except FieldDoesNotExist:
            return [
                error(
                    f"{model._meta.label} has no field {self.field!r} to keep in its tenant.",
                    hint="Name a foreign key in SameTenant(field=...).",
                    id="tenantry.E010",
                )
            ]
        key = foreign_key(model, self.field)
        if key is None:
            return [
                error(
                    f"{name} is not a foreign key in a column of the model's own table.",
                    hint="Name a ForeignKey or OneToOneField of this model in SameTenant.",
                    id="tenantry.E011",
                )
            ]
        if isinstance(key.remote_field.model, str):
            return []  # Django's own checks say that there is no such model.
        found: list[checks.CheckMessage] = []
        to = concrete_target(key, model._meta.apps)
        for end, id_ in ((model, "tenantry.E012"), (to, "tenantry.E013")):
            if tenant_field(end) is None:
                found.append(
                    error(
                        f"{name} cannot be limited to the row's own tenant: {end._meta.label} has"
                        " no tenant.",
                        hint="Protect it with RLSProtectedModel or RLSConstraint(field=...), or"
                        " remove SameTenant.",
                        id=id_,
                    )
                )
        if is_of_tenant(key, to):
            found.append(
                error(
                    f"{name} cannot be limited to the row's own tenant: it names one itself.",
                    hint="Remove SameTenant.",
                    id="tenantry.E013",
                )
            )
        if not is_key(key.target_field):
            found.append(
                error(
                    f"{name} refers to {to._meta.label}.{key.target_field.name}, which is not"
                    " unique.",
                    hint="Refer to the primary key, or to a field with unique=True.",
                    id="tenantry.E014",
                )
            )
        return found

    # Django 6.0 made it public.
    check = _check


def shortened(name: str, suffix: str = "") -> str:
    """Return a name that PostgreSQL does not cut off, and `suffix` at its end.

    One that is not finished stays.
    """
    encoded = name.encode()
    if (len(encoded) <= MAX_NAME and name.endswith(suffix)) or "%(" in name:
        return name
    end = f"_{names_digest(name, length=8)}{suffix}"
    return encoded[: MAX_NAME - len(end)].decode(errors="ignore") + end


def tenant_field(model: Any) -> str | None:
    """Return the name of the field by which `model` is protected."""
    constraint = constraint_of(model)
    return constraint.field if constraint else None


def is_of_tenant(key: Any, to: Any) -> bool:
    """Return whether what a foreign key refers to, in `to`, is named by its tenant.

    Such is the tenant, whose table may be protected too: a row names another one to share itself.
    """
    return bool(key.target_field.name == tenant_field(to))


def shape_of(model: Any) -> Shape:
    """Return what the policy of `model` depends on, or would by the settings."""
    return (constraint_of(model) or RLSConstraint(field="tenant")).shape


def foreign_key(model: Any, name: str) -> Any:
    """Return the field if it is a foreign key in a column of the model's own table."""
    found = [field for field in model._meta.local_concrete_fields if field.name == name]
    return found[0] if found and isinstance(found[0], models.ForeignKey) else None


def is_key(field: Any) -> bool:
    """Return whether no two rows have the same value of `field`."""
    return field.unique or any(
        constraint.fields == (field.name,)
        for constraint in field.model._meta.total_unique_constraints
    )
