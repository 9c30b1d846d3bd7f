"""``ENGINE = "tests.heir"``: a backend that inherits from tenantry's, as other packages' do."""

from __future__ import annotations

from tenantry.backends.postgresql import base


class DatabaseWrapper(base.DatabaseWrapper):
    """Be tenantry's, under another name."""
