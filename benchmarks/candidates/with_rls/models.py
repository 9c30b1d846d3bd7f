from django.db import models
from django_rls.models import RLSModel
from django_rls.policies import TenantPolicy

from benchmarks.candidates import shape


class Tenant(shape.Tenant):
    class Meta:
        db_table = "tenant"


class Scoped(RLSModel):
    tenant = models.ForeignKey(Tenant, models.CASCADE, related_name="+")

    class Meta:
        abstract = True


class Author(Scoped, shape.Author):
    class Meta:
        db_table = "author"
        rls_policies = [TenantPolicy("author_tenant", tenant_field="tenant")]


class Category(Scoped, shape.Category):
    class Meta:
        db_table = "category"
        rls_policies = [TenantPolicy("category_tenant", tenant_field="tenant")]


class Note(Scoped, shape.Note):
    class Meta:
        db_table = "note"
        indexes = [shape.recent("tenant")]
        rls_policies = [TenantPolicy("note_tenant", tenant_field="tenant")]


class Event(Scoped, shape.Event):
    class Meta:
        db_table = "event"
        rls_policies = [TenantPolicy("event_tenant", tenant_field="tenant")]
