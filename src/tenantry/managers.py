"""``RLSManager``: the manager of protected models."""

from __future__ import annotations

from typing import Any

from django.db import models


class RLSManager(models.Manager[Any]):
    """Be the default manager of protected models.

    It adds no filter of its own: the backend's compiler scopes every query, whichever manager it
    comes from, and the database refuses the rest.
    """
