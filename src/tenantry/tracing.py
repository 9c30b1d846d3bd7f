"""``tenant.id`` on the spans of OpenTelemetry."""

from __future__ import annotations

from typing import Any

from .binding import Binding

# OpenTelemetry's semantic conventions have no name for it yet.
ATTRIBUTE = "tenant.id"


def mark_request(binding: Binding) -> None:
    """Mark the span that is current, which is the request's while a request is bound."""
    from opentelemetry import trace  # noqa: PLC0415 - it is optional

    mark(trace.get_current_span(), binding)


def mark_request_anew(binding: Binding) -> None:
    """Mark the request's span again; the attribute becomes empty where the tenant is gone."""
    from opentelemetry import trace  # noqa: PLC0415 - it is optional

    span = trace.get_current_span()
    # A span loses no attribute. Those that are not recorded have none to look at.
    if binding.tenant_id is None and ATTRIBUTE in (getattr(span, "attributes", None) or ()):
        span.set_attribute(ATTRIBUTE, "")
    mark(span, binding)


def mark(span: Any, binding: Binding) -> None:
    """Set ``tenant.id`` on a span, where there is a tenant."""
    if binding.tenant_id is not None:
        span.set_attribute(ATTRIBUTE, str(binding.tenant_id))
