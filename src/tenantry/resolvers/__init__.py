"""Resolvers: what a request says of whose tenant it is for."""

from __future__ import annotations

from .base import UNKNOWN, Resolver, resolvers
from .places import HeaderResolver, PathResolver, SessionResolver, SubdomainResolver
from .tokens import JWTResolver
from .user import UserResolver

__all__ = [
    "UNKNOWN",
    "HeaderResolver",
    "JWTResolver",
    "PathResolver",
    "Resolver",
    "SessionResolver",
    "SubdomainResolver",
    "UserResolver",
    "resolvers",
]
