"""Database features: Django's, from the oldest server that tenantry supports."""

from __future__ import annotations

from django.db.backends.postgresql import features


class DatabaseFeatures(features.DatabaseFeatures):
    """Require PostgreSQL 15."""

    minimum_database_version = (15,)
