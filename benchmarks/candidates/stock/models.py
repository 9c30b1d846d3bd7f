from django.db import models

from benchmarks.candidates import shape


class Tenant(shape.Tenant):
    class Meta:
        db_table = "tenant"


class Scoped(models.Model):
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

    class Meta:
        abstract = True


class Author(Scoped, shape.Author):
    class Meta:
        db_table = "author"


class Category(Scoped, shape.Category):
    class Meta:
        db_table = "category"


class Note(Scoped, shape.Note):
    class Meta:
        db_table = "note"
        indexes = [shape.recent("tenant")]


class Event(Scoped, shape.Event):
    class Meta:
        db_table = "event"
