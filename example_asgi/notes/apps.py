"""The notes app."""

from django.apps import AppConfig


class NotesConfig(AppConfig):
    """Notes of several tenants in one table."""

    name = "notes"
