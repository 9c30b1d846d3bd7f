from django.db import migrations

import tenantry
from tenantry.operations import ValidateSameTenant


class Migration(migrations.Migration):
    dependencies = [("app", "0002_library")]
    operations = [
        migrations.AddConstraint(
            "note", tenantry.SameTenant(field="author", name="note_author_same")
        ),
        ValidateSameTenant("note", "note_author_same"),
    ]
