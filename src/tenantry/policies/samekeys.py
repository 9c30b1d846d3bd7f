"""SQL of foreign keys that name the tenant, as templates of Django's ``Statement``.

PostgreSQL checks a foreign key without the policies (PostgreSQL documentation, "Row Security
Policies"), so only a key that holds the tenant keeps a row from pointing to another tenant's.
"""

from __future__ import annotations

from .ddl import POLICY, Shape
from .predicates import is_admin_sql

# What the names of unique constraints end with that are made here, and so may be dropped again.
SUFFIX = "_same_tenant"

_REFERABLE = """\
SELECT FROM pg_catalog.pg_index i
    WHERE i.indrelid = %(target_text)s::regclass
      AND i.indisunique AND i.indisvalid AND i.indimmediate
      AND i.indpred IS NULL AND i.indexprs IS NULL
      AND i.indnkeyatts = 2 AND i.indkey[0] <> i.indkey[1]
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = i.indrelid AND a.attnum IN (i.indkey[0], i.indkey[1])
          AND a.attname NOT IN (%(keys_text)s))"""

# What checks rows that are there sees those that the policies show it, and finds no fault in those
# that they hide. The size is of all rows.
_SEE_ALL = """\
  IF row_security_active(%(table_text)s) AND ({is_admin}) IS NOT TRUE
    AND pg_catalog.pg_relation_size(%(table_text)s::regclass) > 0
  THEN
    RAISE EXCEPTION 'the rows of %% are hidden, and cannot be checked', %(table_text)s
      USING HINT = 'Migrate with the ENGINE of tenantry, or as a role with BYPASSRLS.';
  END IF;
"""

# Each partition is asked by itself, as whoever owns it, and by its own policies. One of ours shows
# its rows to the admin where that is a parameter.
_SEE_PARTITIONS = """\
  IF EXISTS (
    SELECT FROM pg_catalog.pg_partition_tree(%(table_text)s)
    WHERE relid <> %(table_text)s::regclass AND row_security_active(relid)
      AND pg_catalog.pg_relation_size(relid) > 0{unless}
  ) THEN
    RAISE EXCEPTION 'the rows of partitions of %% are hidden, and cannot be checked', %(table_text)s
      USING HINT = 'For each that has it, run ALTER TABLE ... NO FORCE ROW LEVEL SECURITY, migrate,'
        ' and FORCE it again.';
  END IF;
"""
_UNLESS_OURS = f"""
      AND NOT EXISTS (
        SELECT FROM pg_catalog.pg_policy WHERE polrelid = relid AND polname = '{POLICY}')"""

_ADD = f"""\
DO $tenantry$ BEGIN
{{see_all}}  IF NOT EXISTS (
    {_REFERABLE}
  ) THEN
    ALTER TABLE %(target)s ADD CONSTRAINT %(unique)s UNIQUE (%(keys)s);
  END IF;
END $tenantry$;
ALTER TABLE %(table)s ADD CONSTRAINT %(name)s
  FOREIGN KEY (%(columns)s) REFERENCES %(target)s (%(keys)s)
  DEFERRABLE INITIALLY DEFERRED{{valid}}"""

_VALIDATE = """\
DO $tenantry$ BEGIN
{see_all}END $tenantry$;
ALTER TABLE %(table)s VALIDATE CONSTRAINT %(name)s"""

# To make a policy locks a table for everybody else until the transaction ends: for a moment where
# nothing else is in it, and otherwise for as long as the rows are checked.
REFUSE_ROWS = """\
DO $tenantry$ BEGIN
  IF pg_catalog.pg_relation_size(%(table_text)s::regclass) > 0 THEN
    RAISE EXCEPTION 'nobody else could read %% and %% while the rows are checked',
        %(table_text)s, %(target_text)s
      USING HINT = 'Set atomic = False in the migration.';
  END IF;
END $tenantry$"""

# Where the admin is a role, it owns no table, and the owner is nobody's admin. So it is the owner
# that must see all rows, for as long as it looks at them. In a transaction of its own, as here, it
# is released, and nobody else sees that.
RELEASE_OWNER = """\
ALTER TABLE %(table)s NO FORCE ROW LEVEL SECURITY;
ALTER TABLE %(target)s NO FORCE ROW LEVEL SECURITY"""
FORCE_OWNER = """\
ALTER TABLE %(table)s FORCE ROW LEVEL SECURITY;
ALTER TABLE %(target)s FORCE ROW LEVEL SECURITY"""

