"""Columns whose change concerns policies.

As long as a policy speaks of one, PostgreSQL refuses to give it a type, be it the one it has; and a
policy does not follow a foreign key that refers to another table from now on.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Any

from django.apps.registry import Apps
from django.db import models

from .policies.ddl import Policy

Column = tuple[str, str]


def registry_of(field: Any, model: Any) -> Any:
    """Return the registry of the models of `field`, which is to be one of the table of `model`.

    A field that was made by hand belongs to no model, or to something that is not one.
    """
    return getattr(getattr(field, "model", model), "_meta", model._meta).apps


def is_retyped(old: Any, new: Any, connection: Any) -> bool:
    """Return whether Django sends ``ALTER COLUMN ... TYPE``, of the column or of what refers to it.

    It does so for the same type, too: where only the comment changes, where an identity begins or
    ends, and where a field becomes the primary key. PostgreSQL does not look whether it differs.
    """
    before, after = (each.db_parameters(connection) for each in (old, new))
    if None in {before["type"], after["type"]}:
        return False
    return (
        before != after
        or old.db_comment != new.db_comment
        or old.db_type_suffix(connection) != new.db_type_suffix(connection)
        or (new.primary_key and not old.primary_key)
    )


def retyped(columns: set[Column], apps: Apps) -> set[Column]:
    """Return the columns that get the type of some: these, and those that refer to them."""
    found = set(columns)
    keys = [
        key
        for other in apps.get_models(include_auto_created=True)
        for key in other._meta.local_concrete_fields
        if isinstance(key, models.ForeignKey)
    ]
    size = 0
    while size < len(found):
        size = len(found)
        referring = [key for key in keys if referred_column(key) in found]
        found |= {(key.model._meta.db_table, str(key.column)) for key in referring}
    return found


def referred_column(key: Any) -> Column:
    """Return the column that a foreign key refers to."""
    field = key.target_field
    return field.model._meta.db_table, field.column


def is_gone(table: str, connection: Any) -> bool:
    """Return whether there is no such table any more, because it has another name now.

    What refers to it is altered after it, and has not been led elsewhere: policies follow a rename.
    """
    with connection.cursor() as cursor:
        cursor.execute("SELECT to_regclass(%s) IS NULL", [connection.ops.quote_name(table)])
        return bool(cursor.fetchone()[0])


def refers_elsewhere(old: Any, new: Any, connection: Any) -> bool:
    """Return whether a foreign key refers to another column than before."""
    if not (isinstance(old, models.ForeignKey) and isinstance(new, models.ForeignKey)):
        return False
    before, after = referred_column(old), referred_column(new)
    return before != after and not is_gone(before[0], connection)


def relates_elsewhere(old: Any, new: Any, connection: Any) -> bool:
    """Return whether a many-to-many relation without a model of its own leads to another table."""
    if not (isinstance(old, models.ManyToManyField) and isinstance(new, models.ManyToManyField)):
        return False
    relations: list[Any] = [old.remote_field, new.remote_field]
    if not all(each.through._meta.auto_created for each in relations):
        return False
    before, after = (each.model._meta.concrete_model._meta.db_table for each in relations)
    return before != after and not is_gone(before, connection)


def speaks_of(columns: Collection[Column], own: str, policies: Iterable[Policy]) -> bool:
    """Return whether policies, of the table `own`, name one of `columns`, and its table too."""
    text = " ".join(f"{policy.using} {policy.check}" for policy in policies)
    return any(
        # A RawPredicate need not quote it.
        re.search(rf"(?<!\w){re.escape(column)}(?!\w)", text) and (table == own or table in text)
        for table, column in columns
    )
