"""Models of every kind that the admin treats in its own way; installed by its tests only."""

from __future__ import annotations

from django.contrib.contenttypes.fields import GenericForeignKey
from django.contrib.contenttypes.models import ContentType
from django.db import models

from tenantry import RLSConstraint, RLSProtectedModel
from tests.app.models import Tenant


class Firm(RLSProtectedModel):
    name = models.CharField(max_length=50)
    logo = models.FileField(upload_to="logos", blank=True)

    class Meta:
        app_label = "desk"
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="firm_name")]

    def __str__(self) -> str:
        return self.name


class Offer(RLSProtectedModel):
    title = models.CharField(max_length=50)
    made = models.DateField()
    state = models.CharField(max_length=9, default="new")
    firm = models.ForeignKey(Firm, on_delete=models.CASCADE)
    others: models.ManyToManyField[Firm, models.Model] = models.ManyToManyField(
        Firm, related_name="+", blank=True
    )

    class Meta:
        app_label = "desk"
        ordering = ["title"]

    def __str__(self) -> str:
        return self.title


class Line(RLSProtectedModel):
    """A part of an offer; a tenant has one with each text."""

    offer = models.ForeignKey(Offer, on_delete=models.CASCADE)
    supplier = models.ForeignKey(Firm, null=True, blank=True, on_delete=models.CASCADE)
    text = models.CharField(max_length=50)

    class Meta:
        app_label = "desk"
        unique_together = [("tenant", "text")]

    def __str__(self) -> str:
        return self.text


class Slip(models.Model):
    """A part of an offer, which is all that says whose it is."""

    offer = models.ForeignKey(Offer, on_delete=models.CASCADE)
    supplier = models.ForeignKey(Firm, null=True, blank=True, on_delete=models.CASCADE)
    after = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE)

    class Meta:
        app_label = "desk"
        constraints = [RLSConstraint(path="offer__tenant")]

    def __str__(self) -> str:
        return f"Slip of {self.offer}"


class Remark(models.Model):
    """About an object of any model; the database does not stamp it."""

    customer = models.ForeignKey(Tenant, null=True, blank=True, on_delete=models.CASCADE)
    text = models.CharField(max_length=50)
    content_type = models.ForeignKey(ContentType, on_delete=models.CASCADE)
    object_id = models.BigIntegerField()
    about = GenericForeignKey()

    class Meta:
        app_label = "desk"
        constraints = [RLSConstraint(field="customer")]

    def __str__(self) -> str:
        return self.text


class Badge(RLSProtectedModel):
    """The only one of its tenant."""

    text = models.CharField(max_length=50)

    class Meta:
        app_label = "desk"
        constraints = [models.UniqueConstraint(fields=["tenant"], name="badge_tenant")]

    def __str__(self) -> str:
        return self.text


class Seal(models.Model):
    """The only one of its tenant, which says so in another way."""

    customer = models.OneToOneField(Tenant, on_delete=models.CASCADE)
    text = models.CharField(max_length=50)

    class Meta:
        app_label = "desk"
        constraints = [RLSConstraint(field="customer")]

    def __str__(self) -> str:
        return self.text


class Folder(models.Model):
    """Shared by all tenants."""

    name = models.CharField(max_length=50)

    class Meta:
        app_label = "desk"

    def __str__(self) -> str:
        return self.name


class Sheet(RLSProtectedModel):
    """A row of a tenant in what all share."""

    folder = models.ForeignKey(Folder, on_delete=models.CASCADE)
    text = models.CharField(max_length=50)

    class Meta:
        app_label = "desk"

    def __str__(self) -> str:
        return self.text
