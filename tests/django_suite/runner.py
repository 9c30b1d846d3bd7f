"""A test runner for Django's ``runtests.py`` that writes down what became of each test."""

from __future__ import annotations

import os
import unittest
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import Any
from unittest import mock

from django.contrib.postgres.operations import CreateExtension
from django.db import connections
from django.test import SimpleTestCase
from django.test.runner import DiscoverRunner

from tenantry import tenant_context
from tenantry.engine import is_bound
from tests.django_suite.outcomes import Event, Outcome

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


class RecordingResult(unittest.TextTestResult):
    """Append each outcome to a file, as it comes."""

    def record(self, test: unittest.TestCase, outcome: Outcome, text: str = "") -> None:
        """Write down an outcome; one of a subtest counts for its test."""
        event = Event(getattr(test, "test_case", test).id(), outcome, text)
        with Path(os.environ["DJANGO_SUITE_OUTCOMES"]).open("a") as file:
            file.write(event.as_line())

    def addSuccess(self, test: unittest.TestCase) -> None:
        super().addSuccess(test)
        self.record(test, Outcome.PASSED)

    def addError(self, test: unittest.TestCase, err: ExcInfo) -> None:
        super().addError(test, err)
        self.record(test, Outcome.ERROR, self.errors[-1][1])

    def addFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        super().addFailure(test, err)
        self.record(test, Outcome.FAILED, self.failures[-1][1])

    def addSkip(self, test: unittest.TestCase, reason: str) -> None:
        super().addSkip(test, reason)
        self.record(test, Outcome.SKIPPED, reason)

    def addExpectedFailure(self, test: unittest.TestCase, err: ExcInfo) -> None:
        super().addExpectedFailure(test, err)
        self.record(test, Outcome.FAILED_AS_EXPECTED)

    def addUnexpectedSuccess(self, test: unittest.TestCase) -> None:
        super().addUnexpectedSuccess(test)
        self.record(test, Outcome.UNEXPECTED_SUCCESS)

    def addSubTest(
        self, test: unittest.TestCase, subtest: unittest.TestCase, err: ExcInfo | None
    ) -> None:
        before = len(self.failures), len(self.errors)
        super().addSubTest(test, subtest, err)
        for _, text in self.failures[before[0] :]:
            self.record(test, Outcome.FAILED, f"{subtest}\n{text}")
        for _, text in self.errors[before[1] :]:
            self.record(test, Outcome.ERROR, f"{subtest}\n{text}")


class RecordingRunner(DiscoverRunner):
    """Run tests with a tenant bound or without, all of them or those that use a database."""

    def load_tests_for_label(self, label: str, discover_kwargs: dict[str, Any]) -> Any:
        """Return the tests of a label that are wanted."""
        tests = super().load_tests_for_label(label, discover_kwargs)
        if tests is None or "DJANGO_SUITE_DATABASE_TESTS" not in os.environ:
            return tests
        return without_others(tests)

    def get_resultclass(self) -> Any:
        """Return the class that writes outcomes down."""
        return RecordingResult

    def setup_databases(self, **kwargs: Any) -> Any:
        """Create the databases, on a server that lacks extensions too."""
        with mock.patch.object(CreateExtension, "extension_exists", exists_or_cannot):
            return super().setup_databases(**kwargs)

    def run_suite(self, suite: Any, **kwargs: Any) -> Any:
        """Run the tests, and see before and after that the server is told who is bound."""
        require_told()
        result = super().run_suite(suite, **kwargs)
        require_told()
        return result

    def run_tests(self, test_labels: list[str], **kwargs: Any) -> int:
        """Run the tests, from the creation of their databases on."""
        with scope():
            return super().run_tests(test_labels, **kwargs)


def without_others(tests: Any) -> Any:
    """Return the tests but those that Django keeps from using a database."""
    if isinstance(tests, unittest.TestSuite):
        return unittest.TestSuite(filter(None, map(without_others, tests)))
    return None if isinstance(tests, SimpleTestCase) and not tests.databases else tests


def exists_or_cannot(self: CreateExtension, schema_editor: Any, extension: str) -> bool:
    """Return whether an extension is there already, or this server does not have it."""
    with schema_editor.connection.cursor() as cursor:
        cursor.execute(
            "SELECT FROM pg_available_extensions WHERE name = %s AND installed_version IS NULL",
            [extension],
        )
        return cursor.fetchone() is None


def require_told() -> None:
    """Raise AssertionError unless the server has the binding, if it is for our engine to send."""
    wanted = "1" if "DJANGO_SUITE_BOUND" in os.environ else ""
    for connection in filter(is_bound, connections.all()):
        with connection.cursor() as cursor:
            cursor.execute("SELECT current_setting('rls.current_tenant')")
            found = cursor.fetchone()
        if found != (wanted,):
            raise AssertionError(f"the server has the tenant {found}, and not {wanted!r}")


def scope() -> AbstractContextManager[object]:
    """Return what binds a tenant, if one is wanted."""
    return tenant_context(1) if "DJANGO_SUITE_BOUND" in os.environ else nullcontext()
