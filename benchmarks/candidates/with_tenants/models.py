from django_tenants.models import DomainMixin, TenantMixin

from benchmarks.candidates import shape


class Tenant(TenantMixin, shape.Tenant):
    class Meta:
        db_table = "tenant"


class Domain(DomainMixin):
    class Meta:
        db_table = "domain"


class Author(shape.Author):
    class Meta:
        db_table = "author"


class Category(shape.Category):
    class Meta:
        db_table = "category"


class Note(shape.Note):
    class Meta:
        db_table = "note"
        indexes = [shape.recent()]


class Event(shape.Event):
    class Meta:
        db_table = "event"
