"""Where a request may name a tenant: a header, the session, the host name, the path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest

from ..binding import TenantId
from .base import Resolver
from .lookup import TenantLookup
from .options import (
    require_domain,
    require_filter,
    require_header,
    require_seconds,
    require_switch,
    require_text,
    require_texts,
)

SESSION_KEY = "tenantry.tenant"


class HeaderResolver(Resolver):
    """Take the tenant's key from a header, ``X-Tenant`` by default."""

    def __init__(self, header: str = "X-Tenant") -> None:
        require_header("header", header, "X-Tenant")
        self.header = header
        self.vary = (header,)

    def resolve(self, request: HttpRequest) -> str | None:
        """Return the header's value; None where the request has no such header."""
        return request.headers.get(self.header)


class SessionResolver(Resolver):
    """Take the tenant that :func:`~tenantry.switch_tenant` put into the session.

    A tenant that the user may not act for any longer, or that is gone, is forgotten, and the next
    resolver is asked.
    """

    remembers = True
    vary = ("Cookie",)

    def resolve(self, request: HttpRequest) -> Any:
        """Return the selected tenant, or None."""
        return _session_of(request).get(SESSION_KEY)

    async def aresolve(self, request: HttpRequest) -> Any:
        """Return the selected tenant, or None."""
        return await _session_of(request).aget(SESSION_KEY)

    def select(self, request: HttpRequest, key: TenantId) -> None:
        """Put a tenant into the session."""
        _session_of(request)[SESSION_KEY] = str(key)

    async def aselect(self, request: HttpRequest, key: TenantId) -> None:
        """Put a tenant into the session."""
        await _session_of(request).aset(SESSION_KEY, str(key))

    def refuse(self, request: HttpRequest) -> bool:
        """Forget the tenant; return True."""
        _session_of(request).pop(SESSION_KEY, None)
        return True

    async def arefuse(self, request: HttpRequest) -> bool:
        """Forget the tenant; return True."""
        await _session_of(request).apop(SESSION_KEY, None)
        return True


class NamedResolver(Resolver):
    """Base of the resolvers that find a tenant by a field that people see, such as a slug.

    Options: `field` is unique among the tenants, `filter` leaves tenants out, such as those that
    are suspended, `anonymous` binds those who have not logged in too, and `seconds` is how long an
    answer of the database is kept: a tenant that is saved in this process counts at once, in
    others after that time.

    Raises ValueError for options that are not so, and for what the tenant's model does not have.
    """

    def __init__(
        self,
        *,
        field: str,
        filter: Mapping[str, Any] | None = None,  # noqa: A002 - Django's word
        anonymous: bool = False,
        seconds: float = 30,
    ) -> None:
        given = {} if filter is None else filter
        require_text("field", field, "slug")
        require_filter("filter", given)
        require_switch("anonymous", anonymous)
        require_seconds("seconds", seconds)
        self.anonymous = anonymous
        self.lookup = TenantLookup(field, given, seconds)

    def name_in(self, request: HttpRequest) -> str | None:
        """Return the name that the request has; None for none."""
        raise NotImplementedError

    def resolve(self, request: HttpRequest) -> Any:
        """Return the tenant's key, ``UNKNOWN`` for a name that no tenant has, None for no name."""
        name = self.name_in(request)
        return None if name is None else self.lookup.find(name)

    async def aresolve(self, request: HttpRequest) -> Any:
        """Return what :meth:`resolve` does."""
        name = self.name_in(request)
        return None if name is None else await self.lookup.afind(name)


class SubdomainResolver(NamedResolver):
    """Take the tenant from the host name: ``acme.example.com`` is the tenant whose slug is acme.

    `domain` is what follows the tenant's name, and `exclude` lists names that are no tenants.
    The options of :class:`NamedResolver` are taken too; `field` is ``"slug"`` by default.

    Raises ValueError without a domain, and for options that are not so.
    """

    def __init__(
        self,
        *,
        domain: str = "",
        exclude: Collection[str] = ("www",),
        field: str = "slug",
        **options: Any,
    ) -> None:
        if domain == "":
            raise ValueError(
                "the resolver 'subdomain' needs the domain whose subdomains are the tenants:"
                " {'NAME': 'subdomain', 'OPTIONS': {'domain': 'example.com'}}"
            )
        require_domain("domain", domain)
        require_texts("exclude", exclude, ["www"])
        super().__init__(field=field, **options)
        self.suffix = "." + domain.strip(".").lower()
        self.exclude = frozenset(name.lower() for name in exclude)

    def name_in(self, request: HttpRequest) -> str | None:
        """Return what is before the domain; None for the domain itself and for another one."""
        host = request.get_host().lower()
        host = host.rpartition(":")[0] or host
        host = host.removesuffix(".")
        if not host.endswith(self.suffix):
            return None
        name = host.removesuffix(self.suffix)
        return None if name in self.exclude else name


class PathResolver(NamedResolver):
    """Take the tenant from the path: ``/t/acme/notes/`` is for acme.

    `prefix` is the part before the tenant's name. URL patterns keep both, such as
    ``path("t/<slug:tenant>/", include(...))``. The options of :class:`NamedResolver` are taken too;
    `field` is ``"slug"`` by default, and may be ``"pk"``.
    """

    def __init__(self, *, prefix: str = "t", field: str = "slug", **options: Any) -> None:
        require_text("prefix", prefix, "t", empty=True)
        super().__init__(field=field, **options)
        self.prefix = f"/{prefix.strip('/')}/".replace("//", "/")

    def name_in(self, request: HttpRequest) -> str | None:
        """Return the part of the path behind the prefix; None for another path."""
        if not request.path_info.startswith(self.prefix):
            return None
        return request.path_info.removeprefix(self.prefix).partition("/")[0] or None


def _session_of(request: HttpRequest) -> Any:
    if not hasattr(request, "session"):
        raise ImproperlyConfigured(
            "the resolver 'session' needs request.session; put"
            " 'django.contrib.sessions.middleware.SessionMiddleware' before RLSTenantMiddleware"
        )
    return request.session
