"""Tables that belong to rows of another package's protected table, and are not protected with it.

No migration protects them: that of ``AddRLSPolicy`` protects one table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.apps import apps
from django.db import router

from ..conf import is_shared
from ..dependents import dependents, is_protected
from ..protected import external_models
from .findings import Finding
from .reach import USABLE, reached

# Those that one of the roles may use.
OPEN = f"""\
SELECT name FROM unnest(%(tables)s::text[]) name JOIN pg_class c ON c.oid = to_regclass(name)
WHERE NOT relrowsecurity AND {USABLE}"""  # noqa: S608 - a constant


def inspect_hanging(connection: Any, cursor: Any) -> Iterator[Finding]:
    """Yield children and many-to-many relations that show every tenant's rows."""
    quote = connection.ops.quote_name
    hanging = {
        quote(model._meta.db_table): (model, external)
        for external, model in unprotected()
        if router.allow_migrate_model(connection.alias, model)
    }
    cursor.execute(OPEN, {"tables": [*hanging], "roles": reached(cursor)})
    for (table,) in cursor.fetchall():
        model, external = hanging[table]
        kind = "a many-to-many relation" if model._meta.auto_created else "a child"
        yield Finding(
            "tenantry.E119",
            f"table {model._meta.db_table}",
            f"holds {kind} of the protected {external._meta.label}, and has Row-Level Security"
            " switched off",
            f"put AddRLSPolicy({model._meta.label!r}) into a migration, and name it in"
            " RLS_TENANTS['EXTERNAL_MODELS'], or in ['SHARED_MODELS'] if all tenants share its"
            " rows",
        )


def unprotected() -> Iterator[tuple[Any, Any]]:
    """Yield the protected models of other packages, and what belongs to their rows and is not."""
    externals = {model for model, _ in external_models()}
    for external in externals:
        for model in dict.fromkeys(dependents(external, apps)):
            if not (model in externals or is_protected(model, apps) or is_shared(model)):
                yield external, model
