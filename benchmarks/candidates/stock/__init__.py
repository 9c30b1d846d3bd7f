"""Stock Django with a filter by hand: one table for all tenants, no Row-Level Security.

The floor: what a project pays that names the tenant in every query and gets everything right.
"""

from __future__ import annotations

from typing import Any

from benchmarks.candidates.base import Project


class Stock(Project):
    """Filter in the view."""

    def notes(self, request: Any) -> Any:
        return self.model("Note").objects.filter(tenant_id=request.user.tenant_id)


project = Stock
