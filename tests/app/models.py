"""Models of the test project: two tenants, and tables of every shape that is protected."""

from __future__ import annotations

import uuid

from django.contrib.auth.models import AbstractUser
from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

from tenantry import RLSConstraint, RLSManager, RLSProtectedModel


class Tenant(models.Model):
    name = models.TextField(unique=True)


class User(AbstractUser):
    tenant = models.ForeignKey(Tenant, null=True, on_delete=models.CASCADE)
    is_tenant_admin = models.BooleanField(default=False)

    @property
    def rls_tenant_id(self) -> int | None:
        return self.tenant_id


class Author(RLSProtectedModel):
    name = models.TextField()


class Note(RLSProtectedModel):
    title = models.TextField()
    author = models.ForeignKey(Author, null=True, on_delete=models.SET_NULL)
    parent = models.ForeignKey("self", null=True, on_delete=models.CASCADE)

    # On purpose without the parent's Meta.
    class Meta:
        ordering = ["id"]
        indexes = [models.Index(fields=["tenant", "title"])]
        constraints = [models.UniqueConstraint(fields=["tenant", "title"], name="note_title")]


class Label(models.Model):
    """Uses RLSConstraint with a key, a field and columns of its own names."""

    code = models.UUIDField(primary_key=True, default=uuid.uuid4)
    text = models.TextField()
    customer = models.ForeignKey(Tenant, on_delete=models.CASCADE, db_column="cust_no")

    objects = RLSManager()

    class Meta:
        db_table = "Odd table"
        constraints = [RLSConstraint(field="customer")]


class Shared(models.Model):
    """A table that is not protected."""

    text = models.TextField()
    note = models.ForeignKey(Note, null=True, on_delete=models.CASCADE)


class Tag(RLSProtectedModel):
    name = models.TextField()


class Comment(RLSProtectedModel):
    """About an object of any model."""

    text = models.TextField()
    content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE)
    object_id = models.BigIntegerField()
    about = GenericForeignKey()


class Item(RLSProtectedModel):
    name = models.TextField()
    replaces = models.ForeignKey("self", null=True, on_delete=models.SET_NULL)
    tags: models.ManyToManyField[Tag, Tagging] = models.ManyToManyField(Tag, through="Tagging")
    comments = GenericRelation(Comment)


class Tagging(RLSProtectedModel):
    item = models.ForeignKey(Item, on_delete=models.CASCADE)
    tag = models.ForeignKey(Tag, on_delete=models.CASCADE)
    weight = models.IntegerField(default=1)


class Book(Item):
    """Has a table of its own, without the tenant and so without protection."""

    pages = models.IntegerField()


class Document(models.Model):
    """Not protected, but what is below is."""

    text = models.TextField()


class Contract(RLSProtectedModel, Document):  # type: ignore[misc]
    value = models.IntegerField()


class NewestFirst(Item):
    class Meta:
        proxy = True
        ordering = ["-id"]


class Invoice(RLSProtectedModel):
    pk = models.CompositePrimaryKey("tenant_id", "number")
    number = models.IntegerField()
    total = models.IntegerField(default=0)


class Payment(RLSProtectedModel):
    number = models.IntegerField()
    amount = models.IntegerField()
    invoice = models.ForeignObject(
        Invoice,
        on_delete=models.DO_NOTHING,
        from_fields=("tenant", "number"),
        to_fields=("tenant", "number"),
        related_name="payments",
    )
