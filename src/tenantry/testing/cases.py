"""Django's test cases, run as a tenant."""

from __future__ import annotations

from typing import Any

from django.db import models
from django.db.models.fields import NOT_PROVIDED
from django.test import TestCase, TransactionTestCase

from ..conf import tenant_model
from ..tenants import seeing_all
from .scopes import rls_as_tenant


def create_tenant(name: str) -> Any:
    """Create a tenant, and return it; its text fields that have no default are set to `name`.

    Raises TypeError for a tenant that needs more than text fields.
    """
    model = tenant_model()
    texts = [field for field in model._meta.concrete_fields if not _is_optional(field)]
    for field in texts:
        if not isinstance(field, models.CharField | models.TextField):
            raise TypeError(
                f"{model._meta.label} needs a value for {field.name!r}, which create_tenant()"
                " cannot make up; override the fixture tenant_factory, which returns a function"
                " that creates a tenant of a name, or create_tenant(name) of the test case"
            )
    with seeing_all():
        return model._default_manager.create(**{field.name: name for field in texts})


def _is_optional(field: Any) -> bool:
    given = field.has_default() or field.db_default is not NOT_PROVIDED
    return given or field.null or field.blank or field.generated


class TenantTestCase(TestCase):
    """Run tests, and what ``setUpTestData`` does after ``super()``, as a tenant: ``cls.tenant``.

    Override the static method ``create_tenant(name)`` if a tenant needs more than text fields.
    """

    tenant: Any
    create_tenant = staticmethod(create_tenant)

    @classmethod
    def setUpTestData(cls) -> None:
        """Create the tenant, and open its scope until the class has been tested."""
        super().setUpTestData()
        cls.tenant = cls.create_tenant("one")
        cls.enterClassContext(rls_as_tenant(cls.tenant))


class TenantTransactionTestCase(TransactionTestCase):
    """Run tests, and what ``setUp`` does after ``super()``, as a tenant: ``self.tenant``.

    Override the static method ``create_tenant(name)`` if a tenant needs more than text fields.
    """

    create_tenant = staticmethod(create_tenant)

    def setUp(self) -> None:
        """Create the tenant, and open its scope until the test has ended."""
        super().setUp()
        self.tenant = self.create_tenant("one")
        self.enterContext(rls_as_tenant(self.tenant))
