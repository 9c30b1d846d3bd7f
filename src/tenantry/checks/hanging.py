"""Tables that belong to rows of a protected table, and are not protected with it.

No migration protects them: that of ``AddRLSPolicy`` protects one table, and Django makes none of
unmanaged models.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps

from ..conf import is_shared
from ..dependents import dependents, is_protected
from ..protected import external_column, external_models
from ..routing import is_placed
from .findings import Finding
from .models import inspect_held, inspect_parts, refers_to_tenant
from .reach import USABLE, reached

# Those that one of the roles may use. A view is looked at as one.
OPEN = f"""\
SELECT name FROM unnest(%(tables)s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
WHERE relkind IN ('r', 'p', 'f') AND NOT relrowsecurity AND {USABLE}"""  # noqa: S608 - a constant


def inspect_hanging(connection: Any, cursor: Any) -> Iterator[Finding]:
    """Yield what shows every tenant's rows, and belongs to rows of a protected table."""
    found = {
        connection.ops.quote_name(model._meta.db_table): finding
        for model, finding in [*of_externals(), *of_unmanaged()]
        if is_placed(connection.alias, model)
    }
    cursor.execute(OPEN, {"tables": [*found], "roles": reached(cursor)})
    for (table,) in cursor.fetchall():
        yield found[table]


def of_externals() -> Iterator[tuple[Any, Finding]]:
    """Yield what belongs to rows of other packages' protected models, and is not protected."""
    externals = {model for model, _ in external_models()}
    for external in externals:
        for model in dict.fromkeys(dependents(external, apps)):
            if model in externals or is_protected(model, apps) or is_shared(model):
                continue
            kind = "a many-to-many relation" if model._meta.auto_created else "a child"
            yield (
                model,
                Finding(
                    "tenantry.E119",
                    f"table {model._meta.db_table}",
                    f"holds {kind} of the protected {external._meta.label}, and has Row-Level"
                    " Security switched off",
                    f"put AddRLSPolicy({model._meta.label!r}) into a migration, and name it in"
                    " RLS_TENANTS['EXTERNAL_MODELS'], or in ['SHARED_MODELS'] if all tenants share"
                    " its rows",
                ),
            )


def of_unmanaged() -> Iterator[tuple[Any, Finding]]:
    """Yield unmanaged models that are parts of protected rows, and whose tables may be open."""
    for model in apps.get_models(include_auto_created=True):
        options = model._meta
        fields: Any = options.local_concrete_fields
        # The columns of tenants are looked for in the database.
        is_looked_at = options.managed or options.proxy or is_protected(model, apps)
        is_meant = is_shared(model) or external_column(model) is not None
        if not (is_looked_at or is_meant) and not any(refers_to_tenant(field) for field in fields):
            for finding in [*inspect_parts(model), *inspect_held(model)]:
                yield model, finding
