"""Who takes part in the benchmark, and what each of them is not asked to do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Candidate:
    """A package in the mode that its documentation recommends; its module says which that is.

    `package` is what is installed for it, into an environment of its own; without one it runs in
    the environment of the benchmark. `not_run` has a reason for each route, or workload, or "*",
    that it has no mode for. `app` is whose tables it uses, if not its own.
    """

    name: str
    title: str
    package: str = ""
    not_run: Mapping[str, str] = field(default_factory=dict)
    app: str = ""

    @property
    def module(self) -> str:
        """The package that says what it is."""
        return f"benchmarks.candidates.{self.name}"

    @property
    def project(self) -> str:
        """The package of its settings and models, which is a Django app."""
        return f"benchmarks.candidates.{self.app or self.name}"

    def reason(self, route: str, workload: str) -> str:
        """Return why it does not run, or nothing."""
        reasons = (self.not_run.get(key) for key in ("*", route, workload))
        return next((reason for reason in reasons if reason), "")


# The first one is the floor, which ratios are taken to.
CANDIDATES = {
    candidate.name: candidate
    for candidate in (
        Candidate("stock", "stock Django, filter by hand"),
        Candidate("psycopg_alone", "psycopg alone", app="stock"),
        Candidate("with_tenantry", "tenantry"),
        Candidate("with_tenantry_role", "tenantry, admin as a role", app="with_tenantry"),
        Candidate("with_rls_tenants", "django-rls-tenants", "django-rls-tenants"),
        Candidate(
            "with_rls",
            "django-rls",
            "django-rls",
            {"pgbouncer": "its documentation names no mode for a pooler in transaction mode"},
        ),
        Candidate("with_boundary", "django-boundary", "django-boundary"),
        Candidate("with_multitenant", "django-multitenant", "django-multitenant"),
        Candidate(
            "with_tenants",
            "django-tenants",
            "django-tenants",
            {"pgbouncer": "its documentation names no mode for a pooler in transaction mode"},
        ),
        Candidate(
            "async_backend",
            "django-async-backend",
            "django-async-backend",
            {"*": "it has no middleware and no tenants: the workloads are synchronous requests"},
        ),
        # As far from the floor as it can be: what it shows is how far chance goes.
        Candidate("stock_again", "stock Django once more", app="stock"),
    )
}
# They need nothing that the benchmark's own environment does not have.
OWN = ("stock", "psycopg_alone", "with_tenantry", "with_tenantry_role", "stock_again")
