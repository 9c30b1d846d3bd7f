"""The scope of a job, which is what a task of any queue runs in."""

from __future__ import annotations

import logging
from functools import cache

from ..binding import UNBOUND
from ..context import RequestScope
from .envelope import disclose

logger = logging.getLogger("tenantry.tasks")


class JobScope(RequestScope):
    """Make the binding of a job current, and leave nothing behind that it left open."""

    opened_by = "the job"


def scope_of_job(envelope: object, *address: str) -> JobScope:
    """Return the scope of the job that came with an envelope, or (None) without one.

    Raises InvalidEnvelopeError for an envelope that does not open.
    """
    if envelope is None:
        warn_of_missing(address[1])
        return JobScope(UNBOUND)
    return JobScope(disclose(envelope, *address))


@cache
def warn_of_missing(name: str) -> None:
    """Log once for each name of a job that one came without an envelope."""
    logger.warning(
        "The job %r carries no binding and runs unbound, so that it sees no rows of tenants: it was"
        " enqueued by an older release, or by a process without tenantry's integration. This is"
        " logged once for each name.",
        name,
    )
