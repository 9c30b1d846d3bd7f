"""The functions for raw SQL, after migrations: those of the policies that the tables have.

Each migration that protects a table makes them, as its own policies want them. Some policies call
them, and in a new database the migration that runs last may be older than these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.apps.registry import Apps
from django.db import connections, router

from .declared import constraints_of
from .engine import is_bound
from .policies.ddl import Shape
from .policies.predicates import SCHEMA, admin_function, sealed_function, tenant_function
from .policies.seal import KEYS
from .shapes import current

# Whether whoever migrates may make them anew: all that are there, and the table that one reads.
OWNED = """\
SELECT bool_and(pg_has_role(owner, 'USAGE'))
  AND has_schema_privilege(to_regnamespace(%(schema)s)::oid, 'CREATE')
FROM (
  SELECT proowner AS owner FROM unnest(%(functions)s::text[]) name
    JOIN pg_proc p ON p.oid = to_regprocedure(name)
  UNION ALL SELECT relowner FROM pg_class WHERE oid = to_regclass(%(keys)s)
) made"""


def keep_functions(
    sender: Any, using: str, plan: Sequence[Any] = (), apps: Apps | None = None, **kwargs: Any
) -> None:
    """Make them anew, if migrations have run; ``migrate`` calls it.

    What there is to make is asked of the models as the migrations have left them, because the
    settings may have changed since. Without a migration nothing is written: those of several
    processes that start together may run ``migrate`` at once.
    """
    connection: Any = connections[using]
    if apps is None or not plan or not is_bound(connection):
        return
    shapes = {
        constraint.shape
        for model in apps.get_models()
        for constraint in constraints_of(model)
        if router.allow_migrate_model(using, model)
    }
    for shape in chosen(shapes):
        if owns_functions(connection, shape):
            with connection.schema_editor() as editor:
                editor.execute(shape.functions(), params=None)


def chosen(shapes: Iterable[Shape]) -> Iterator[Shape]:
    """Yield one of the policies for each prefix, by which the functions are called.

    Where they differ, it is one that the settings ask for, if there is one.
    """
    wanted = Shape(**current()).functions()
    found: dict[str, dict[str, Shape]] = {}
    for shape in shapes:
        found.setdefault(shape.guc_prefix, {})[shape.functions()] = shape
    for texts in found.values():
        if wanted in texts:
            yield texts[wanted]
        elif len(texts) == 1:
            yield from texts.values()


def owns_functions(connection: Any, shape: Shape) -> bool:
    """Return whether functions of that name are there, and all are this role's."""
    prefix = shape.guc_prefix
    functions = [
        f"{tenant_function(prefix, shape.key_type)}()",
        f"{admin_function(prefix)}()",
        f"{sealed_function(prefix)}(text)",
    ]
    with connection.cursor() as cursor:
        cursor.execute(OWNED, {"schema": SCHEMA, "functions": functions, "keys": KEYS})
        owned: bool = cursor.fetchone() == (True,)
    return owned
