"""A claim of a signed JSON Web Token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from django.http import HttpRequest

from ..audit import denial
from ..conf import tenant_key
from ..exceptions import InvalidTenantIdError, RLSConfigurationError, TenantIdTypeError
from .base import Resolver
from .options import require, require_header, require_seconds, require_text, require_texts


class JWTResolver(Resolver):
    """Take the tenant from a claim of the bearer's token, whose signature is proof enough.

    Needs PyJWT: ``pip install 'django-tenantry[jwt]'``. `key`, or one of a list of keys, verifies
    the signature, with one of `algorithms`; `claim` is the tenant's key. `audience` and `issuer`
    are verified where they are given, an expiry always, and `leeway` is by how many seconds the
    issuer's clock may differ. A token that does not verify, or has no such claim, is denied; a
    request without a token goes on to the next resolver. Not for tokens of an issuer who would sign
    any tenant for anybody: no user is asked for.

    Raises RLSConfigurationError without PyJWT, and ValueError without a key or algorithms, for a
    key that does not fit each of the algorithms, and for other options that are not so.
    """

    authenticates = True

    def __init__(
        self,
        *,
        key: Any = "",
        algorithms: Sequence[str] = (),
        claim: str = "tenant_id",
        audience: str | Sequence[str] | None = None,
        issuer: str | None = None,
        leeway: float = 0,
        header: str = "Authorization",
        scheme: str = "Bearer",
    ) -> None:
        is_list = isinstance(algorithms, list | tuple | set | frozenset)
        keys = list(key) if isinstance(key, list | tuple) else [key]
        if not keys or not all(keys) or not algorithms or not is_list or "none" in algorithms:
            raise ValueError(
                "the resolver 'jwt' needs a key, and the algorithms to verify it with: {'NAME':"
                " 'jwt', 'OPTIONS': {'key': os.environ['JWT_KEY'], 'algorithms': ['HS256']}}"
            )
        try:
            import jwt  # noqa: PLC0415 - it is optional
        except ImportError as error:
            raise RLSConfigurationError(
                "the resolver 'jwt' needs PyJWT: pip install 'django-tenantry[jwt]'"
            ) from error
        known = sorted(jwt.PyJWS().get_algorithms())
        fits = all(algorithm in known for algorithm in algorithms)
        allowed = f"some of {', '.join(known)}; those of RSA and of curves need PyJWT[crypto]"
        require(fits, "algorithms", algorithms, allowed)
        for each in keys:
            require_key(jwt, each, algorithms)
        require_text("claim", claim, "tenant_id")
        if audience is not None and not isinstance(audience, str):
            require_texts("audience", audience, ["notes"])
        if issuer is not None:
            require_text("issuer", issuer, "https://login.example.com")
        require_seconds("leeway", leeway)
        require_header("header", header, "Authorization")
        require_text("scheme", scheme, "Bearer")
        self.jwt = jwt
        self.claim = claim
        self.keys = keys
        self.verified: dict[str, Any] = {
            "options": {"require": ["exp", claim]},
            "algorithms": list(algorithms),
            "audience": audience,
            "issuer": issuer,
            "leeway": leeway,
        }
        self.header = header
        self.scheme = f"{scheme.lower()} "
        self.vary = (header,)

    def resolve(self, request: HttpRequest) -> Any:
        """Return the tenant; None without a token. Raises TenantDeniedError for a bad token."""
        given = request.headers.get(self.header, "")
        if not given.lower().startswith(self.scheme):
            return None
        try:
            claims = self.verify(given[len(self.scheme) :].strip())
        except self.jwt.InvalidTokenError as error:
            raise denial(f"the token is refused: {error}", request=request) from error
        found = claims[self.claim]
        try:
            return tenant_key().parse(found)
        except (InvalidTenantIdError, TenantIdTypeError) as error:
            reason = f"the token's claim {self.claim!r} is not a tenant key"
            raise denial(reason, wanted=found, request=request) from error

    def verify(self, token: str) -> Any:
        """Return the claims of a token that one of the keys verifies.

        Raises jwt.InvalidTokenError for one that none verifies, or that has expired.
        """
        *others, last = self.keys
        for key in others:
            with suppress(self.jwt.InvalidSignatureError, self.jwt.InvalidAlgorithmError):
                return self.jwt.decode(token, key=key, **self.verified)
        return self.jwt.decode(token, key=last, **self.verified)


def require_key(jwt: Any, key: Any, algorithms: Sequence[str]) -> None:
    """Raise ValueError unless a key fits each of the algorithms, of which a token names one."""
    if isinstance(key, jwt.PyJWK):
        return  # It has an algorithm of its own.
    for name in algorithms:
        try:
            jwt.PyJWS().get_algorithm_by_name(name).prepare_key(key)
        except (jwt.PyJWTError, TypeError, ValueError) as error:
            raise ValueError(f"key does not fit the algorithm {name!r}: {error}") from error
