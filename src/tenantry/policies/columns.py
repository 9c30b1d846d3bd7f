"""SQL that lets go of a column which is about to be dropped, as pure text."""

from __future__ import annotations

from .predicates import literal
from .samekeys import SUFFIX

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
        CASE WHEN polqual IS NOT NULL THEN ' USING (false)' ELSE '' END
        || CASE WHEN polwithcheck IS NOT NULL THEN ' WITH CHECK (false)' ELSE '' END AS nothing
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


def let_go(table: str, column: str, *, of_others: bool) -> str:
    """Return the SQL that frees the `column` of a quoted `table` of tenantry's policies and keys.

    The policies show no rows from then on. With ``of_others`` those of the table itself stay.
    """
    others = " AND polrelid <> target" if of_others else ""
    return _LET_GO.format(
        table=literal(table),
        column=literal(column),
        others=others,
        suffix=SUFFIX,
        length=len(SUFFIX),
    )
