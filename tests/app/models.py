"""Models of the test project: two tenants, and tables of every shape that is protected."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import AbstractUser
from django.db import models

from tenantry import RLSConstraint, RLSManager, RLSProtectedModel


class Tenant(models.Model):
    name = models.TextField(unique=True)


class User(AbstractUser):
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.CASCADE)
    is_tenant_admin = models.BooleanField(default=False)

    @property
    def rls_tenant_id(self) -> int | None:
        return self.tenant_id


class Author(RLSProtectedModel):
    name = models.TextField()


class Note(RLSProtectedModel):
    title = models.TextField()
    author = models.ForeignKey(Author, null=True, on_delete=models.SET_NULL)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE)

    # On purpose without the parent's Meta.
    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["tenant", "title"])]
        constraints = [models.UniqueConstraint(fields=["tenant", "title"], name="note_title")]


class Label(models.Model):
    """Uses RLSConstraint with a key, a field and columns of its own names."""

    code = models.UUIDField(primary_key=True, default=uuid.uuid4)
    text = models.TextField()
    customer = models.ForeignKey(Tenant, on_delete=models.CASCADE, db_column="cust_no")

    objects = RLSManager()

    class Meta:
        db_table = "Odd table"
        constraints = [RLSConstraint(field="customer")]


class Shared(models.Model):
    """A table that is not protected."""

    text = models.TextField()
    note = models.ForeignKey(Note, null=True, on_delete=models.CASCADE)
