"""An app with places, and where PostgreSQL has PostGIS for them."""

from __future__ import annotations

from pathlib import Path


def bindirs() -> list[Path]:
    """Return where the programs of servers with PostGIS are, of Debian's packages, oldest first."""
    found = Path("/usr/share/postgresql").glob("*/extension/postgis.control")
    versions = sorted(int(each.parents[1].name) for each in found)
    return [Path(f"/usr/lib/postgresql/{version}/bin") for version in versions if version >= 15]
