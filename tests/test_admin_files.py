"""Files that are uploaded in the admin: each is saved where those of the row's tenant are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import models

from tenantry import admin_context
from tenantry.contrib.admin.forms import save_files
from tenantry.contrib.storage import TenantFileSystemStorage
from tenantry.exceptions import NoTenantContextError
from tests.desk.models import Firm
from tests.fix_admin import Browser, Desk
from tests.test_admin import inline

Desks = tuple[Desk, Desk]


class Upload(models.Model):
    """Belongs to no tenant, and so does its file."""

    file = models.FileField(storage=TenantFileSystemStorage())

    class Meta:
        # Of no app whose migrations would have to have it.
        app_label = "uploaded"
        managed = False


@pytest.fixture
def files(tmp_path: Path, settings: Any) -> Path:
    """Give each tenant a directory in the one that is returned."""
    settings.MEDIA_ROOT = tmp_path
    backend = {"BACKEND": "tenantry.contrib.storage.TenantFileSystemStorage"}
    settings.STORAGES = {**settings.STORAGES, "default": backend}
    return tmp_path


def logo(text: bytes) -> SimpleUploadedFile:
    return SimpleUploadedFile("logo.txt", text)


def logos() -> dict[str, str]:
    with admin_context():
        return dict(Firm.objects.exclude(logo="").values_list("name", "logo"))


@pytest.mark.parametrize("who", ["member", "chief"])
def test_a_file_is_saved_in_the_directory_of_the_rows_tenant(
    who: str, desks: Desks, files: Path, request: pytest.FixtureRequest
) -> None:
    browser: Browser = request.getfixturevalue(who)
    firm, tenant = desks[0].firm, desks[0].tenant
    own = f"tenants/{tenant.pk}/logos/"
    form: dict[str, Any] = {"name": "New", "logo": logo(b"one"), "tenant": tenant.pk}
    browser.send("desk/firm/add/", "was added", **form)
    assert logos() == {"New": f"{own}logo.txt"}
    # And that of a row which is there.
    form = {"name": firm.name, "logo": logo(b"two")}
    browser.send(f"desk/firm/{firm.pk}/change/", "was changed", **form)
    assert logos()[firm.name].startswith(own)
    assert [(files / path).read_bytes() for path in logos().values()] in (
        [b"one", b"two"],
        [b"two", b"one"],
    )


def test_a_file_of_an_inline_is_saved_in_the_directory_of_its_tenant(
    chief: Browser, desks: Desks, files: Path
) -> None:
    b = desks[1].tenant
    firms = {"0-name": "New", "0-logo": logo(b"one")}
    form = {"name": "B", **inline("firm_set", firms)}
    chief.send(f"app/tenant/{b.pk}/change/", "was changed", **form)
    assert logos() == {"New": f"tenants/{b.pk}/logos/logo.txt"}


def test_no_file_is_saved_while_a_form_is_wrong(chief: Browser, desks: Desks, files: Path) -> None:
    firm, tenant = desks[0].firm, desks[0].tenant
    wrong: dict[str, Any] = {"name": firm.name, "logo": logo(b"one"), "tenant": tenant.pk}
    chief.send("desk/firm/add/", "already exists", **wrong)
    firms = {"0-name": firm.name, "0-logo": logo(b"one")}
    form = {"name": "A", **inline("firm_set", firms)}
    chief.send(f"app/tenant/{tenant.pk}/change/", "already exists", **form)
    assert not [*files.iterdir()]


@pytest.mark.usefixtures("admin_site")
def test_a_file_of_the_tenant_itself_is_saved_in_its_directory(
    files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenantry.contrib.admin.fields.tenant_model", lambda: Upload)
    upload = Upload(pk=7, file=ContentFile(b"a logo", name="logo.txt"))
    with admin_context():
        save_files(upload)
    assert upload.file.name == "tenants/7/logo.txt"
    assert (files / upload.file.name).read_bytes() == b"a logo"


@pytest.mark.usefixtures("admin_site")
def test_a_file_of_no_tenant_is_not_saved() -> None:
    upload = Upload(file=ContentFile(b"", name="plan.txt"))
    with admin_context():
        save_files(upload)
        assert upload.file.name == "plan.txt"
        with pytest.raises(NoTenantContextError, match="cannot tell whose file"):
            upload.save()
