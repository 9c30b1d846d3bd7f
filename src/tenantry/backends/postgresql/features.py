"""Database features: Django's, from the oldest server that tenantry supports."""

from __future__ import annotations

from typing import Any

from django.db.backends.postgresql import features


class RequirementMixin:
    """Require PostgreSQL 15."""

    minimum_database_version: Any = (15,)


class DatabaseFeatures(RequirementMixin, features.DatabaseFeatures):
    """Be Django's features, but of PostgreSQL 15 and newer."""
