"""A protected model with a geometry; installed by the tests of PostGIS only."""

from __future__ import annotations

from django.contrib.gis.db import models

from tenantry import RLSProtectedModel


class Place(RLSProtectedModel):
    name = models.TextField()
    point = models.PointField()
    spot = models.PointField(geography=True)

    class Meta:
        app_label = "places"
        ordering = ["id"]
