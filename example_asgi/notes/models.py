"""Tenants, their users, and the notes that PostgreSQL keeps apart."""

from django.contrib.auth.models import AbstractUser
from django.contrib.auth.models import UserManager as DjangoUserManager
from django.db import models

from tenantry import RLSProtectedModel


class Tenant(models.Model):
    """A customer. Everybody may read the list of customers: the table is shared."""

    name = models.CharField(max_length=100)
    slug = models.SlugField(unique=True)

    def __str__(self):
        return self.name

    @property
    def hue(self):
        """The colour of the tenant's badge, in degrees; neighbours look different."""
        return (self.pk * 137 + 130) % 360


class UserManager(DjangoUserManager):
    """Load a user with its tenant, whose name every page shows."""

    use_in_migrations = False

    def get_queryset(self):
        """Return the users, each with its tenant."""
        return super().get_queryset().select_related("tenant")


class User(AbstractUser):
    """Somebody of a tenant, or an administrator of all. Shared: a login finds the tenant by it."""

    tenant = models.ForeignKey(Tenant, on_delete=models.CASCADE, null=True, blank=True)
    is_tenant_admin = models.BooleanField(default=False)

    objects = UserManager()

    @property
    def rls_tenant_id(self):
        """The tenant that this user's requests run as."""
        return self.tenant_id


class Tag(RLSProtectedModel):
    """A label; two tenants may use the same one without knowing of each other."""

    name = models.CharField(max_length=50)

    class Meta:
        ordering = ["name"]
        constraints = [
            models.UniqueConstraint(fields=["tenant", "name"], name="notes_tag_tenant_name")
        ]

    def __str__(self):
        return self.name


class Note(RLSProtectedModel):
    """What somebody of a tenant wrote down."""

    title = models.CharField(max_length=200)
    body = models.TextField()
    author = models.ForeignKey(User, on_delete=models.PROTECT)
    created_at = models.DateTimeField(auto_now_add=True)
    tags = models.ManyToManyField(Tag, through="NoteTag", blank=True)

    class Meta:
        ordering = ["-created_at", "-pk"]
        indexes = [models.Index(fields=["tenant", "-created_at"], name="notes_note_tenant_created")]

    def __str__(self):
        return self.title


class NoteTag(RLSProtectedModel):
    """A tag on a note; explicit, so that its table has a column and an index for the tenant."""

    note = models.ForeignKey(Note, on_delete=models.CASCADE)
    tag = models.ForeignKey(Tag, on_delete=models.CASCADE)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["tenant", "note", "tag"], name="notes_notetag_once")
        ]

    def __str__(self):
        return f"{self.note_id}: {self.tag_id}"
