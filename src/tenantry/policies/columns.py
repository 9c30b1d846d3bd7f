"""SQL about the policies that speak of a column which is to change, or to go, as pure text."""

from __future__ import annotations

from .predicates import literal
from .samekeys import SUFFIX

_NOTHING = """\
CASE WHEN polqual IS NOT NULL THEN ' USING (false)' ELSE '' END
  || CASE WHEN polwithcheck IS NOT NULL THEN ' WITH CHECK (false)' ELSE '' END"""

# Asks the catalog, because the policies may be those of other apps, which the migration does not
# know. One that shows nothing keeps a table closed, whatever others that has; and its name, by
# which it is dropped later. Those of somebody else stay, and so does the column.
_LET_GO = """\
DO $tenantry$
DECLARE
  target CONSTANT regclass := {table};
  place int2;
  found record;
BEGIN
  SELECT attnum INTO place FROM pg_catalog.pg_attribute
    WHERE attrelid = target AND attname = {column};
  FOR found IN
    SELECT DISTINCT polname, polrelid::regclass AS relation,
        {nothing} AS nothing
      FROM pg_catalog.pg_depend d JOIN pg_catalog.pg_policy p ON p.oid = d.objid
      WHERE d.classid = 'pg_catalog.pg_policy'::regclass
        AND d.refclassid = 'pg_catalog.pg_class'::regclass
        AND d.refobjid = target AND d.refobjsubid = place
        AND starts_with(polname, 'tenantry_'){others}
  LOOP
    EXECUTE format('ALTER POLICY %I ON %s', found.polname, found.relation) || found.nothing;
  END LOOP;
  FOR found IN
    SELECT f.conname, f.conrelid::regclass AS relation
      FROM pg_catalog.pg_constraint f JOIN pg_catalog.pg_constraint u ON u.conindid = f.conindid
      WHERE f.contype = 'f' AND f.confrelid = target AND place = ANY (f.confkey)
        AND u.contype = 'u' AND u.conrelid = target AND right(u.conname, {length}) = '{suffix}'
  LOOP
    EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', found.relation, found.conname);
  END LOOP;
END $tenantry$"""

# Policies whose tables are not among those that the migration knows.
_OF_OTHERS = """\
starts_with(polname, 'tenantry_')
  AND NOT EXISTS (SELECT FROM unnest(%(known)s::text[]) name WHERE to_regclass(name) = polrelid)"""

_COLUMNS = "unnest(%(tables)s::text[], %(columns)s::text[]) AS change(name, field)"
_NAMES = """\
SELECT FROM pg_depend d
    JOIN pg_attribute a ON attrelid = d.refobjid AND attnum = d.refobjsubid
    WHERE to_regclass(name) = attrelid AND field = attname
      AND d.classid = 'pg_policy'::regclass AND d.objid = p.oid
      AND d.refclassid = 'pg_class'::regclass"""

# How to drop those that name one of the columns, and how to make each again.
SPEAKING = f"""\
SELECT format('DROP POLICY %%I ON %%s', polname, polrelid::regclass),
  format('CREATE POLICY %%I ON %%s AS %%s FOR %%s TO %%s', polname, polrelid::regclass,
    CASE WHEN polpermissive THEN 'PERMISSIVE' ELSE 'RESTRICTIVE' END,
    CASE polcmd WHEN '*' THEN 'ALL' WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT'
      WHEN 'w' THEN 'UPDATE' ELSE 'DELETE' END,
    (SELECT string_agg(CASE role WHEN 0 THEN 'PUBLIC'
      ELSE quote_ident(pg_get_userbyid(role)) END, ', ') FROM unnest(polroles) role))
  || coalesce(' USING (' || pg_get_expr(polqual, polrelid) || ')', '')
  || coalesce(' WITH CHECK (' || pg_get_expr(polwithcheck, polrelid) || ')', '')
FROM pg_policy p
WHERE {_OF_OTHERS}
  AND EXISTS (SELECT FROM {_COLUMNS} WHERE EXISTS ({_NAMES}))
ORDER BY 1"""  # noqa: S608 - parts of ours

# How to let those show nothing that name all of the columns.
FOLLOWING = f"""\
SELECT format('ALTER POLICY %%I ON %%s', polname, polrelid::regclass) || {_NOTHING}
FROM pg_policy p
WHERE {_OF_OTHERS}
  AND NOT EXISTS (SELECT FROM {_COLUMNS} WHERE NOT EXISTS ({_NAMES}))
ORDER BY 1"""  # noqa: S608 - parts of ours


def let_go(table: str, column: str, *, of_others: bool) -> str:
    """Return the SQL that frees the `column` of a quoted `table` of tenantry's policies and keys.

    The policies show no rows from then on. With ``of_others`` those of the table itself stay.
    """
    others = " AND polrelid <> target" if of_others else ""
    return _LET_GO.format(
        table=literal(table),
        column=literal(column),
        nothing=_NOTHING,
        others=others,
        suffix=SUFFIX,
        length=len(SUFFIX),
    )
