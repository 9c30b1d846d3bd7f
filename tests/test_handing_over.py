"""A project of django-rls-tenants hands its policies over, as the guide says."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

import psycopg
import pytest

from tests.fix_docs import SESSION
from tests.fix_site import ROWS, Run, Site
from tests.test_migrating import (
    BEFORE,
    FOREIGN_KEYS,
    MIGRATE,
    STOCK,
    build,
    edit_migration,
    fill,
    found,
)

pytestmark = [pytest.mark.guc_shape, pytest.mark.slow]

MODELS = """\
from django.db import models
from django_rls_tenants import RLSProtectedModel


class Contact(RLSProtectedModel):
    name = models.TextField()
    readers = models.ManyToManyField("notes.User")

    class Meta(RLSProtectedModel.Meta):
        pass
"""
FILLED = f"""\
INSERT INTO crm_contact (tenant_id, name)
  SELECT 1 + n % 2, 'contact ' || n FROM generate_series(1, {ROWS}) n;
INSERT INTO crm_contact_readers (contact_id, user_id)
  SELECT n, (SELECT min(id) FROM notes_user) FROM generate_series(1, {ROWS // 10}) n;
"""
OLD_POLICY_NEW_BINDING = f"""\
>>> from crm.models import Contact
>>> from tenantry import tenant_context
>>> Contact.objects.count()
0
>>> with tenant_context(1):
...     Contact.objects.count(), Contact.readers.through.objects.count()
({ROWS // 2}, {ROWS // 20})
"""
# WITH CHECK is what USING says where a policy has none.
POLICIES = """\
SELECT tablename::text, policyname::text, permissive, roles, cmd, qual, coalesce(with_check, qual)
FROM pg_policies WHERE starts_with(tablename::text, 'crm_contact') ORDER BY 1, 2"""

NAMES = """\
SELECT polname::text FROM pg_policy JOIN pg_class c ON c.oid = polrelid
WHERE starts_with(relname::text, 'crm_contact') ORDER BY relname"""


def policies_of_contacts(served: Site) -> list[Any]:
    """Return them, once it is sure that tenants see their own rows only."""
    for table, rows in (("crm_contact", ROWS), ("crm_contact_readers", ROWS // 10)):
        assert [served.seen(table, tenant) for tenant in ("", 1, 2)] == [0, rows / 2, rows / 2]
        assert served.seen(table, admin=True) == rows
    return found(served, POLICIES)


def test_tables_of_django_rls_tenants_stay_protected(served: Site) -> None:
    settings = BEFORE.format(engine=STOCK, apps='"django_rls_tenants", "crm"')
    build(served, MODELS, settings, "migrate crm", "setup_m2m_rls")
    fill(served, FILLED)
    edit_migration(served, "django_rls_tenants", (r"^ *'constraints': \[django_rls.*\n", ""))
    old, keys = found(served, POLICIES), found(served, FOREIGN_KEYS)
    assert [policy[:2] for policy in old] == [
        ("crm_contact", "crm_contact_tenant_isolation_policy"),
        ("crm_contact_readers", "crm_contact_readers_m2m_rls_policy"),
    ]

    def hand_over(run: Run) -> str:
        """Hold the migration when all of its statements are done and nothing is committed."""
        served.reader.run([sys.executable, "-W", "error", "-c", SESSION], OLD_POLICY_NEW_BINDING)
        assert policies_of_contacts(served) == old
        with psycopg.connect(served.superuser.info.dsn) as other:
            other.execute("LOCK django_migrations IN SHARE MODE")
            with served.started(MIGRATE.removeprefix("$ ")) as process:
                served.waiting()
                for table in ("crm_contact", "crm_contact_readers"):
                    with pytest.raises(psycopg.errors.LockNotAvailable):
                        served.seen(table, 1)
                # To print a policy would wait for the table.
                assert found(served, NAMES) == [policy[1:2] for policy in old]
                other.rollback()
                output, _ = process.communicate(timeout=60)
        assert process.returncode == 0, output
        return run()

    reader = replace(served.reader, around={"migrate crm": hand_over})
    reader.follow("how-to/migrate-from-django-rls-tenants.md")
    new = policies_of_contacts(served)
    assert [policy[1] for policy in new] == ["tenantry_isolation"] * 2
    served.reader.run_commands(f"{MIGRATE.strip()} 0001\n")
    assert policies_of_contacts(served) == old
    served.reader.run_commands(MIGRATE)
    assert policies_of_contacts(served) == new
    assert found(served, FOREIGN_KEYS) == keys, "all rows were checked under the lock"
