"""The same notes as those of the other candidates under load."""

from django.db import models
from django_rls_tenants import RLSProtectedModel


class Tenant(models.Model):
    name = models.TextField()


class Note(RLSProtectedModel):
    title = models.TextField()
    body = models.TextField()
    created_at = models.DateTimeField()

    class Meta(RLSProtectedModel.Meta):
        indexes = [
            models.Index("tenant", models.F("created_at").desc(), name="load_rls_tenants_recent")
        ]
