"""No views of its own: tests of views bring theirs."""

from __future__ import annotations

urlpatterns: list[object] = []
