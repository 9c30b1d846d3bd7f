"""A tenant with a UUID, and rows that belong to a customer."""

from __future__ import annotations

import uuid

from django.db import models

from tenantry import RLSProtectedModel


class Tenant(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)


class Row(RLSProtectedModel):
    code = models.TextField()

    class Meta:
        indexes = [models.Index(fields=["customer", "-code"], name="row_latest")]
        unique_together = [("customer", "code")]
