"""Models that inherit from those of other packages: whose rows their managers read."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import pytest

from tests.fix_docs import OWNER, Block, Reader

pytestmark = [pytest.mark.guc_shape, pytest.mark.slow]

MODELS = """\
from django.db import models
from polymorphic.models import PolymorphicModel
from simple_history.models import HistoricalRecords

from tenantry import RLSProtectedModel


class Keeper(RLSProtectedModel):
    name = models.TextField()
    history = HistoricalRecords(bases=[RLSProtectedModel])


class Animal(PolymorphicModel, RLSProtectedModel):
    name = models.TextField()
    keeper = models.ForeignKey(Keeper, on_delete=models.CASCADE)


class Dog(Animal):
    tricks = models.IntegerField(default=1)


class Puppy(Dog):
    pass
"""
# Prints the rows of each query in each binding, those of the policies alone, and the SQL.
READ = """\
import json
from contextlib import nullcontext
from unittest.mock import patch

import django
django.setup()
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from notes.models import Tenant
from simple_history.utils import bulk_create_with_history, bulk_update_with_history
from tenantry import admin_context, tenant_context
from zoo.models import Animal, Dog, Keeper, Puppy

tenants = Tenant.objects.order_by("name")
for tenant in tenants:
    with tenant_context(tenant.pk):
        keeper = Keeper.objects.create(name="first")
        keeper.name = tenant.name
        keeper.save()
        for model in (Animal, Dog, Puppy):
            model.objects.create(name=f"{tenant.name} {model.__name__}", keeper=keeper)
        bulk = bulk_create_with_history([Keeper(name="bulk")], Keeper)
        bulk[0].name = f"{tenant.name} again"
        bulk_update_with_history(bulk, Keeper, ["name"])

QUERIES = {
    "all": lambda: [f"{type(a).__name__} {a.name}" for a in Animal.objects.all()],
    "instances": lambda: [a.name for a in Animal.objects.instance_of(Dog)],
    "fields of children": lambda: [a.name for a in Animal.objects.filter(Puppy___tricks=1)],
    "real instances": lambda: [
        f"{type(a.get_real_instance()).__name__} {a.name}"
        for a in Animal.objects.non_polymorphic()
    ],
    "joined": lambda: [a.keeper.name for a in Dog.objects.select_related("keeper")],
    "fetched": lambda: [
        a.name for k in Keeper.objects.prefetch_related("animal_set") for a in k.animal_set.all()
    ],
    "history": lambda: [f"{h.history_type} {h.name}" for h in Keeper.history.all()],
    "history of one": lambda: [h.name for k in Keeper.objects.all() for h in k.history.all()],
    "as of now": lambda: [k.name for k in Keeper.history.as_of(timezone.now())],
    "latest": lambda: [h.name for h in Keeper.history.latest_of_each()],
}


def read(query):
    with CaptureQueriesContext(connection) as sent:
        rows = sorted(query())
    with patch("tenantry.backends.postgresql.compiler.protections", lambda apps: {}):
        alone = sorted(query())
    return rows, alone, [each["sql"] for each in sent if '"zoo_' in each["sql"]]


found = {}
for tenant in [*tenants, "admin", None]:
    scope = nullcontext()
    if tenant:
        scope = admin_context() if tenant == "admin" else tenant_context(tenant.pk)
    name = getattr(tenant, "name", tenant)
    with scope:
        found[str(name)] = {key: read(query) for key, query in QUERIES.items()}
print(json.dumps([[t.pk for t in tenants], found]))
"""
KINDS = ["Animal", "Dog", "Puppy"]
# Of a tenant, by its name.
ROWS: dict[str, Any] = {
    "all": lambda name: [f"{kind} {name} {kind}" for kind in KINDS],
    "instances": lambda name: [f"{name} {kind}" for kind in KINDS[1:]],
    "fields of children": lambda name: [f"{name} Puppy"],
    "real instances": lambda name: [f"{kind} {name} {kind}" for kind in KINDS],
    "joined": lambda name: [name] * 2,
    "fetched": lambda name: [f"{name} {kind}" for kind in KINDS],
    "history": lambda name: ["+ bulk", "+ first", f"~ {name}", f"~ {name} again"],
    "history of one": lambda name: [name, f"{name} again", "bulk", "first"],
    "as of now": lambda name: [name, f"{name} again"],
    "latest": lambda name: [name, f"{name} again"],
}
# That of a table with a column for the tenant, in each place where it is read.
READ_FROM = re.compile(r'(?:FROM|JOIN|UPDATE) "zoo_(?:keeper|animal|historicalkeeper)"')


def test_managers_of_packages_read_rows_of_the_binding(reader: Reader) -> None:
    """The SQL compares the tenant, and the rows are those of the policies alone."""
    for path, text in (("__init__", ""), ("migrations/__init__", ""), ("models", MODELS)):
        reader.write(Block("python", f"zoo/{path}.py", text))
    installed = 'INSTALLED_APPS += ["polymorphic", "simple_history", "zoo"]\n'
    reader.write(Block("python", "notebook/settings.py, at the end", installed))
    reader.run_commands(
        "$ python manage.py makemigrations zoo\n"
        f"$ NOTEBOOK_DB_USER={OWNER} python manage.py migrate zoo\n"
        "$ python manage.py check_rls | grep -c 'table zoo.*OK'\n5\n"
    )
    keys, found = json.loads(reader.run([sys.executable, "-W", "error", "-c", READ]))
    compared = {"Acme": str(keys[0]), "Globex": str(keys[1]), "admin": "", "None": "NULL"}
    whose = {"Acme": ["Acme"], "Globex": ["Globex"], "admin": ["Acme", "Globex"], "None": []}
    for binding, queries in found.items():
        for name, (rows, alone, statements) in queries.items():
            expected = sorted(row for each in whose[binding] for row in ROWS[name](each))
            assert rows == alone == expected, (binding, name)
            assert statements
            for sql in statements:
                conditions = re.findall(r'"tenant_id" = (\d+|NULL)', sql)
                assert set(conditions) == {compared[binding]} - {""}, sql
                assert len(conditions) >= len(READ_FROM.findall(sql)) * (binding != "admin"), sql
