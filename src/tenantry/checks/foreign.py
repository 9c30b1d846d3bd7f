"""Foreign servers that lead back into this database, where somebody else logs in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from .exempt import EXEMPT, exempt_admin
from .findings import Finding

# PostgreSQL shows the options of a mapping to who may use both. A server without a host is that of
# this machine; another name of it is not known here.
LOOPS = f"""\
SELECT quote_ident(s.srvname), CASE umuser WHEN 0 THEN 'PUBLIC' ELSE quote_ident(usename) END,
  rolname::text
FROM pg_user_mappings JOIN pg_foreign_server s ON s.oid = srvid
JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw
CROSS JOIN LATERAL (SELECT jsonb_object_agg(option_name, option_value)
  FROM pg_options_to_table(srvoptions)) AS target(said)
CROSS JOIN pg_options_to_table(umoptions)
JOIN pg_roles o ON option_name = 'user' AND rolname = option_value
WHERE fdwname IN ('dblink_fdw', 'postgres_fdw') AND said ->> 'dbname' = current_database()
  AND COALESCE(said ->> 'port', '5432') = current_setting('port')
  AND COALESCE(said ->> 'hostaddr', said ->> 'host', '')
    ~ '^(/.*|localhost|127[.].*|::1|)$' AND {EXEMPT}
ORDER BY 1, 2"""  # noqa: S608 - a constant


def inspect_foreign(cursor: Any) -> Iterator[Finding]:
    """Yield foreign servers by which the role gets at this database past all policies."""
    cursor.execute(LOOPS, {"admin": exempt_admin()})
    for server, user, login in cursor.fetchall():
        yield Finding(
            "tenantry.E126",
            f"foreign server {server}",
            f"leads back into this database, where it logs {user} in as {login}, whom no policy"
            " binds",
            f"run DROP USER MAPPING FOR {user} SERVER {server}, or let it log in as another role",
        )
