"""Fixtures live in small plugins, one noun each."""

from __future__ import annotations

import os

import pytest

# The wire first: the servers import it, and pytest rewrites assertions as it imports a plugin.
pytest_plugins = [
    "tests.fix_wire",
    "tests.fix_servers",
    "tests.fix_example",
    "tests.fix_cut",
    "tests.fix_faults",
]


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run in CI that skipped a test for another reason than the platform."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None:
        reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", [])]
        if any("platform" not in reason for reason in reasons) and exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
