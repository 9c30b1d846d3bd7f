"""The envelope: a binding in a text that another process may read and nobody may write.

It is signed with ``SECRET_KEY``, together with an *address*, which says what it is for: an envelope
that is copied onto another job does not open. What travels is the tenant, the admin or nobody. A
bypass flag stays behind, so that the job runs as nobody, and so does ``read_only``: what a request
that only reads hands over to a job is another piece of work.
"""

from __future__ import annotations

from django.core import signing

from ..binding import ADMIN, UNBOUND, Binding
from ..conf import tenant_key
from ..exceptions import InvalidEnvelopeError, InvalidTenantIdError

SALT = "tenantry.envelope"
VERSION = 1


def travelling(binding: Binding) -> Binding:
    """Return what is left of `binding` in an envelope."""
    if binding.is_admin:
        return ADMIN
    return UNBOUND if binding.tenant_id is None else Binding(binding.tenant_id)


def enclose(binding: Binding, *address: str) -> str:
    """Return an envelope of `binding` that opens for `address` only."""
    left = travelling(binding)
    tenant = None if left.tenant_id is None else str(left.tenant_id)
    return signing.dumps([VERSION, left.is_admin, tenant, *address], salt=SALT)


def disclose(envelope: object, *address: str) -> Binding:
    """Return the binding in an envelope.

    Raises InvalidEnvelopeError when it was not made by :func:`enclose` with this project's
    ``SECRET_KEY``, for this address and by this version.
    """
    about = f"the binding of the job {address[1]!r}"
    if not isinstance(envelope, str):
        raise InvalidEnvelopeError(f"{about} is of type {type(envelope).__name__}, not a str")
    try:
        version, *content = signing.loads(envelope, salt=SALT)
    except signing.BadSignature:
        raise InvalidEnvelopeError(
            f"{about} does not verify: it was changed, or signed with another SECRET_KEY; give"
            " workers the SECRET_KEY of those who enqueue, or put it into SECRET_KEY_FALLBACKS"
        ) from None
    if version != VERSION:
        raise InvalidEnvelopeError(
            f"{about} is of version {version!r}, and this release of tenantry reads {VERSION};"
            " let workers and those who enqueue run the same release, and enqueue the job again"
        )
    is_admin, tenant, *written_for = content
    if written_for != list(address):
        raise InvalidEnvelopeError(
            f"{about} was made for another job, or for other arguments; enqueue the job again"
        )
    if is_admin:
        return ADMIN
    try:
        return UNBOUND if tenant is None else Binding(tenant_key().parse(tenant))
    except InvalidTenantIdError as error:
        raise InvalidEnvelopeError(
            f"{about} has a tenant of an older type: {error}; enqueue the job again"
        ) from error
