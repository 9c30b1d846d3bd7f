"""Labels of models in the settings: whether there are such models."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping

from django.apps import apps

from ..conf import rls_tenants
from .findings import Finding


def inspect_labels() -> Iterator[Finding]:
    """Yield labels that name nothing, and so do nothing.

    Those that could not do without a model are refused when Django starts.
    """
    settings = rls_tenants()
    models = [model._meta.label for model in apps.get_models(include_auto_created=True)]
    configs = [config.label for config in apps.get_app_configs()]
    # As they are compared: the ones in any case, the others as they are written.
    shared = {label.lower(): label for label in models}
    wanted = [label for label in settings.shared_models if label.lower() not in shared]
    yield from unknown("SHARED_MODELS", wanted, shared)
    excluded = {label.lower(): label for label in [*models, *configs]}
    wanted = [each for each in settings.strict_mode_exclude if each not in excluded.values()]
    yield from unknown("STRICT_MODE_EXCLUDE", wanted, excluded)


def unknown(key: str, labels: Iterable[str], known: Mapping[str, str]) -> Iterator[Finding]:
    """Yield a finding for each of `labels`; `known` are those that there are, by lower case."""
    for label in labels:
        close = difflib.get_close_matches(label.lower(), known, 1)
        yield Finding(
            "tenantry.W157",
            f"RLS_TENANTS[{key!r}]",
            f"names {label!r}, which is not installed",
            f"write {known[close[0]]!r}" if close else "correct it, or remove it",
        )
