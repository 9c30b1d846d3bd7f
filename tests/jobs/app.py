"""An app of Celery whose broker is in the environment of a worker."""

from __future__ import annotations

import os

from celery import Celery

from tenantry.contrib.celery import TenantTask

app = Celery("tests", task_cls=TenantTask, include=["tests.jobs.of_celery"])
app.conf.update(
    broker_url=os.environ.get("TENANTRY_TEST_BROKER"),
    result_backend=os.environ.get("TENANTRY_TEST_BROKER"),
    broker_connection_retry_on_startup=True,
    # What a worker publishes is for itself.
    task_default_queue=os.environ.get("TENANTRY_TEST_QUEUE", "celery"),
)
