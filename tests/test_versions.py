"""The SQL of version 1, which migrations run for ever: whoever changes a word makes a new version.

Where a digest differs, leave the text as it was, and write a template of another version beside it.
"""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from django.db import models
from django.test import override_settings
from django.test.utils import isolate_apps

from tenantry import RawPredicate, RLSConstraint, SharedWith, TenantField
from tenantry.policies import samekeys
from tenantry.policies.ddl import Shape, unprotect
from tenantry.policies.predicates import tenant_sql
from tenantry.policies.references import Reference, depend, independ
from tenantry.policies.seal import verifier
from tenantry.policies.ways import Hop, Way

TABLE = '"t"'
ROLES: dict[str, Any] = {"admin_role": "the admin", "app_role": "the app"}
GUC = Shape("rls", "bigint", 1)
RESTRICTED = Shape("rls", "uuid", 1, app_role="the app")
ROLE = Shape("rls", "int", 1, **ROLES)
SEALED = Shape("rls", "text", 1, sealed=True)
SEALED_ROLE = Shape("rls", "text", 1, **ROLES, sealed=True)
SHAPES = {
    "guc": GUC,
    "guc, restricted": RESTRICTED,
    "role": ROLE,
    "sealed": SEALED,
    "sealed role": SEALED_ROLE,
}
PATH = Way("c", (Hop("a_id", "a", "id"), Hop("b_id", "b", "code")))
CLOSED = Reference('"a_id"', '"a"', '"id"')
OTHER = Reference('"b_id"', '"b"', '"id"')
OPEN = Reference('"a_id"', '"a"', '"id"', "owner.c = (SELECT 1)")


def quote(name: str) -> str:
    return f'"{name}"'


def protect(shape: Shape, way: Way) -> str:
    """Return what protects a table."""
    return shape.protect(TABLE, shape.policies(way.holds_sql(TABLE, shape.tenant, quote)))


def shared(shape: Shape) -> str:
    """Return what protects a table that others may read by every kind of predicate and a flag."""
    with (
        isolate_apps("tests.app"),
        override_settings(RLS_TENANTS={"TENANT_MODEL": "app.Tenant", "BYPASS_FLAGS": ["flag"]}),
    ):

        class Share(models.Model):
            row = models.ForeignKey("app.Row", models.CASCADE)
            tenant = models.ForeignKey("app.Owner", models.CASCADE, related_name="+")
            recipient = models.ForeignKey("app.Owner", models.CASCADE, related_name="+")

            class Meta:
                app_label = "app"

        class Row(models.Model):
            tenant = models.ForeignKey("app.Owner", models.CASCADE, related_name="+")
            partner = models.ForeignKey("app.Owner", models.CASCADE, related_name="+")

            class Meta:
                app_label = "app"
                constraints = [
                    RLSConstraint(
                        field="tenant",
                        name="rls",
                        extra_predicates=[
                            TenantField("partner"),
                            RawPredicate("is_public"),
                            SharedWith("app.Share", row="row", tenant="recipient"),
                        ],
                        extra_bypass_flags=["flag", "another"],
                        guc_prefix=shape.guc_prefix,
                        key_type=shape.key_type,
                        version=shape.version,
                        admin_role=shape.admin_role,
                        app_role=shape.app_role,
                        sealed=shape.sealed,
                    )
                ]

        class Owner(models.Model):
            class Meta:
                app_label = "app"

        (constraint,) = Row._meta.constraints
        assert isinstance(constraint, RLSConstraint)
        return shape.protect(TABLE, constraint.policies(Row, quote, TABLE))


TEXTS: dict[str, Callable[[Shape], str]] = {
    "a column": lambda shape: protect(shape, Way("c")),
    "a path": lambda shape: protect(shape, PATH),
    "shared": shared,
    "a child": lambda shape: depend(TABLE, [CLOSED], shape),
    "a child of a shared row": lambda shape: depend(TABLE, [OPEN], shape),
    "a relation": lambda shape: depend(TABLE, [CLOSED, OTHER], shape),
    "a relation of a shared row": lambda shape: depend(TABLE, [OPEN, OTHER], shape),
    "undone": lambda shape: unprotect(TABLE, shape.policies("true", "true", ["flag"])),
    "SameTenant": lambda shape: samekeys.add(shape, valid=True),
    "SameTenant, not valid": lambda shape: samekeys.add(shape, valid=False),
    "SameTenant, validated": samekeys.validate,
    "a default": lambda shape: tenant_sql(shape.guc_prefix, shape.key_type, sealed=shape.sealed),
}
OF_NO_POLICY = {
    "a child that is one no more": independ(TABLE),
    "SameTenant, dropped": samekeys.DROP,
    "SameTenant, shown to a session": samekeys.SHOW_SESSION,
    "SameTenant, hidden from it": samekeys.HIDE_SESSION,
    "verifier": verifier("rls"),
}


