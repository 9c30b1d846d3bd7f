"""Files: what one tenant saves, no other reaches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import SuspiciousFileOperation
from django.core.files.base import ContentFile
from django.core.files.storage import FileSystemStorage, InMemoryStorage
from django.db import models
from hypothesis import given
from hypothesis import strategies as st

from tenantry import admin_context, tenant_context
from tenantry.binding import Binding
from tenantry.context import Scope
from tenantry.contrib.storage import TenantFileSystemStorage, TenantStorageMixin
from tenantry.exceptions import NoTenantContextError
from tenantry.naming import name_of


class TenantInMemoryStorage(TenantStorageMixin, InMemoryStorage):
    """Another storage than that of files."""


@pytest.fixture(params=[TenantFileSystemStorage, TenantInMemoryStorage])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return request.param(location=str(tmp_path), base_url="/media/")


def read(storage: Any, name: str) -> bytes:
    with storage.open(name) as file:
        return bytes(file.read())


def test_each_tenant_has_files_of_its_own(storage: Any) -> None:
    names = {}
    for tenant in (1, 2):
        with tenant_context(tenant):
            names[tenant] = storage.save("logos/logo.png", ContentFile(b"of %d" % tenant))
            again = storage.save("logos/logo.png", ContentFile(b"another"))
            assert again != names[tenant]
    assert names == {1: "tenants/1/logos/logo.png", 2: "tenants/2/logos/logo.png"}
    for tenant in (1, 2):
        with tenant_context(tenant):
            # By the name in the row, and by what the file was saved as.
            for name in (names[tenant], "logos/logo.png"):
                assert read(storage, name) == b"of %d" % tenant
                assert storage.exists(name)
                assert storage.size(name) == 4
                assert storage.url(name) == f"/media/tenants/{tenant}/logos/logo.png"
                assert storage.get_modified_time(name) >= storage.get_created_time(name)
                assert storage.get_accessed_time(name)
            assert storage.listdir("") == (["logos"], [])
            assert len(storage.listdir("logos")[1]) == 2


class Signing(InMemoryStorage):
    """A storage whose URLs have options, as those of other packages."""

    def url(self, name: str | None, expire: int = 0) -> str:
        return f"{name}?expire={expire}"


def test_options_of_a_url_are_passed_on(tmp_path: Path) -> None:
    class TenantSigning(TenantStorageMixin, Signing):
        pass

    with tenant_context(1):
        assert TenantSigning().url("logo.png", expire=5) == "tenants/1/logo.png?expire=5"


ASKED = {
    "open": lambda storage, name: storage.open(name),
    "save": lambda storage, name: storage.save(name, ContentFile(b"")),
    "delete": lambda storage, name: storage.delete(name),
    "exists": lambda storage, name: storage.exists(name),
    "listdir": lambda storage, name: storage.listdir(name),
    "size": lambda storage, name: storage.size(name),
    "url": lambda storage, name: storage.url(name),
    "accessed": lambda storage, name: storage.get_accessed_time(name),
    "created": lambda storage, name: storage.get_created_time(name),
    "modified": lambda storage, name: storage.get_modified_time(name),
    "generate_filename": lambda storage, name: storage.generate_filename(name),
}
FOREIGN = [
    "tenants/2/secret.txt",
    "tenants/1/../2/secret.txt",
    "tenants/../tenants/2/secret.txt",
    "./tenants/2/secret.txt",
    "tenants\\2\\secret.txt",
    "tenants//2/secret.txt",
    "../2/secret.txt",
    "../../secret.txt",
    "/etc/passwd",
    "..",
    "tenants",
    "tenants/10/secret.txt",
    "tenants/1x/secret.txt",
]


@pytest.mark.parametrize("ask", ASKED)
def test_a_tenant_does_not_reach_what_is_not_its_own(ask: str, storage: Any) -> None:
    for tenant in (1, 2, 10):
        with tenant_context(tenant):
            storage.save("secret.txt", ContentFile(b"secret"))
    for name in FOREIGN:
        with tenant_context(1), pytest.raises(SuspiciousFileOperation):
            ASKED[ask](storage, name)
    with tenant_context(2):
        assert read(storage, "secret.txt") == b"secret"


def test_a_storage_before_the_mixin_is_refused() -> None:
    said = r"Late has InMemoryStorage before .* write: class Late\(TenantStorageMixin, InMemoryS"
    with pytest.raises(TypeError, match=said):

        class Late(InMemoryStorage, TenantStorageMixin):
            pass

    class Own(TenantInMemoryStorage):
        pass

    with tenant_context(1):
        assert Own().save("a.txt", ContentFile(b"")) == "tenants/1/a.txt"


class Overwriting(TenantStorageMixin, FileSystemStorage):
    """A storage of a project's own, of files."""


