"""ASGI: what wraps applications in ``asgi.py``."""

from __future__ import annotations

from .lifespan import PoolLifespan
from .middleware import TenantMiddleware

__all__ = ["PoolLifespan", "TenantMiddleware"]