def digests() -> dict[str, str]:
    """Return the beginning of the digest of each text, by its name."""
    texts = {
        f"{label}: {name}": text(shape)
        for label, shape in SHAPES.items()
        for name, text in TEXTS.items()
    }
    texts |= OF_NO_POLICY
    return {name: sha256(text.encode()).hexdigest()[:16] for name, text in texts.items()}


DIGESTS: dict[str, str] = {
    "guc: a column": "7489600934dcf4ed",
    "guc: a path": "a6640c94654e394a",
    "guc: shared": "13af953d475aa6a4",
    "guc: a child": "ef807682e017d4b4",
    "guc: a child of a shared row": "82cb42259e08869b",
    "guc: a relation": "0d8ab8ff1476b19f",
    "guc: a relation of a shared row": "6213095f55413e92",
    "guc: undone": "78fff0d3cf47319b",
    "guc: SameTenant": "d7cb1164c8afe579",
    "guc: SameTenant, not valid": "9774da80080ea9e8",
    "guc: SameTenant, validated": "aa91715a9be7a9de",
    "guc: a default": "08cc1a5bcc8ccef1",
    "guc, restricted: a column": "2a9726fb6b0142d9",
    "guc, restricted: a path": "9e70bb41b96fc2c7",
    "guc, restricted: shared": "13d7edc958ff0a8f",
    "guc, restricted: a child": "0ee0ec4f58e92aa5",
    "guc, restricted: a child of a shared row": "55612ef3982b494f",
    "guc, restricted: a relation": "26adc04ab0844ec7",
    "guc, restricted: a relation of a shared row": "62e522cbbb13d2d9",
    "guc, restricted: undone": "070adf7f82d9959b",
    "guc, restricted: SameTenant": "d7cb1164c8afe579",
    "guc, restricted: SameTenant, not valid": "9774da80080ea9e8",
    "guc, restricted: SameTenant, validated": "aa91715a9be7a9de",
    "guc, restricted: a default": "6a2552791216ab2a",
    "role: a column": "e68f0e224cd13434",
    "role: a path": "3a20ce074a9a1296",
    "role: shared": "add8aeebb9fd6b04",
    "role: a child": "0ee0ec4f58e92aa5",
    "role: a child of a shared row": "3a845f2097a8252e",
    "role: a relation": "26adc04ab0844ec7",
    "role: a relation of a shared row": "eb3868012f0b5173",
    "role: undone": "3b2fc1a49801827a",
    "role: SameTenant": "8289ee9807f8cf00",
    "role: SameTenant, not valid": "9774da80080ea9e8",
    "role: SameTenant, validated": "91874a232506ff98",
    "role: a default": "7dbebe9b646753ee",
    "sealed: a column": "7aef05c9a424d113",
    "sealed: a path": "5784f4cb299e221a",
    "sealed: shared": "336211b5e619a99e",
    "sealed: a child": "ef807682e017d4b4",
    "sealed: a child of a shared row": "14101ba93a09c5d9",
    "sealed: a relation": "0d8ab8ff1476b19f",
    "sealed: a relation of a shared row": "dde479599060943f",
    "sealed: undone": "78fff0d3cf47319b",
    "sealed: SameTenant": "b2b5a36b1671f4ec",
    "sealed: SameTenant, not valid": "9774da80080ea9e8",
    "sealed: SameTenant, validated": "de0aab837b5fff9a",
    "sealed: a default": "53b25ff13477319f",
    "sealed role: a column": "140a5c71ea1b6895",
    "sealed role: a path": "0dfc2306522d265d",
    "sealed role: shared": "c64d17702291db59",
    "sealed role: a child": "0ee0ec4f58e92aa5",
    "sealed role: a child of a shared row": "713ff5dcd78afa9f",
    "sealed role: a relation": "26adc04ab0844ec7",
    "sealed role: a relation of a shared row": "b1e6d344b780e2a0",
    "sealed role: undone": "3b2fc1a49801827a",
    "sealed role: SameTenant": "8289ee9807f8cf00",
    "sealed role: SameTenant, not valid": "9774da80080ea9e8",
    "sealed role: SameTenant, validated": "91874a232506ff98",
    "sealed role: a default": "53b25ff13477319f",
    "a child that is one no more": "667ae96014ba1597",
    "SameTenant, dropped": "05461147f169bd6c",
    "SameTenant, shown to a session": "92db536ea072670e",
    "SameTenant, hidden from it": "3568dc603857d8d4",
    "verifier": "5337ecb31c307b69",
}


@pytest.mark.filterwarnings("ignore:Model 'app.*' was already registered")
def test_version_1_never_changes() -> None:
    assert digests() == DIGESTS
