"""OpenTelemetry: which tenant a span is of.

``RLS_TENANTS["TRACE"]`` marks the span of each request, which has begun before its tenant is known.
Spans that begin inside of a scope are marked by :class:`TenantSpanProcessor`.
"""

from __future__ import annotations

try:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import Span, SpanProcessor
except ImportError as error:
    raise ImportError(
        "tenantry.contrib.opentelemetry needs OpenTelemetry's SDK: pip install"
        " 'django-tenantry[opentelemetry]'"
    ) from error

from ..binding import current_binding
from ..tracing import mark


class TenantSpanProcessor(SpanProcessor):
    """Set ``tenant.id`` on every span that begins in a tenant's scope.

    Add it to the tracer provider: ``provider.add_span_processor(TenantSpanProcessor())``. Spans of
    the admin, and of nobody, have no such attribute.
    """

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Mark a span; the SDK calls it in the thread or task that begins the span."""
        mark(span, current_binding())