# To check rows without keeping everybody else out takes several transactions. The owner stays bound
# in them: views and functions that run as the owner would show all rows to whoever uses them. This
# policy is for one session, known by its process. The number of a process that is gone may come
# again, so that what the session runs counts too.
_VALIDATION = "tenantry_validation"
_MARK = f"${_VALIDATION}$"
SHOW_SESSION = f"""\
DO $tenantry$ DECLARE
  each text;
BEGIN
  FOREACH each IN ARRAY ARRAY[%(table_text)s, %(target_text)s] LOOP
    EXECUTE 'DROP POLICY IF EXISTS {_VALIDATION} ON ' || each;
    EXECUTE 'CREATE POLICY {_VALIDATION} ON ' || each || ' FOR SELECT TO CURRENT_USER USING'
      || ' ((SELECT pg_catalog.pg_backend_pid() = ' || pg_catalog.pg_backend_pid()
      || ' AND pg_catalog.strpos(pg_catalog.current_query(), ''{_MARK}'') > 0))';
  END LOOP;
END $tenantry$"""
HIDE_SESSION = f"""\
DROP POLICY IF EXISTS {_VALIDATION} ON %(table)s;
DROP POLICY IF EXISTS {_VALIDATION} ON %(target)s"""

# What is not shown would be found without fault. A pooler may have given another session, and a
# restrictive policy takes away what others show. It is one statement, and so one transaction, also
# where somebody runs what sqlmigrate prints.
_VALIDATE_AS_SESSION = f"""\
DO {_MARK} DECLARE
  each text;
  shown text;
  is_shown boolean;
BEGIN
{_SEE_PARTITIONS.format(unless="")}
  FOREACH each IN ARRAY ARRAY[%(table_text)s, %(target_text)s] LOOP
    CONTINUE WHEN NOT row_security_active(each)
      OR pg_catalog.pg_relation_size(%(table_text)s::regclass) = 0;
    shown := (SELECT pg_catalog.pg_get_expr(polqual, polrelid) FROM pg_catalog.pg_policy
      WHERE polrelid = each::regclass AND polname = '{_VALIDATION}');
    EXECUTE 'SELECT ' || coalesce(shown, 'false') INTO is_shown;
    IF is_shown IS NOT TRUE OR EXISTS (
      SELECT FROM pg_catalog.pg_policy, unnest(polroles) role
      WHERE polrelid = each::regclass AND NOT polpermissive AND polcmd IN ('r', '*')
        AND (role = 0 OR pg_catalog.pg_has_role(role, 'USAGE'))
    ) THEN
      RAISE EXCEPTION 'the rows of %% are hidden, and cannot be checked', each
        USING HINT = 'Migrate without a pooler and as a role that no restrictive policy binds, or'
          ' as a role with BYPASSRLS.';
    END IF;
  END LOOP;
  ALTER TABLE %(table)s VALIDATE CONSTRAINT %(name)s;
END {_MARK}"""  # noqa: S608 - a name of ours

# Asks the catalog which table and which unique constraint it is about: both may have been renamed.
DROP = f"""\
DO $tenantry$
DECLARE
  target regclass;
  unique_name name;
BEGIN
  SELECT f.confrelid, u.conname INTO target, unique_name
    FROM pg_catalog.pg_constraint f
    LEFT JOIN pg_catalog.pg_constraint u ON u.conrelid = f.confrelid
      AND u.conindid = f.conindid AND u.contype = 'u' AND right(u.conname, 12) = '{SUFFIX}'
    WHERE f.conrelid = %(table_text)s::regclass AND f.conname = %(name_text)s AND f.contype = 'f';
  ALTER TABLE %(table)s DROP CONSTRAINT IF EXISTS %(name)s;
  IF unique_name IS NOT NULL THEN
    BEGIN
      EXECUTE 'ALTER TABLE ' || target || ' DROP CONSTRAINT ' || quote_ident(unique_name);
    EXCEPTION WHEN dependent_objects_still_exist THEN
      NULL;
    END;
  END IF;
END $tenantry$"""  # noqa: S608 - a name of ours


def add(shape: Shape, *, valid: bool) -> str:
    """Return the template that makes the foreign key, and the unique one that it needs."""
    if not valid:
        return _ADD.format(see_all="", valid=" NOT VALID")
    if shape.admin_role is not None:
        see = _SEE_PARTITIONS.format(unless="")
        return f"{RELEASE_OWNER};\n{_ADD.format(see_all=see, valid='')};\n{FORCE_OWNER}"
    return _ADD.format(see_all=see_all(shape), valid="")


def validate(shape: Shape) -> str:
    """Return the template that checks the rows that were there before the foreign key."""
    if shape.admin_role is not None:
        return _VALIDATE_AS_SESSION
    return _VALIDATE.format(see_all=see_all(shape))


def see_all(shape: Shape) -> str:
    """Return the SQL that raises an error where rows are hidden."""
    is_admin = is_admin_sql(shape.guc_prefix, sealed=shape.sealed)
    return _SEE_ALL.format(is_admin=is_admin) + _SEE_PARTITIONS.format(unless=_UNLESS_OURS)
