"""SQL that verifies a sealed binding: one that the application has signed.

The parameter holds ``1:<key>:<expiry>:<grant>:<signature>:<tenant>``. The signature is an
HMAC-SHA256 (RFC 2104) in hexadecimal digits, over all of that but itself, and the name of the
database. Expiry is in seconds since 1970.
"""

from __future__ import annotations

from collections.abc import Sequence

from .predicates import SCHEMA, literal, sealed_function

KEYS = f"{SCHEMA}.seal_keys"

NAMESPACE_1 = f"""\
DO $tenantry$ BEGIN
  IF to_regnamespace('{SCHEMA}') IS NULL THEN
    CREATE SCHEMA {SCHEMA};
    GRANT USAGE ON SCHEMA {SCHEMA} TO PUBLIC;
  END IF;
END $tenantry$"""

# Only the owner reads the keys, and the function, which runs as the owner. Default privileges may
# have granted more when the table was created; Row-Level Security without a policy is for those
# that somebody grants later.
CLOSE_KEYS = """\
DO $tenantry$ DECLARE grantee text; BEGIN
  FOR grantee IN
    SELECT DISTINCT CASE acl.grantee WHEN 0 THEN 'PUBLIC'
        ELSE quote_ident(pg_get_userbyid(acl.grantee)) END
      FROM pg_class c, aclexplode(c.relacl) acl
      WHERE c.oid = to_regclass('tenantry.seal_keys') AND acl.grantee <> c.relowner
  LOOP
    EXECUTE 'REVOKE ALL ON tenantry.seal_keys FROM ' || grantee;
  END LOOP;
END $tenantry$"""

# A value that is wrong is an error and not no rows: somebody has tried something, or a clock or a
# key is wrong. No regular expression looks at the form of a token, which would cost ten times what
# the signature does; all that is used of it is signed. A statement that began in time may take
# longer than the token is good for.
_VERIFIER_1 = """\
CREATE TABLE IF NOT EXISTS {keys} (
  id text PRIMARY KEY, inside bytea NOT NULL, outside bytea NOT NULL
);
ALTER TABLE {keys} ENABLE ROW LEVEL SECURITY;
{close};
CREATE OR REPLACE FUNCTION {function}(claim text) RETURNS text
  LANGUAGE plpgsql STABLE PARALLEL SAFE SECURITY DEFINER
  SET search_path = pg_catalog, pg_temp
AS $tenantry$
DECLARE
  token CONSTANT text := current_setting('{guc_prefix}.current_tenant', true);
  part text[];
  tenant text;
  key {keys};
BEGIN
  IF token IS NULL OR token = '' THEN
    RETURN NULL;
  END IF;
  part := string_to_array(token, ':');
  -- Whatever comes after the fifth colon, which may hold others.
  tenant := array_to_string(part[6:], ':');
  IF part[1] <> '1' OR part[6] IS NULL THEN
    RAISE EXCEPTION 'the tenant is not sealed' USING ERRCODE = 'insufficient_privilege',
      HINT = 'Set RLS_TENANTS[''SEALED''] in the settings of whoever sent this, and let nothing'
        ' but tenantry set the parameter {guc_prefix}.current_tenant.';
  END IF;
  SELECT * INTO key FROM {keys} k WHERE k.id = part[2];
  IF NOT FOUND THEN
    RAISE EXCEPTION 'the tenant is sealed with the key %, unknown to this database', part[2]
      USING ERRCODE = 'insufficient_privilege',
        HINT = 'Run migrate with the RLS_TENANTS[''SEAL_KEYS''] of whoever sent this.';
  END IF;
  IF part[5] <> encode(sha256(key.outside || sha256(key.inside || convert_to(
    concat_ws(':', part[2], part[3], part[4], octet_length(current_database()::text),
      current_database(), tenant), 'UTF8'))), 'hex')
  THEN
    RAISE EXCEPTION 'the seal of the tenant is not valid' USING ERRCODE = 'insufficient_privilege',
      HINT = 'It was forged, or made for another database than ' || quote_ident(current_database())
        || '; a pooler that renames the database needs OPTIONS[''sealed_database''].';
  END IF;
  IF part[3]::bigint < extract(epoch FROM statement_timestamp()) THEN
    RAISE EXCEPTION 'the seal of the tenant has expired' USING ERRCODE = 'insufficient_privilege',
      HINT = 'Compare the clocks of the application and of the database, and see'
        ' RLS_TENANTS[''SEAL_LIFETIME''].';
  END IF;
  RETURN CASE claim WHEN 'tenant' THEN nullif(tenant, '') WHEN 'grant' THEN part[4] END;
END
$tenantry$"""


def verifier(guc_prefix: str) -> str:
    """Return the SQL that creates the function that verifies, and the table of its keys."""
    return _VERIFIER_1.format(
        function=sealed_function(guc_prefix), guc_prefix=guc_prefix, keys=KEYS, close=CLOSE_KEYS
    )


def replace_keys(keys: Sequence[tuple[str, bytes, bytes]]) -> str:
    """Return the SQL that makes `keys`, of id and two pads each, all that are known."""
    rows = ", ".join(
        f"({literal(name)}, '\\x{inside.hex()}'::bytea, '\\x{outside.hex()}'::bytea)"
        for name, inside, outside in keys
    )
    names = ", ".join(literal(name) for name, _, _ in keys)
    return f"""\
INSERT INTO {KEYS} VALUES {rows} ON CONFLICT (id) DO NOTHING;
DELETE FROM {KEYS} WHERE id <> ALL (ARRAY[{names}]);
{CLOSE_KEYS}"""  # noqa: S608 - what varies is quoted
