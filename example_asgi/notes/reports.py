"""Reports in plain SQL, where no ORM could add a filter: none of them names a tenant to keep to."""

from django.db import connection

from .models import Tenant

PER_AUTHOR = """\
SELECT note.tenant_id, author.username, count(*), max(note.created_at)
FROM notes_note AS note
JOIN notes_user AS author ON author.id = note.author_id
GROUP BY note.tenant_id, author.username
ORDER BY count(*) DESC, author.username"""

PER_TAG = """\
SELECT tag.tenant_id, tag.name, count(*), max(note.created_at)
FROM notes_tag AS tag
JOIN notes_notetag AS notetag ON notetag.tag_id = tag.id
JOIN notes_note AS note ON note.id = notetag.note_id
GROUP BY tag.tenant_id, tag.name
ORDER BY count(*) DESC, tag.name, tag.tenant_id"""

REPORTS = {"Author": PER_AUTHOR, "Tag": PER_TAG}


def run_reports():
    """Run every report and return what it is about, its SQL and its rows."""
    tenants = Tenant.objects.in_bulk()
    results = []
    with connection.cursor() as cursor:
        for subject, sql in REPORTS.items():
            cursor.execute(sql)
            rows = [
                {"tenant": tenants[tenant_id], "name": name, "notes": notes, "latest": latest}
                for tenant_id, name, notes, latest in cursor
            ]
            results.append({"subject": subject, "sql": sql, "rows": rows})
    return results
