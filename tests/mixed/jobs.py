"""Jobs, and the worker's app: ``celery -A tests.mixed.jobs worker``."""

from __future__ import annotations

import os

import django
from celery import Celery
from django.conf import settings

from tenantry.contrib.celery import TenantTask

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.mixed.settings")
if "celery" in os.path.basename(os.environ.get("TENANTRY_TEST_PROGRAM", "")):
    django.setup()

app = Celery("mixed", task_cls=TenantTask)
app.conf.update(
    broker_url=settings.BROKER,
    result_backend=settings.BROKER,
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
)


@app.task
def look(fail: bool = False) -> list[dict[str, str]]:
    """Return whose notes there are, or fail after a look at them."""
    from notes.models import Note

    slugs = Note.objects.order_by("tenant__slug").values_list("tenant__slug", flat=True)
    found = [{"tenant": slug} for slug in slugs.distinct()]
    if fail:
        raise LookupError("asked for")
    return found


@app.task
def look_again(before: list[dict[str, str]]) -> list[dict[str, str]]:
    """Return what was seen before, and what is seen now."""
    return before + look()
