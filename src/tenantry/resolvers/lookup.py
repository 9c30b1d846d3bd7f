"""Tenants by a field that people see, kept for a while."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db import transaction
from django.db.models.signals import post_delete, post_save

from ..conf import rls_tenants, tenant_model
from ..tenants import seeing_all
from .base import UNKNOWN

# More names than this are asked for only by somebody who makes them up.
KEPT = 10_000
# What no field of a name has, and PostgreSQL or a log would stumble over.
NO_NAME = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]|.{256}", re.DOTALL)


class TenantLookup:
    """Find the key of the tenant that has a value in a field, and keep the answer for a while.

    Saving or deleting a tenant in this process forgets all answers. Raises ValueError for a field
    or a filter that the tenant's model does not take.
    """

    def __init__(self, field: str, filter: Mapping[str, Any], seconds: float) -> None:  # noqa: A002
        self.field = field
        self.filter = filter
        self.seconds = seconds
        self.answers: dict[str, tuple[float, Any]] = {}
        self.try_out()
        # Not of all models: Django reads each row that it deletes where a signal may want it.
        for model in relatives(self.tenants().model):
            post_save.connect(self.forget, sender=model)
            post_delete.connect(self.forget, sender=model)

    def try_out(self) -> None:
        """Raise ValueError where no name could be found, or looking for one would fail."""
        try:
            # Only built, not run; "" need not be a valid value of the field.
            self.tenants().filter(**self.filter)
            self.query("")
        except (FieldError, TypeError, ValueError, ValidationError) as error:
            model = rls_tenants().tenant_model
            raise ValueError(
                f"{model} has no field {self.field!r}, or does not take the filter"
                f" {self.filter!r}: {error}"
            ) from error

    def find(self, name: str) -> Any:
        """Return the key of the tenant called `name`, or ``UNKNOWN``."""
        found = self.kept(name)
        if found is None:
            answers = self.answers
            with seeing_all():
                key = self.query(name).first()
            found = self.keep(answers, name, key)
        return found

    async def afind(self, name: str) -> Any:
        """Return what :meth:`find` does."""
        found = self.kept(name)
        if found is None:
            answers = self.answers
            with seeing_all():
                key = await self.query(name).afirst()
            found = self.keep(answers, name, key)
        return found

    def kept(self, name: str) -> Any:
        """Return an answer that is not too old, or None."""
        if NO_NAME.search(name):
            return UNKNOWN
        until, found = self.answers.get(name, (0.0, None))
        return found if time.monotonic() < until else None

    def tenants(self) -> Any:
        """Return the manager of the tenants."""
        return tenant_model()._default_manager

    def query(self, name: str) -> Any:
        """Return the queryset of the key."""
        tenants = self.tenants()
        try:
            found = tenants.filter(**self.filter, **{self.field: name})
        except (ValueError, ValidationError):  # Such as letters where the field is a number.
            found = tenants.none()
        return found.order_by().values_list("pk", flat=True)

    def keep(self, answers: dict[str, tuple[float, Any]], name: str, key: Any) -> Any:
        """Keep an answer in `answers`, which are those from before the database was asked."""
        found = UNKNOWN if key is None else key
        if len(answers) >= KEPT:
            answers.clear()
        # Where they have been forgotten in the meantime, nobody sees what is kept here.
        answers[name] = (time.monotonic() + self.seconds, found)
        return found

    def forget(self, *, using: str | None = None, **kwargs: Any) -> None:
        """Forget all answers, now and when the change is committed."""
        self.answers = {}
        # Until then others read, and would keep, what was before. Of a transaction that is managed
        # by hand, Django does not say when it is committed.
        with suppress(transaction.TransactionManagementError):
            transaction.on_commit(self._forget_now, using=using)

    def _forget_now(self) -> None:
        self.answers = {}


def relatives(model: Any) -> set[Any]:
    """Return the models that may save rows of `model`: it, its parents, and what inherits them."""
    found: set[Any] = set()
    left = [each for each in model.__mro__ if hasattr(each, "_meta") and not each._meta.abstract]
    while left:
        each = left.pop()
        found.add(each)
        left += each.__subclasses__()
    return found
