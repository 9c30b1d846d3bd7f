"""Which tables are protected, and how their rows name their tenant."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from django.apps.registry import Apps
from django.apps.registry import apps as installed
from django.core.exceptions import FieldDoesNotExist
from django.db.models.signals import class_prepared

from .conf import forget_with_settings, rls_tenants
from .constraints import RLSConstraint
from .declared import constraints_of
from .dependents import concrete_target, is_open, protecting_links, target, writing_links
from .exceptions import RLSConfigurationError
from .policies.ways import Hop, Quote, Way
from .targets import named_instead

# How many aliases of a table to keep conditions for: more than queries have.
MOST_ALIASES = 256


class Protection:
    """How the rows of a table name their tenant, and who else reads them."""

    __slots__ = ("conditions", "flags", "is_exact", "way")

    def __init__(
        self, way: Way, flags: Collection[str] = (), *, shows_others: bool = False
    ) -> None:
        self.way = way
        self.flags = flags
        # Whether the policy says the same as the condition, of a column of the row itself. Where it
        # shows rows of other tenants too, it does not.
        self.is_exact = not shows_others and not way.hops
        # Those of :meth:`condition`, by alias: every query asks, nearly always for the table's own
        # name.
        self.conditions: dict[str, str] = {}

    def condition(self, alias: str, quote: Quote) -> str:
        """Return the SQL condition that a row of the quoted `alias` is of the one parameter."""
        found = self.way.equals_sql(alias, quote)
        if len(self.conditions) < MOST_ALIASES:
            self.conditions[alias] = found
        return found


class Protections(dict[str, Protection]):
    """How tables are protected, by their names."""

    def __init__(self, found: Mapping[str, Protection], apps: Apps) -> None:
        super().__init__(found)
        self._apps = apps
        self._dependent: Mapping[str, Collection[str]] | None = None

    @property
    def dependent(self) -> Mapping[str, Collection[str]]:
        """The tables whose rows belong to rows of these, and the flags that show them all."""
        if self._dependent is None:
            self._dependent = {
                model._meta.db_table: self._flags(model)
                for model in self._apps.get_models(include_auto_created=True)
                if protecting_links(model, self._apps)
            }
        return self._dependent

    def flags(self, table: str) -> Collection[str] | None:
        """Return the flags under which all rows of `table` are read; None if anybody reads them."""
        if table in self:
            return self[table].flags
        return self.dependent.get(table)

    def _flags(self, model: Any) -> Collection[str]:
        # A row shows itself with all rows that it refers to.
        if model._meta.db_table in self:
            return self[model._meta.db_table].flags
        links = protecting_links(model, self._apps)
        return set.intersection(*(set(self._flags(target(link, self._apps))) for link in links))


_protections: WeakKeyDictionary[Apps, Protections] = WeakKeyDictionary()
# Those of the project's own models, which all queries but those of migrations ask for.
_of_installed: Protections | None = None


def protections(apps: Apps) -> Protections:
    """Return how each protected table of a model registry is protected.

    The registry is the model's own, because migrations have one for every state, in which a table
    may not be protected yet.
    """
    global _of_installed
    if apps is installed and _of_installed is not None:
        return _of_installed
    found = _protections.get(apps)
    if found is None:
        tables = dict(constrained(apps))
        tables |= {
            model._meta.db_table: protection
            for model in apps.get_models(include_auto_created=True)
            if (protection := inherited(model, apps, tables))
        }
        if apps is installed:
            tables |= {
                model._meta.db_table: Protection(Way(column_of(model, column)))
                for model, column in external_models()
            }
        found = Protections(tables, apps)
        if apps.ready and apps is installed:
            _of_installed = found
        elif apps.ready:
            _protections[apps] = found
    return found


def constrained(apps: Apps) -> Iterator[tuple[str, Protection]]:
    """Yield the tables that models of a registry protect by a constraint, and how."""
    for model in apps.get_models(include_auto_created=True):
        for constraint in constraints_of(model):
            try:
                way = way_by(constraint, model)
            except (FieldDoesNotExist, LookupError):
                if apps is installed:
                    raise
                # Migrations of two apps: one has renamed a field, and the other is yet to say so in
                # a path. Queries do without the condition, and the policy has followed the name.
                continue
            yield (
                model._meta.db_table,
                Protection(
                    way,
                    constraint.extra_bypass_flags,
                    shows_others=bool(constraint.extra_predicates),
                ),
            )


def way_by(constraint: RLSConstraint, model: Any) -> Way:
    """Return the way from rows of `model` to their tenant.

    In the registries of migrations, Django leaves all relations out of the models of apps that have
    no migrations. Their tables are those of the installed models.

    Raises FieldDoesNotExist when a field on the way does not exist, and LookupError when a model
    that lacks it is not installed any more.
    """
    try:
        return constraint.way_of(model)
    except FieldDoesNotExist:
        if model._meta.apps is installed:
            raise
        return constraint.way_of(installed.get_model(model._meta.label))


def inherited(model: Any, apps: Apps, tables: Mapping[str, Protection]) -> Protection | None:
    """Return how a child in multi-table inheritance is protected by a parent that others may read.

    `tables` are those of models that name their tenant. The rows that the policies of other
    children show are the tenant's, and need no condition.
    """
    if model._meta.auto_created or not protecting_links(model, apps):
        return None
    for link in writing_links(model, apps):
        parent = concrete_target(link, apps)
        if not is_open(parent, apps):
            continue
        table = parent._meta.db_table
        found = tables.get(table) or inherited(parent, apps, tables)
        if found is not None:
            hop = Hop(link.column, table, parent._meta.pk.column)
            way = Way(found.way.column, (hop, *found.way.hops))
            return Protection(way, found.flags, shows_others=True)
    return None


def external_models() -> Iterator[tuple[Any, str]]:
    """Yield the models of other packages that are protected, and what names their tenant.

    Raises RLSConfigurationError for one that is not installed, or has no table of its own.
    """
    for label, column in rls_tenants().external_models.items():
        try:
            model = installed.get_model(label)
        except LookupError as error:
            raise RLSConfigurationError(
                f"RLS_TENANTS['EXTERNAL_MODELS'] names {label!r}, which is not installed: {error};"
                " name a model of an app in INSTALLED_APPS"
            ) from error
        if other := named_instead(model):
            raise RLSConfigurationError(
                f"RLS_TENANTS['EXTERNAL_MODELS'] names {label!r}, which has no table of its own;"
                f" name {other!r} instead"
            )
        yield model, column


def external_column(model: Any) -> str | None:
    """Return what ``EXTERNAL_MODELS`` says names the tenant of `model`; None for any other.

    Raises RLSConfigurationError where it names one that is not installed, or has no table.
    """
    return dict(external_models()).get(model)


def column_of(model: Any, name: str) -> str:
    """Return the column of a field of that name, or the name of a column that has no field."""
    try:
        column: str = model._meta.get_field(name).column
    except FieldDoesNotExist:
        return name
    return column


def _forget_installed() -> None:
    global _of_installed
    _of_installed = None


def _forget(sender: Any, **kwargs: Any) -> None:
    if sender._meta.apps is installed:
        _forget_installed()
    else:
        _protections.pop(sender._meta.apps, None)


class_prepared.connect(_forget, dispatch_uid="tenantry.protected.forget")
forget_with_settings("tenantry.protected.forget_settings", _forget_installed)
