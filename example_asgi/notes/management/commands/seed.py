"""``manage.py seed``: tenants, users and notes to look at."""

from django.contrib.auth.hashers import make_password
from django.core.management.base import BaseCommand
from django.db import transaction

from tenantry import tenant_context

from ...models import Note, NoteTag, Tag, Tenant, User
from ...sampledata import ADMIN, PASSWORD, SAMPLES, texts


class Command(BaseCommand):
    """Create what is missing of the sample data, as the role that the application uses."""

    help = "Create the sample tenants, their users and their notes, unless they are there."

    def handle(self, *args, **options):
        """Create the tenants and users, then the notes of each tenant in its own scope."""
        with transaction.atomic():
            tenants = [ensure_tenant(sample) for sample in SAMPLES]
            ensure_users(tenants)
        created = 0
        for sample, tenant in zip(SAMPLES, tenants, strict=True):
            with tenant_context(tenant.pk), transaction.atomic():
                created += write_notes(sample)
        self.stdout.write(f"{len(tenants)} tenants, {created} new notes")


def ensure_tenant(sample):
    """Return the tenant of a sample."""
    return Tenant.objects.get_or_create(slug=sample.slug, defaults={"name": sample.name})[0]


def ensure_users(tenants):
    """Create the users that are missing; all may use Django's admin, each for its own tenant."""
    staff = {"is_staff": True, "is_superuser": True}
    wanted = [
        User(username=sample.username, tenant=tenant, **staff)
        for sample, tenant in zip(SAMPLES, tenants, strict=True)
    ]
    wanted.append(User(username=ADMIN, is_tenant_admin=True, **staff))
    known = set(User.objects.values_list("username", flat=True))
    missing = [user for user in wanted if user.username not in known]
    if missing:
        # One hash for all, because a good hash is slow to make.
        password = make_password(PASSWORD)
        for user in missing:
            user.password = password
        User.objects.bulk_create(missing)


def write_notes(sample):
    """Write the current tenant's notes, unless it has some, and return how many are new."""
    if Note.objects.exists():
        return 0
    author = User.objects.get(username=sample.username)
    tags = Tag.objects.bulk_create([Tag(name=name) for name in sample.tags])
    contents = list(texts(sample))
    notes = Note.objects.bulk_create(
        [Note(author=author, title=title, body=body) for title, body, _ in contents]
    )
    # Afterwards, because creation always writes the present time.
    for note, (_, _, created_at) in zip(notes, contents, strict=True):
        note.created_at = created_at
    Note.objects.bulk_update(notes, ["created_at"])
    NoteTag.objects.bulk_create(
        NoteTag(note=note, tag=tag)
        for index, note in enumerate(notes)
        for tag in {tags[index % len(tags)], tags[index // 3 % len(tags)]}
    )
    return len(notes)
