from django.db import models
from django_multitenant.fields import TenantForeignKey
from django_multitenant.models import TenantModel

from benchmarks.candidates import shape


class Tenant(TenantModel, shape.Tenant):
    class Meta:
        db_table = "tenant"

    class TenantMeta:
        tenant_field_name = "id"


class Scoped(TenantModel):
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

    class Meta:
        abstract = True

    class TenantMeta:
        tenant_field_name = "tenant_id"


class Author(Scoped, shape.Author):
    class Meta:
        db_table = "author"


class Category(Scoped, shape.Category):
    class Meta:
        db_table = "category"


class Note(Scoped, shape.Note):
    author = TenantForeignKey(Author, models.CASCADE, related_name="+")
    category = TenantForeignKey(Category, models.CASCADE, related_name="+")

    class Meta:
        db_table = "note"
        indexes = [shape.recent("tenant")]


class Event(Scoped, shape.Event):
    class Meta:
        db_table = "event"
