from benchmarks.candidates import shape
from tenantry import RLSProtectedModel


class Tenant(shape.Tenant):
    class Meta:
        db_table = "tenant"


class Author(shape.Author, RLSProtectedModel):
    class Meta(RLSProtectedModel.Meta):
        db_table = "author"


class Category(shape.Category, RLSProtectedModel):
    class Meta(RLSProtectedModel.Meta):
        db_table = "category"


class Note(shape.Note, RLSProtectedModel):
    class Meta(RLSProtectedModel.Meta):
        db_table = "note"
        indexes = [shape.recent("tenant")]


class Event(shape.Event, RLSProtectedModel):
    class Meta(RLSProtectedModel.Meta):
        db_table = "event"
