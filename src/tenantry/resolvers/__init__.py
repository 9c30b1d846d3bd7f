"""Resolvers: what a request says of whose tenant it is for."""

from __future__ import annotations

from .base import UNKNOWN, Resolver

__all__ = ["UNKNOWN", "Resolver"]
