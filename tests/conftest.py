"""Fixtures live in small plugins, one noun each."""

from __future__ import annotations

import shutil
import signal
import sys

import django
import pytest

from tests import settings
from tests.places import bindirs

# The wire first: the servers import it, and pytest rewrites assertions as it imports a plugin.
pytest_plugins = [
    "tests.fix_wire",
    "tests.fix_servers",
    "tests.fix_aliases",
    "tests.fix_library",
    "tests.fix_migrations",
    "tests.fix_example",
    "tests.fix_cut",
    "tests.fix_faults",
    "tests.fix_checks",
    "tests.fix_commands",
    "tests.fix_lifecycle",
    "tests.fix_hanging",
    "tests.fix_keys",
    "tests.fix_opened",
    "tests.fix_docs",
    "tests.fix_jobs",
    "tests.fix_site",
    "tests.fix_admin",
    "tests.fix_pool",
    "tests.fix_users",
]

# django-async-backend needs it. A package that is missing elsewhere is an error.
collect_ignore = [] if django.VERSION >= (6, 1) else ["test_async_orm.py"]
# As django-rls-tenants needs Python 3.12.
if sys.version_info < (3, 12):
    collect_ignore.append("test_handing_over.py")
# Where `make test` can install PostGIS, it is an error that it is missing.
if not (bindirs() or shutil.which("apt-get")):
    collect_ignore.append("test_postgis.py")


def pytest_configure() -> None:
    """Let programs that the tests start hear SIGINT, which a shell keeps from its background."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail a run that skipped a test for another reason than the platform; note how it ended."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    # Also where others fail, which a second run without the skipped ones may pass.
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if reporter is not None and ended:
        reasons = [report.longrepr[2] for report in reporter.stats.get("skipped", [])]
        if any("platform" not in reason for reason in reasons):
            session.exitstatus = pytest.ExitCode.INTERNAL_ERROR
    cache = getattr(session.config, "cache", None)
    if cache is not None:
        cache.set("tenantry/status", int(session.exitstatus))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is about another shape of policies than that of this run."""
    is_about = {
        "guc_shape": settings.SHAPE == "guc",
        "role_shape": settings.SHAPE == "role",
        "sealed_shape": settings.IS_SEALED,
        "unsealed": not settings.IS_SEALED,
        "admin_role": settings.HAS_ADMIN_ROLE,
    }
    others = [mark for mark, is_this in is_about.items() if not is_this]
    left = {item for item in items for mark in others if item.get_closest_marker(mark)}
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]
