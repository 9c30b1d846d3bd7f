from boundary.models import AbstractTenant, TenantModel

from benchmarks.candidates import shape


class Tenant(AbstractTenant):
    class Meta:
        db_table = "tenant"


class Author(TenantModel, shape.Author):
    class Meta:
        db_table = "author"


class Category(TenantModel, shape.Category):
    class Meta:
        db_table = "category"


class Note(TenantModel, shape.Note):
    class Meta:
        db_table = "note"
        indexes = [shape.recent("tenant")]


class Event(TenantModel, shape.Event):
    class Meta:
        db_table = "event"
