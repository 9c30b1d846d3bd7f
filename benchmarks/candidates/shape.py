"""The columns that every candidate's tables have; the tenant is added as each candidate does it."""

from __future__ import annotations

from django.db import models


class Tenant(models.Model):
    name = models.TextField()
    slug = models.SlugField(unique=True)

    class Meta:
        abstract = True


class Author(models.Model):
    name = models.TextField()

    class Meta:
        abstract = True


class Category(models.Model):
    name = models.TextField()

    class Meta:
        abstract = True


class Note(models.Model):
    author = models.ForeignKey("Author", models.CASCADE, related_name="+")
    category = models.ForeignKey("Category", models.CASCADE, related_name="+")
    title = models.TextField()
    created_at = models.DateTimeField()

    class Meta:
        abstract = True


class Event(models.Model):
    """What is inserted, apart from what is read."""

    name = models.TextField()

    class Meta:
        abstract = True


def recent(*fields: str) -> models.Index:
    """Return the index that the newest notes are found by."""
    return models.Index(fields=[*fields, "-created_at"], name="note_recent")
