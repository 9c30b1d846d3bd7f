"""Rows of every kind of model, the same for two tenants but for their names."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest
from django.contrib.contenttypes.models import ContentType

from tests.app.models import Item, Tenant

# Names start with the tenant's; "{}" is its key.
LIBRARY = """
UPDATE app_note SET author_id = NULL,
  parent_id = (SELECT id FROM app_note WHERE title = $tenant$ || ' 1')
  WHERE title = $tenant$ || ' 2';
INSERT INTO app_shared (text, note_id)
  SELECT 'on ' || title, id FROM app_note WHERE tenant_id = {};
INSERT INTO "Odd table" (code, text, cust_no) VALUES (gen_random_uuid(), $tenant$ || ' label', {});
INSERT INTO app_tag (name, tenant_id)
  SELECT format('%s %s', $tenant$, name), {} FROM unnest('{{red,blue}}'::text[]) name;
INSERT INTO app_item (name, tenant_id)
  SELECT format('%s %s', $tenant$, name), {} FROM unnest('{{old,new,book}}'::text[]) name;
UPDATE app_item SET replaces_id = (SELECT id FROM app_item WHERE name = $tenant$ || ' old')
  WHERE name = $tenant$ || ' new';
INSERT INTO app_book (item_ptr_id, pages)
  SELECT id, {} * 10 FROM app_item WHERE name = $tenant$ || ' book';
INSERT INTO app_tagging (item_id, tag_id, weight, tenant_id)
  SELECT i.id, t.id, 2, {} FROM app_item i, app_tag t
  WHERE (i.name, t.name) IN (
    ($tenant$ || ' old', $tenant$ || ' red'),
    ($tenant$ || ' new', $tenant$ || ' red'),
    ($tenant$ || ' new', $tenant$ || ' blue'));
INSERT INTO app_comment (text, content_type_id, object_id, tenant_id)
  SELECT 'about ' || name, $type$, id, {} FROM app_item WHERE name = $tenant$ || ' old';
INSERT INTO app_invoice (tenant_id, number, total) VALUES ({}, 1, 30), ({}, 2, 40);
WITH document AS (
    INSERT INTO app_document (text) VALUES ($tenant$ || ' document') RETURNING id)
  INSERT INTO app_contract (document_ptr_id, tenant_id, value) SELECT id, {}, 5 FROM document;
INSERT INTO app_payment (tenant_id, number, amount) VALUES ({}, 1, 10), ({}, 1, 20);
"""


@pytest.fixture
def library(
    tenants: tuple[Tenant, Tenant], superuser: psycopg.Connection[Any]
) -> tuple[Tenant, Tenant]:
    """Return the two tenants, with rows in every table."""
    content_type = ContentType.objects.get_for_model(Item)
    for tenant in tenants:
        sql = LIBRARY.format(*[tenant.pk] * LIBRARY.count("{}"))
        sql = sql.replace("$tenant$", f"'{tenant.name}'").replace("$type$", str(content_type.pk))
        superuser.execute(sql.encode())
    return tenants
