"""django-rls, with its backend, its middleware and a ``TenantPolicy`` for each model.

The tenant is that of the user's profile, where its middleware looks. The view has no filter and the
report no condition, as in its documentation: the policy is what selects rows.
"""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.base import IDENTIFY, SCOPED, Project


class Rls(Project):
    """Set the context in the middleware."""

    engine = "django_rls.backends.postgresql"
    apps = ("django_rls", "django.contrib.contenttypes", "django.contrib.auth")
    middleware = (IDENTIFY, "django_rls.middleware.RLSContextMiddleware")
    policies = True

    def condition(self, request: Any) -> tuple[str, list[Any]]:
        return "", []

    def protect(self) -> None:
        for name in SCOPED:
            self.model(name).enable_rls()


project = Rls
