"""Fixtures live in small plugins, one noun each."""

from __future__ import annotations

# The wire first: the servers import it, and pytest rewrites assertions as it imports a plugin.
pytest_plugins = ["tests.fix_wire", "tests.fix_servers"]
