"""Names for what belongs to a tenant outside of the database: cache keys, directories."""

from __future__ import annotations

import hashlib
import re

from .binding import TenantId

# Capitals are escaped too: some file systems do not tell them from small letters. So are dots,
# because "." and ".." are directories.
ESCAPED = re.compile(rb"[^a-z0-9_-]")
# File systems take 255 bytes; 250 are what memcached takes for a whole key.
LONGEST = 100


def name_of(tenant_id: TenantId) -> str:
    """Return a name for a tenant, of letters, digits and ``_-%=``; no two tenants share one."""
    text = str(tenant_id).encode("utf-8", "surrogatepass")
    name = ESCAPED.sub(lambda found: b"%%%02X" % found[0][0], text).decode("ascii")
    # The equals sign is escaped in a name, so no tenant can be called like the hash of another.
    return name if len(name) <= LONGEST else f"={hashlib.sha256(text).hexdigest()}"