@pytest.mark.parametrize("kind", [TenantFileSystemStorage, Overwriting])
def test_a_path_is_its_tenants(kind: Any, tmp_path: Path) -> None:
    storage = kind(location=tmp_path)
    with tenant_context(1):
        assert storage.path("a.txt") == str(tmp_path / "tenants" / "1" / "a.txt")
        for name in FOREIGN:
            with pytest.raises(SuspiciousFileOperation):
                storage.path(name)


@pytest.mark.parametrize("ask", ["open", "save", "delete", "write"])
@pytest.mark.parametrize("name", ["", ".", "x/..", "tenants/1", "tenants/1/", "tenants\\1\\x\\.."])
def test_a_directory_is_no_file(name: str, ask: str, storage: Any) -> None:
    asked = ASKED | {"write": lambda storage, name: storage.open(name, "wb")}
    with tenant_context(2):
        storage.save("a.txt", ContentFile(b"of 2"))
    with tenant_context(1):
        for _ in "it is not there", "it is empty":
            with pytest.raises(SuspiciousFileOperation, match="would be the directory 'tenants/1'"):
                asked[ask](storage, name)
            storage.delete(storage.save("a.txt", ContentFile(b"of 1")))
        assert storage.exists("")
        assert storage.listdir(".") == ([], [])


@pytest.mark.parametrize("name", ["tenants", "tenants/", "tenants/1"])
def test_the_directory_of_all_is_no_file(name: str, storage: Any) -> None:
    with admin_context(), pytest.raises(SuspiciousFileOperation, match="would be the directory"):
        storage.save(name, ContentFile(b""))


def test_a_file_without_a_name_is_refused(storage: Any) -> None:
    with tenant_context(1):
        with pytest.raises(TypeError, match="the file has no name"):
            storage.save(None, ContentFile(b""))
        assert storage.save(None, ContentFile(b"", name="a.txt")) == "tenants/1/a.txt"


class Elsewhere(TenantInMemoryStorage):
    """A storage beside names that begin as those of tenantry do."""

    directory = "files"


def test_a_project_may_call_the_directory_otherwise() -> None:
    with tenant_context(1):
        name = Elsewhere().generate_filename("tenants/logos/logo.png")
        assert name == "files/1/tenants/logos/logo.png"
        with pytest.raises(SuspiciousFileOperation, match="is not in 'tenants/1'"):
            TenantInMemoryStorage().generate_filename("tenants/logos/logo.png")


@pytest.mark.parametrize("ask", ASKED)
def test_nobody_has_files(ask: str, storage: Any) -> None:
    for name in ("a.txt", "tenants/1/a.txt"):
        with pytest.raises(NoTenantContextError, match=rf"^cannot tell whose file '{name}' is: "):
            ASKED[ask](storage, name)
        with Scope(Binding(bypass="login")), pytest.raises(NoTenantContextError):
            ASKED[ask](storage, name)


@pytest.mark.parametrize("ask", ASKED)
def test_the_admin_says_whose_file_it_is(ask: str, storage: Any) -> None:
    with tenant_context(1):
        storage.save("a.txt", ContentFile(b"of 1"))
    with admin_context():
        with pytest.raises(NoTenantContextError):
            ASKED[ask](storage, "a.txt")
        assert read(storage, "tenants/1/a.txt") == b"of 1"
        assert storage.listdir("tenants")[0] == ["1"]
        with pytest.raises(SuspiciousFileOperation):
            ASKED[ask](storage, "tenants/1/../../../etc/passwd")


class Upload(models.Model):
    file = models.FileField(upload_to="uploads")

    class Meta:
        # Of no app whose migrations would have to have it.
        app_label = "uploads"
        managed = False


def test_a_field_keeps_the_whole_name(storage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    field: Any = Upload._meta.get_field("file")
    monkeypatch.setattr(field, "storage", storage)
    upload = Upload()
    with tenant_context(1):
        upload.file.save("report.txt", ContentFile(b"of 1"), save=False)
        assert upload.file.name == "tenants/1/uploads/report.txt"
        assert upload.file.read() == b"of 1"
        upload.file.close()
    # The row of a tenant, seen by the admin, leads to the file; somebody else's does not.
    upload = Upload(file="tenants/1/uploads/report.txt")
    with admin_context():
        assert upload.file.url == "/media/tenants/1/uploads/report.txt"
    with tenant_context(2), pytest.raises(SuspiciousFileOperation):
        _ = upload.file.url


@given(st.text(), st.sampled_from([1, "..", "2/../1"]))
def test_whatever_a_name_is_it_stays_in_the_directory(name: str, tenant: int | str) -> None:
    with Scope(Binding(tenant)):
        try:
            found = TenantStorageMixin().resolve(name)
        except SuspiciousFileOperation:
            return
    parts = found.split("/")
    assert parts[:2] == ["tenants", name_of(tenant)]
    assert ".." not in parts
