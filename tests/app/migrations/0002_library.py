import django.db.models.deletion
import tenantry
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("app", "0001_initial"),
        ("contenttypes", "0002_remove_content_type_name"),
    ]

    operations = [
        migrations.CreateModel(
            name="Item",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.TextField()),
                (
                    "replaces",
                    models.ForeignKey(
                        null=True, on_delete=django.db.models.deletion.SET_NULL, to="app.item"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Document",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("text", models.TextField()),
            ],
        ),
        migrations.CreateModel(
            name="Book",
            fields=[
                (
                    "item_ptr",
                    models.OneToOneField(
                        auto_created=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        parent_link=True,
                        primary_key=True,
                        serialize=False,
                        to="app.item",
                    ),
                ),
                ("pages", models.IntegerField()),
            ],
            options={
                "abstract": False,
            },
            bases=("app.item",),
        ),
        migrations.CreateModel(
            name="NewestFirst",
            fields=[],
            options={
                "ordering": ["-id"],
                "proxy": True,
                "indexes": [],
                "constraints": [],
            },
            bases=("app.item",),
        ),
        migrations.CreateModel(
            name="Invoice",
            fields=[
                (
                    "pk",
                    models.CompositePrimaryKey(
                        "tenant_id",
                        "number",
                        blank=True,
                        editable=False,
                        primary_key=True,
                        serialize=False,
                    ),
                ),
                ("number", models.IntegerField()),
                ("total", models.IntegerField(default=0)),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Payment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("number", models.IntegerField()),
                ("amount", models.IntegerField()),
                (
                    "invoice",
                    models.ForeignObject(
                        from_fields=("tenant", "number"),
                        on_delete=django.db.models.deletion.DO_NOTHING,
                        related_name="payments",
                        to="app.invoice",
                        to_fields=("tenant", "number"),
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Tag",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("name", models.TextField()),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.CreateModel(
            name="Tagging",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("weight", models.IntegerField(default=1)),
                (
                    "item",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="app.item"),
                ),
                (
                    "tag",
                    models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, to="app.tag"),
                ),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
            },
        ),
        migrations.AddField(
            model_name="item",
            name="tags",
            field=models.ManyToManyField(through="app.Tagging", to="app.tag"),
        ),
        migrations.CreateModel(
            name="Comment",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("text", models.TextField()),
                ("object_id", models.BigIntegerField()),
                (
                    "content_type",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, to="contenttypes.contenttype"
                    ),
                ),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
                "constraints": [
                    tenantry.RLSConstraint(
                        field="tenant",
                        guc_prefix="rls",
                        key_type="bigint",
                        name="app_comment_rls",
                        version=1,
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Contract",
            fields=[
                (
                    "document_ptr",
                    models.OneToOneField(
                        auto_created=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        parent_link=True,
                        primary_key=True,
                        serialize=False,
                        to="app.document",
                    ),
                ),
                ("value", models.IntegerField()),
                (
                    "tenant",
                    models.ForeignKey(db_default=tenantry.CurrentTenant(guc_prefix="rls", key_type="bigint"), on_delete=django.db.models.deletion.CASCADE, to="app.tenant"),
                ),
            ],
            options={
                "abstract": False,
            },
            bases=("app.document", models.Model),
        ),
        migrations.AddConstraint(
            model_name="invoice",
            constraint=tenantry.RLSConstraint(
                field="tenant",
                guc_prefix="rls",
                key_type="bigint",
                name="app_invoice_rls",
                version=1,
            ),
        ),
        migrations.AddConstraint(
            model_name="payment",
            constraint=tenantry.RLSConstraint(
                field="tenant",
                guc_prefix="rls",
                key_type="bigint",
                name="app_payment_rls",
                version=1,
            ),
        ),
        migrations.AddConstraint(
            model_name="tag",
            constraint=tenantry.RLSConstraint(
                field="tenant", guc_prefix="rls", key_type="bigint", name="app_tag_rls", version=1
            ),
        ),
        migrations.AddConstraint(
            model_name="tagging",
            constraint=tenantry.RLSConstraint(
                field="tenant",
                guc_prefix="rls",
                key_type="bigint",
                name="app_tagging_rls",
                version=1,
            ),
        ),
        migrations.AddConstraint(
            model_name="item",
            constraint=tenantry.RLSConstraint(
                field="tenant", guc_prefix="rls", key_type="bigint", name="app_item_rls", version=1
            ),
        ),
        migrations.AddConstraint(
            model_name="contract",
            constraint=tenantry.RLSConstraint(
                field="tenant",
                guc_prefix="rls",
                key_type="bigint",
                name="app_contract_rls",
                version=1,
            ),
        ),
    ]
