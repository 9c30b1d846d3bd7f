"""Celery: tasks through a worker of every pool, and in this process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any

import pytest
from celery import Celery, chain, chord, group, signals, signature
from celery.exceptions import SoftTimeLimitExceeded
from django.core import signing
from django.db import transaction
from django.test import override_settings

from example_asgi.servers import Child
from tenantry import admin_context, tenant_context
from tenantry.binding import ADMIN, UNBOUND, Binding, current_binding
from tenantry.context import Scope
from tenantry.contrib.celery import HEADER, TenantTask, _jobs, enclose_binding
from tenantry.contrib.envelope import SALT, disclose, enclose
from tenantry.contrib.jobs import warn_of_missing
from tenantry.exceptions import InvalidEnvelopeError
from tests import settings as project
from tests.app.models import Note, Tenant
from tests.fix_faults import wait_for
from tests.jobs import of_celery as jobs
from tests.jobs.app import app

Two = tuple[Tenant, Tenant]
A, B = ["A 1", "A 2"], ["B 1", "B 2"]
ALL = [*A, *B]


def get(result: Any) -> Any:
    return result.get(timeout=20)


def as_each(two: Two) -> Iterator[tuple[AbstractContextManager[Any], list[str]]]:
    yield tenant_context(two[0].pk), A
    yield tenant_context(two[1].pk), B
    yield admin_context(), ALL
    yield nullcontext(), []


@pytest.fixture
def as_given() -> Iterator[None]:
    """Publish messages with the headers that they are given, as other processes may."""
    signals.before_task_publish.disconnect(enclose_binding)
    yield
    signals.before_task_publish.connect(enclose_binding, weak=False)


def test_without_celery_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "celery.contrib.django.task", None)
    monkeypatch.delitem(sys.modules, "tenantry.contrib.celery")
    with pytest.raises(ImportError, match=r"pip install 'django-tenantry\[celery\]'"):
        import_module("tenantry.contrib.celery")


# Through a worker.


@pytest.mark.slow
@pytest.mark.usefixtures("celery_worker")
class TestWorker:
    """What a worker does, with every pool."""

    def test_a_task_runs_as_who_published_it(self, tenants: Two) -> None:
        for scope, rows in as_each(tenants):
            with scope:
                results = [
                    jobs.titles.delay(),
                    jobs.titles.apply_async(countdown=0.01),
                    app.send_task("tests.jobs.of_celery.titles"),
                    group([jobs.titles.s(), jobs.titles.s()])(),
                ]
            assert [get(result) for result in results] == [rows, rows, rows, [rows, rows]]

    def test_tasks_of_two_tenants_do_not_mix(self, tenants: Two) -> None:
        results = []
        for number in range(40):
            with tenant_context(tenants[number % 2].pk):
                results.append((tenants[number % 2], jobs.write.delay(str(number))))
        assert all(get(result) == tenant.pk for tenant, result in results)
        for tenant in tenants:
            with tenant_context(tenant.pk):
                assert Note.objects.count() == 2 + 20

    def test_a_canvas_keeps_the_binding(self, tenants: Two) -> None:
        for scope, rows in as_each(tenants):
            with scope:
                results = [
                    chain(jobs.titles.s(), jobs.collect.s(), jobs.collect.s())(),
                    chord([jobs.titles.s(), jobs.titles.s()], jobs.collect.s())(),
                    chain(group(jobs.titles.s(), jobs.titles.s()), jobs.collect.s())(),
                    jobs.titles.chunks([(1,), (2,)], 1)(),
                    jobs.titles.starmap([(1,), (2,)]).delay(),
                    jobs.replaced.delay(),
                    chain(jobs.replaced.s(), jobs.collect.s())(),
                ]
            assert [get(result) for result in results] == [
                [[rows, rows], rows],
                [[rows, rows], rows],
                [[rows, rows], rows],
                [[rows], [rows]],
                [rows, rows],
                rows,
                [rows, rows],
            ]

    def test_a_signature_runs_as_who_sends_it(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            made = chain(jobs.titles.s(), jobs.collect.s())
            clone = signature(dict(made), app=app)
        with tenant_context(tenants[1].pk):
            assert get(made()) == get(clone.delay()) == [B, B]

    def test_a_callback_keeps_the_binding(self, tenants: Two) -> None:
        with tenant_context(tenants[1].pk):
            result = jobs.titles.apply_async(link=jobs.write.si("linked"))
        get(result)
        assert get(result.children[0]) == tenants[1].pk

    def test_error_callbacks_keep_the_binding(self, tenants: Two) -> None:
        errbacks = [jobs.note_failure.s(), jobs.note_failed_id.s()]
        with tenant_context(tenants[1].pk):
            result = jobs.boom.apply_async(link_error=errbacks)
        with pytest.raises(ValueError, match="boom"):
            get(result)
        with admin_context():
            failed = Note.objects.filter(title__startswith="failed").order_by("title")
            wait_for(lambda: failed.count() == 2)
            assert list(failed.values_list("title", "tenant_id")) == [
                ("failed", tenants[1].pk),
                ("failed: boom", tenants[1].pk),
            ]

    def test_a_retry_keeps_the_binding(self, tenants: Two) -> None:
        for scope, rows in as_each(tenants):
            with scope:
                results = [jobs.again.delay(), jobs.again_by_itself.delay()]
            assert [get(result) for result in results] == [[1, rows], [1, rows]]

    def test_a_retry_with_other_headers_keeps_the_binding(self, tenants: Two) -> None:
        for scope, rows in as_each(tenants):
            with scope:
                result = jobs.again_with_headers.delay()
            assert get(result) == [1, rows]

    def test_a_task_at_commit_runs_as_who_asked_for_it(self, tenants: Two) -> None:
        a, b = (tenant.pk for tenant in tenants)
        with tenant_context(a), transaction.atomic(), tenant_context(b):
            jobs.write.delay_on_commit("late")
            jobs.write.apply_async_on_commit(["later"])
        with admin_context():
            late = Note.objects.filter(title__startswith="late").order_by("title")
            wait_for(lambda: late.count() == 2)
            assert list(late.values_list("title", "tenant_id")) == [("late", b), ("later", b)]

    def test_a_function_call_stays_in_the_callers_scope(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            assert get(jobs.calls_itself.delay()) == [ALL, ALL, ALL]

    @pytest.mark.parametrize("job", [jobs.boom, jobs.leave_open])
    def test_a_task_leaves_nothing_behind(self, tenants: Two, job: Any) -> None:
        with tenant_context(tenants[0].pk):
            bad = [job.delay() for _ in range(8)]
        for result in bad:
            result.get(timeout=20, propagate=False)
        # A TenantTask would open a scope of its own over what is left.
        looks = group(jobs.bare_binding.s() for _ in range(8))
        assert get(looks()) == [repr(UNBOUND)] * 8

    @pytest.mark.parametrize(
        "envelope",
        [
            "admin",
            1,
            enclose(ADMIN, "celery", "tests.jobs.of_celery.titles", "an id"),
            enclose(ADMIN, "celery", "tests.jobs.of_celery.write", "another id"),
            signing.dumps([2, True, None], salt=SALT),
        ],
        ids=["no text of ours", "no text", "other job", "other id", "other version"],
    )
    def test_a_forged_task_does_not_run(
        self, tenants: Two, as_given: None, envelope: object
    ) -> None:
        options = {"headers": {HEADER: envelope}, "link_error": jobs.note_failure.s()}
        with tenant_context(tenants[0].pk):
            result = jobs.write.apply_async(["forged"], **options)
        with pytest.raises(InvalidEnvelopeError):
            get(result)
        assert get(jobs.titles.delay()) == []
        with admin_context():
            assert sorted(Note.objects.values_list("title", flat=True)) == ALL

    def test_a_message_of_an_older_release_is_unbound(
        self, tenants: Two, as_given: None, celery_worker: Child
    ) -> None:
        before = celery_worker.log.read_text().count("carries no binding")
        with tenant_context(tenants[0].pk):
            for _ in range(4):
                assert get(jobs.collect.delay(None)) == [None, []]
                # Wherever it is retried from.
                assert get(jobs.again.delay()) == [1, []]
        logged = celery_worker.log.read_text().count("carries no binding") - before
        # Once in each process, for each of the names.
        assert 2 <= logged <= 4

    def test_read_only_stays_behind(self, tenants: Two) -> None:
        with Scope(Binding(tenants[0].pk, read_only=True)):
            results = [jobs.write.delay("new"), jobs.binding.delay()]
        assert [get(result) for result in results] == [
            tenants[0].pk,
            repr(Binding(tenants[0].pk)),
        ]

    def test_a_bypass_flag_stays_behind(self, tenants: Two) -> None:
        with Scope(Binding(bypass="login")):
            result = jobs.binding.delay()
        assert get(result) == repr(UNBOUND)

    def test_a_task_of_another_class_is_unbound(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            assert get(jobs.bare_binding.delay()) == repr(UNBOUND)


# Only this pool has time limits.
@pytest.mark.slow
@pytest.mark.parametrize("celery_worker", ["prefork"], indirect=True)
def test_a_time_limit_ends_the_scope(tenants: Two, celery_worker: Child) -> None:
    with tenant_context(tenants[0].pk):
        results = [jobs.too_slow.delay(), jobs.too_slow.delay()]
    for result in results:
        with pytest.raises(SoftTimeLimitExceeded):
            get(result)
    assert get(group(jobs.bare_binding.s() for _ in range(4))()) == [repr(UNBOUND)] * 4


# In this process.


@pytest.fixture
def eager() -> Iterator[None]:
    app.conf.task_always_eager = True
    yield
    app.conf.task_always_eager = False


class FullLog(logging.Handler):
    """Be a log that has no place left."""

    def emit(self, record: logging.LogRecord) -> None:
        raise OSError("the disk is full")


@pytest.fixture
def full_log(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.INFO, "tenantry")
    handler = FullLog()
    logging.getLogger("tenantry").addHandler(handler)
    yield
    logging.getLogger("tenantry").removeHandler(handler)


def audited() -> override_settings:
    return override_settings(RLS_TENANTS={**project.RLS_TENANTS, "AUDIT_LOG": True})


@pytest.mark.usefixtures("eager")
class TestEager:
    """What eager mode does, in the code that publishes."""

    def test_a_task_runs_as_its_caller(self, tenants: Two) -> None:
        for scope, rows in as_each(tenants):
            with scope:
                before = current_binding()
                assert get(jobs.titles.delay()) == rows
                steps = chain(jobs.titles.s(), jobs.collect.s())
                assert get(steps()) == [rows, rows]
                assert get(group(jobs.titles.s(), jobs.titles.s())()) == [rows, rows]
                assert get(chord([jobs.titles.s()], jobs.collect.s())()) == [[rows], rows]
                assert current_binding() == before

    def test_a_retry_keeps_its_request(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            assert get(jobs.again_by_itself.delay()) == [1, A]
            assert current_binding() == Binding(tenants[0].pk)

    def test_a_function_call_has_its_own_request(self, tenants: Two) -> None:
        assert get(jobs.requests.delay()) == [{}, {"inner": True}]

    def test_a_task_that_fails_leaves_nothing_behind(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            with pytest.raises(ValueError, match="boom"):
                get(jobs.boom.delay())
            jobs.leave_open.delay()
            assert current_binding() == Binding(tenants[0].pk)
        assert get(jobs.titles.delay()) == []

    def test_a_bypass_flag_stays_behind(self, tenants: Two) -> None:
        with Scope(Binding(bypass="login")):
            assert get(jobs.binding.delay()) == repr(UNBOUND)

    @pytest.mark.usefixtures("full_log")
    def test_a_task_whose_scope_cannot_be_opened_does_not_run(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            with audited(), pytest.raises(OSError, match="the disk is full"):
                get(jobs.titles.delay())
            assert current_binding() == Binding(tenants[0].pk)

    def test_arguments_of_a_task_at_commit_have_any_name(self, tenants: Two) -> None:
        with tenant_context(tenants[0].pk):
            with transaction.atomic():
                jobs.write_named.delay_on_commit(binding="by", how="mail")
                given = {"binding": "by", "how": "hand"}
                jobs.write_named.apply_async_on_commit(kwargs=given)
            assert get(jobs.titles.delay()) == [*A, "hand by", "mail by"]

    def test_a_header_counts_for_nothing(self, tenants: Two) -> None:
        assert get(jobs.titles.apply_async(headers={HEADER: enclose(ADMIN, "celery")})) == []


def run(job: Any, headers: object, **request: Any) -> Any:
    """Run a task as a worker does, in this thread."""
    from celery.app.trace import build_tracer

    message = {"id": "an id", "headers": headers, "delivery_info": {}, "ignore_result": True}
    tracer = build_tracer(job.name, job, app=app)
    result = tracer("an id", (), {}, {**message, **request})
    return result.info.retval if result.info else result.retval


def test_a_worker_opens_the_envelope_of_a_message(tenants: Two) -> None:
    envelope = enclose(Binding(tenants[0].pk), "celery", jobs.titles.name, "an id")
    with admin_context():
        assert run(jobs.titles, {HEADER: envelope}) == A
        assert isinstance(run(jobs.titles, {HEADER: envelope + "x"}), InvalidEnvelopeError)
        assert current_binding() == ADMIN
    assert current_binding() == UNBOUND
    assert not _jobs


def test_only_a_retry_of_its_own_is_the_first_tries(
    tenants: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published() -> list[Binding]:
        found = []
        for name in ("an id", "another id"):
            headers: dict[str, Any] = {"id": name, "task": "a task", "retries": 1}
            with admin_context():
                enclose_binding(headers)
            found.append(disclose(headers[HEADER], "celery", "a task", name))
        return found

    mine = Binding(tenants[0].pk)
    monkeypatch.setattr(jobs.titles, "run", published)
    headers = {HEADER: enclose(mine, "celery", jobs.titles.name, "an id")}
    assert run(jobs.titles, headers) == [mine, ADMIN]


@pytest.mark.usefixtures("full_log")
def test_a_task_whose_scope_cannot_be_opened_does_not_run(tenants: Two) -> None:
    envelope = enclose(Binding(tenants[0].pk), "celery", jobs.titles.name, "an id")
    warn_of_missing.cache_clear()
    with audited():
        for headers in ({HEADER: envelope}, {HEADER: envelope + "x"}, {}):
            assert isinstance(run(jobs.titles, headers), OSError)
        assert current_binding() == UNBOUND
    # Nor where the log is that of a message without an envelope.
    assert isinstance(run(jobs.titles, {}), OSError)
    assert run(jobs.titles, {HEADER: envelope}) == A


def test_what_is_called_for_a_refused_message_is_unbound(tenants: Two) -> None:
    seen = []

    def note(**kwargs: Any) -> None:
        seen.append(current_binding())

    signals.task_failure.connect(note)
    with admin_context():
        run(jobs.titles, {HEADER: "admin"})
    signals.task_failure.disconnect(note)
    assert seen == [UNBOUND]


@pytest.mark.parametrize("headers", [None, {}, "admin", [HEADER]])
def test_a_message_without_an_envelope_is_unbound(
    tenants: Two, headers: object, caplog: pytest.LogCaptureFixture
) -> None:
    warn_of_missing.cache_clear()
    with caplog.at_level(logging.WARNING, "tenantry.tasks"), admin_context():
        assert run(jobs.titles, headers) == run(jobs.titles, headers) == []
    assert [record.args for record in caplog.records] == [(jobs.titles.name,)]


def test_a_task_of_another_class_is_left_alone() -> None:
    plain = Celery("plain", set_as_current=False).task(current_binding)
    with admin_context():
        assert get(plain.apply()) == ADMIN


def test_a_message_of_the_first_protocol_has_no_envelope() -> None:
    for headers in (None, {}, {"x": 1}):
        enclose_binding(headers=headers)
        assert not headers or HEADER not in headers


def test_a_function_call_is_in_the_callers_scope(tenants: Two) -> None:
    with tenant_context(tenants[0].pk):
        assert jobs.titles() == A


def test_the_apps_own_tasks_are_tenant_tasks() -> None:
    app.finalize()
    others = {name for name, task in app.tasks.items() if not isinstance(task, TenantTask)}
    assert others == {jobs.bare_binding.name}
