"""Files of a tenant's own, for ``STORAGES``.

::

    STORAGES = {
        "default": {"BACKEND": "tenantry.contrib.storage.TenantFileSystemStorage"},
        ...,
    }
"""

from __future__ import annotations

import posixpath
from datetime import datetime
from typing import Any

from django.core.exceptions import SuspiciousFileOperation
from django.core.files.storage import FileSystemStorage, Storage

from ..binding import current_binding
from ..exceptions import NoTenantContextError
from ..mixins import Base, require_first
from ..naming import name_of


class TenantStorageMixin(Base):  # type: ignore[misc]
    """Keep the files of each tenant in a directory of its own; put it before a storage's class.

    A file that is saved as ``logo.png`` is called ``tenants/7/logo.png``, in the row too. A tenant
    reaches the files of its own directory, by that name or by the rest of it. The admin reaches
    all, by the whole name.

    A name that begins with ``tenants/`` is taken for a whole name. Where the project has such names
    itself, as by ``upload_to="tenants/logos/"``, a subclass sets `directory` to another one.

    Raises NoTenantContextError where nobody is bound, and where the admin would have to say whose
    file it is; SuspiciousFileOperation for a name that leads to another tenant's directory, and for
    a file that would be the directory itself; and TypeError for a file without a name, and for a
    class that has it behind that of a storage.
    It does not guard URLs: whoever serves the files does.
    """

    # In front of the directory of each tenant.
    directory = "tenants"

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        require_first(cls, TenantStorageMixin, Storage, "keep no tenants apart")

    def resolve(self, name: str) -> str:
        """Return the whole name of a file, or of a directory."""
        asked = str(name).replace("\\", "/")
        path = posixpath.normpath(asked) if asked else ""
        path = "" if path == "." else path
        if path.startswith("/") or path.split("/")[0] == "..":
            raise SuspiciousFileOperation(f"the file {name!r} is outside of the storage")
        binding = current_binding()
        is_whole = path == self.directory or path.startswith(f"{self.directory}/")
        if binding.is_admin and is_whole:
            return path
        if binding.tenant_id is None:
            who = "the admin has no directory of its own" if binding.is_admin else "nobody is bound"
            raise NoTenantContextError(
                f"cannot tell whose file {name!r} is: {who}; open a tenant_context() around it"
            )
        own = f"{self.directory}/{name_of(binding.tenant_id)}"
        if not is_whole:
            return f"{own}/{path}" if path else own
        if path != own and not path.startswith(f"{own}/"):
            raise SuspiciousFileOperation(
                f"the file {name!r} is not in {own!r}, the directory of the tenant that is current"
            )
        return path

    def resolve_file(self, name: str) -> str:
        """Return the whole name of a file, which is in a tenant's directory, and not one itself."""
        path = self.resolve(name)
        if "/" not in path[len(self.directory) + 1 :]:
            raise SuspiciousFileOperation(f"the file {name!r} would be the directory {path!r}")
        return path

    # What a storage can be asked.

    def open(self, name: str, mode: str = "rb") -> Any:
        """Open a file."""
        return super().open(self.resolve_file(name), mode)

    def save(self, name: str | None, content: Any, max_length: int | None = None) -> Any:
        """Save a file; return its whole name."""
        given = content.name if name is None else name
        if given is None:
            raise TypeError("the file has no name; give save() one, or the content")
        resolved = self.resolve_file(given)
        return super().save(resolved, content, max_length)

    def generate_filename(self, filename: Any) -> str:
        """Return the whole name for a new file of a field."""
        return self.resolve(super().generate_filename(filename))

    def delete(self, name: str) -> None:
        """Delete a file."""
        super().delete(self.resolve_file(name))

    def exists(self, name: str) -> Any:
        """Return whether there is such a file."""
        return super().exists(self.resolve(name))

    def listdir(self, path: str) -> Any:
        """Return the directories and the files in a directory."""
        return super().listdir(self.resolve(path))

    def size(self, name: str) -> Any:
        """Return the size of a file in bytes."""
        return super().size(self.resolve(name))

    def url(self, name: str | None, *args: Any, **kwargs: Any) -> Any:
        """Return the URL of a file; storages of other packages take more than its name."""
        resolved = name if name is None else self.resolve(name)
        return super().url(resolved, *args, **kwargs)

    def path(self, name: str) -> str:
        """Return where a file is in the file system."""
        # What other storages call so is theirs: InMemoryStorage gives it absolute names.
        resolved = self.resolve(name) if isinstance(self, FileSystemStorage) else name
        found: str = super().path(resolved)
        return found

    def get_accessed_time(self, name: str) -> datetime:
        """Return when a file was last read."""
        found: datetime = super().get_accessed_time(self.resolve(name))
        return found

    def get_created_time(self, name: str) -> datetime:
        """Return when a file was made."""
        found: datetime = super().get_created_time(self.resolve(name))
        return found

    def get_modified_time(self, name: str) -> datetime:
        """Return when a file was last changed."""
        found: datetime = super().get_modified_time(self.resolve(name))
        return found


class TenantFileSystemStorage(TenantStorageMixin, FileSystemStorage):
    """Keep the files of each tenant in a directory of ``MEDIA_ROOT`` of its own."""
