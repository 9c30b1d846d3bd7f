"""The same notes twice, in a plain table and in a protected one."""

from __future__ import annotations

from django.db import models

from tenantry import RLSProtectedModel


class Tenant(models.Model):
    name = models.TextField()

    def __str__(self) -> str:
        return self.name


class Note(models.Model):
    """The columns and the index of both tables."""

    tenant = models.ForeignKey(Tenant, models.CASCADE, db_index=False, related_name="+")
    title = models.TextField()
    body = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        abstract = True
        indexes = [models.Index("tenant", models.F("created_at").desc(), name="%(class)s_recent")]

    def __str__(self) -> str:
        return self.title


class PlainNote(Note):
    class Meta(Note.Meta):
        pass


class ProtectedNote(Note, RLSProtectedModel):
    class Meta(Note.Meta):
        pass
