"""What else in the schema shows protected rows: views, functions and publications."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..conf import rls_tenants
from ..policies.predicates import sealed_function
from .exempt import EXEMPT, exempt_admin
from .findings import Finding
from .privileges import FOREIGN
from .reach import USABLE, USES, reached

# The given tables, and those that are their partitions, other children or parents.
FAMILY = """\
WITH RECURSIVE given(oid) AS (
  SELECT to_regclass(name)::oid FROM unnest(%s::text[]) name
), child(oid, is_other) AS (
  SELECT oid, false FROM given
  UNION SELECT inhrelid, true FROM child JOIN pg_inherits ON inhparent = child.oid
), parent(oid, is_other) AS (
  SELECT oid, false FROM given
  UNION SELECT inhparent, true FROM parent JOIN pg_inherits ON inhrelid = parent.oid
)
SELECT oid, bool_and(is_other) FROM (TABLE child UNION TABLE parent) family
WHERE oid IS NOT NULL GROUP BY oid"""

# Views over tables and their relatives, directly or not, that one of the roles reads, directly or
# through a view; and the relatives whose policies do not bind its owner. What other rules do, of
# views and tables, they do with the owner's rights, too. They are a query of their own, as
# PostgreSQL expects more rows of two recursions, and so compiles what takes no time.
VIEWS = f"""\
WITH RECURSIVE {USES}, over(oid) AS (
  SELECT unnest(%(tables)s::oid[])
  UNION SELECT upper FROM over JOIN uses ON lower = over.oid
), reach(oid) AS (
  SELECT oid FROM pg_class c WHERE oid IN (SELECT upper FROM uses) AND {USABLE}
  UNION SELECT lower FROM reach JOIN uses ON upper = reach.oid
    JOIN pg_class c ON c.oid = reach.oid AND c.relkind <> 'm'
)
SELECT DISTINCT c.oid::regclass::text, relkind::text, rolname::text, {EXEMPT},
  COALESCE((SELECT option_value::boolean FROM pg_options_to_table(reloptions)
    WHERE option_name = 'security_invoker'), false),
  ARRAY(SELECT ARRAY[t.oid::regclass::text, t.relkind::text]
    FROM uses JOIN pg_class t ON t.oid = lower
    WHERE upper = c.oid AND t.oid = ANY(%(relatives)s::oid[])
      AND (NOT t.relrowsecurity
        OR NOT t.relforcerowsecurity AND pg_has_role(o.oid, t.relowner, 'USAGE'))
    ORDER BY 1)
FROM over JOIN reach USING (oid) JOIN pg_class c USING (oid) JOIN pg_roles o ON o.oid = relowner
WHERE c.oid <> ALL(%(tables)s::oid[]) ORDER BY 1"""  # noqa: S608 - a constant

# By pg_class.relkind.
KINDS = {"m": "materialized view", "v": "view"}

# That somebody has made.
MADE = """\
nspname NOT IN ('pg_catalog', 'information_schema') AND NOT EXISTS (SELECT FROM pg_depend
  WHERE classid = 'pg_proc'::regclass AND objid = p.oid AND deptype = 'e')"""

# That one of the roles may call a function. A view, a default or a policy calls one in whatever
# schema, without USAGE of that; so does what else names it.
CALLABLE = """\
EXISTS (SELECT FROM unnest(%(roles)s::oid[]) role
  WHERE has_function_privilege(role, {0}.oid, 'EXECUTE')
    AND (has_schema_privilege(role, {0}.pronamespace, 'USAGE') OR EXISTS (SELECT FROM pg_depend d
      WHERE d.refclassid = 'pg_proc'::regclass AND d.refobjid = {0}.oid
        AND d.classid NOT IN ('pg_trigger'::regclass, 'pg_event_trigger'::regclass))))"""

# What calls one for them, without that: aggregates that they may call, and event triggers.
CALLERS = f"""\
ARRAY(SELECT a.oid::regprocedure::text FROM pg_depend uses JOIN pg_proc a ON a.oid = uses.objid
  WHERE uses.classid = 'pg_proc'::regclass AND uses.refclassid = 'pg_proc'::regclass
    AND uses.refobjid = p.oid AND a.prokind = 'a' AND {CALLABLE.format("a")} ORDER BY 1),
ARRAY(SELECT quote_ident(evtname) FROM pg_event_trigger
  WHERE evtfoid = p.oid AND evtenabled <> 'D' ORDER BY 1)"""  # noqa: S608 - a constant

# That one of these calls it, they may do so, or a trigger calls it for whoever writes.
CALLED = f"""\
({CALLABLE.format("p")} OR EXISTS (SELECT FROM (SELECT {CALLERS}) callers(aggregates, events)
    WHERE aggregates || events <> '{{}}')
  OR EXISTS (SELECT FROM pg_trigger WHERE tgfoid = p.oid AND NOT tgisinternal))"""  # noqa: S608 - constants

FUNCTIONS = f"""\
SELECT function, rolname::text, may_call, aggregates, events FROM (
  SELECT p.oid::regprocedure::text, o.rolname, {CALLABLE.format("p")}, {CALLERS}
  FROM pg_proc p JOIN pg_roles o ON o.oid = proowner JOIN pg_namespace n ON n.oid = pronamespace
  WHERE prosecdef AND {EXEMPT} AND {MADE} AND p.oid IS DISTINCT FROM to_regprocedure(%(ours)s)
) found(function, rolname, may_call, aggregates, events)
WHERE may_call OR aggregates || events <> '{{}}' ORDER BY 1"""  # noqa: S608 - constants

# What they run with instead of what the statement carries, unless that is nobody. A tenant may be
# called anything.
SETTINGS = f"""\
SELECT p.oid::regprocedure::text, split_part(setting, '=', 1) AS name, value
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
CROSS JOIN unnest(proconfig) setting
CROSS JOIN substr(setting, strpos(setting, '=') + 1) value
WHERE CASE WHEN setting LIKE 'role=%%' THEN value <> 'none'
    WHEN starts_with(setting, %(prefix)s || 'is_admin=') THEN value = 'true'
    ELSE starts_with(setting, %(prefix)s) AND value <> '' END
  AND {MADE} AND {CALLED}
ORDER BY 1, 2"""  # noqa: S608 - constants

# Those whose text does it, but for what binds nobody, be it a call or a command.
TEXTS = f"""\
SELECT p.oid::regprocedure::text, names[1]
FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
CROSS JOIN LATERAL regexp_matches(concat(prosrc, pg_get_function_sqlbody(p.oid)), %(texts)s, 'i')
  names
WHERE {MADE} AND {CALLED}
ORDER BY 1, 2"""  # noqa: S608 - constants
SETS = (
    r"(?:\mset_config\s*\(\W*(?={0}[.])|\mset\s+(?:local\s+|session\s+)?(?={0}[.]))"
    r"({0}[.](?:current_tenant|is_admin|bypass))\M"
    r"(?:[^,;=]*,|\s*=|\s+to\M)(?!\s*'?(?:false|off)?'?(?:::text)?\s*(?:[,;]|\Z))"
)

# That PostgreSQL may call before policies, as it is said to tell nobody what it was called with.
LEAKPROOF = f"""\
SELECT p.oid::regprocedure::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
WHERE proleakproof AND {MADE} AND {CALLABLE.format("p")} ORDER BY 1"""  # noqa: S608 - constants

# Each table, with those that it is a partition of, by which it may be published, and what takes it
# out of the publication: nothing out of one for all tables.
PUBLICATIONS = """\
WITH RECURSIVE mine(oid, above) AS (
  SELECT found, found FROM unnest(%(tables)s::text[]) name, CAST(to_regclass(name) AS oid) found
  UNION SELECT inhrelid, other FROM mine JOIN pg_inherits ON inhparent = mine.oid
    JOIN pg_class c ON c.oid = inhrelid
    CROSS JOIN unnest(CASE WHEN relispartition THEN ARRAY[above] END || inhrelid) other
)
SELECT quote_ident(pubname), c.oid::regclass::text, rowfilter, puballtables, concat_ws(', ',
  (SELECT 'TABLE ' || string_agg(DISTINCT 'ONLY ' || prrelid::regclass::text, ', ')
    FROM pg_publication_rel JOIN mine ON above = prrelid
    WHERE prpubid = p.oid AND mine.oid = c.oid),
  (SELECT 'TABLES IN SCHEMA ' || string_agg(DISTINCT pnnspid::regnamespace::text, ', ')
    FROM pg_publication_namespace JOIN pg_class upper ON upper.relnamespace = pnnspid
    JOIN mine ON above = upper.oid WHERE pnpubid = p.oid AND mine.oid = c.oid))
FROM pg_publication_tables JOIN pg_publication p USING (pubname)
JOIN pg_namespace n ON nspname = schemaname
JOIN pg_class c ON relnamespace = n.oid AND relname = tablename
WHERE c.oid IN (SELECT oid FROM mine) ORDER BY 1, 2"""


def family_of(cursor: Any, tables: list[str]) -> dict[int, bool]:
    """Return the quoted `tables` and their relatives, and of each whether it is none of them."""
    cursor.execute(FAMILY, [tables])
    return dict(cursor.fetchall())


def inspect_sql_views(cursor: Any, tables: list[str]) -> Iterator[Finding]:
    """Yield views, and tables with rules, that show other tenants' rows of protected tables."""
    family = family_of(cursor, tables)
    parameters = {
        "tables": [*family],
        "relatives": [oid for oid, is_other in family.items() if is_other],
        "admin": exempt_admin(),
        "roles": reached(cursor),
    }
    cursor.execute(VIEWS, parameters)
    for view, kind, owner, exempt, invoker, relatives in cursor.fetchall():
        subject = f"{KINDS.get(kind, 'table')} {view}"
        if kind == "m":
            yield Finding(
                "tenantry.E122",
                subject,
                "holds rows of protected tables, and policies do not apply to what it holds",
                f"run REVOKE ALL ON {view} FROM PUBLIC and the role that serves requests",
            )
        elif exempt and kind != "v":
            yield Finding(
                "tenantry.E121",
                subject,
                f"has rules that use protected tables as its owner {owner}, whom no policy binds",
                "drop the rules, or write triggers",
            )
        elif exempt and not invoker:
            yield Finding(
                "tenantry.E121",
                subject,
                f"reads protected tables as its owner {owner}, whom no policy binds",
                f"run ALTER VIEW {view} SET (security_invoker = true)",
            )
        elif not invoker:
            for table, table_kind in relatives:
                instead = "let the view read the protected table"
                yield Finding(
                    "tenantry.E121",
                    subject,
                    f"reads {table}, a partition, child or parent of a protected table, as its"
                    f" owner {owner}, and no policy of {table} binds that role",
                    f"{instead}, {FOREIGN}"
                    if table_kind == "f"
                    else f"run ALTER TABLE {table} ENABLE ROW LEVEL SECURITY and ALTER TABLE"
                    f" {table} FORCE ROW LEVEL SECURITY, or {instead}",
                )


def inspect_functions(cursor: Any) -> Iterator[Finding]:
    """Yield functions that run as a role that no policy binds, or in a binding of their own."""
    # It reads the keys of seals, and nothing else, if it is what a migration made, which is asked.
    ours = f"{sealed_function(rls_tenants().guc_prefix)}(text)"
    roles = reached(cursor)
    cursor.execute(FUNCTIONS, {"admin": exempt_admin(), "ours": ours, "roles": roles})
    for function, owner, may_call, aggregates, events in cursor.fetchall():
        ways = [f"DROP EVENT TRIGGER {', '.join(events)}"] if events else []
        if routines := [function] * may_call + aggregates:
            ways.append(
                f"REVOKE EXECUTE ON ROUTINE {', '.join(routines)} FROM PUBLIC and the role that"
                " serves requests"
            )
        yield Finding(
            "tenantry.E123",
            f"function {function}",
            f"is SECURITY DEFINER and runs as {owner}, whom no policy binds",
            f"run ALTER ROUTINE {function} SECURITY INVOKER, or {' and '.join(ways)}",
        )
    cursor.execute(SETTINGS, {"prefix": f"{rls_tenants().guc_prefix}.", "roles": roles})
    for function, name, value in cursor.fetchall():
        yield Finding(
            "tenantry.E124",
            f"function {function}",
            f"runs with {name} = {value!r}, whoever calls it in whatever scope",
            f"run ALTER ROUTINE {function} RESET {name}, and let its callers open the scope",
        )
    texts = SETS.format(rls_tenants().guc_prefix)
    cursor.execute(TEXTS, {"texts": texts, "roles": roles})
    for function, name in cursor.fetchall():
        yield Finding(
            "tenantry.E124",
            f"function {function}",
            f"sets {name} in its text, whoever calls it in whatever scope",
            "leave that out, and let its callers open the scope",
        )
    cursor.execute(LEAKPROOF, {"roles": roles})
    for (function,) in cursor.fetchall():
        yield Finding(
            "tenantry.W123",
            f"function {function}",
            "is LEAKPROOF, so that PostgreSQL may call it with rows of other tenants, before it"
            " asks their policies",
            f"run ALTER FUNCTION {function} NOT LEAKPROOF, or REVOKE EXECUTE ON FUNCTION"
            f" {function} FROM PUBLIC and the role that serves requests",
        )


def inspect_publications(cursor: Any, tables: list[str]) -> Iterator[Finding]:
    """Yield publications that stream protected rows."""
    cursor.execute(PUBLICATIONS, {"tables": tables})
    for publication, table, row_filter, has_all, parts in cursor.fetchall():
        run = f"run ALTER PUBLICATION {publication} DROP {parts}"
        if has_all:
            run = (
                f"run DROP PUBLICATION {publication}, and create it again FOR TABLE with the other"
                " tables"
            )
        rows = f"rows WHERE {row_filter}" if row_filter else "all tenants' rows"
        yield Finding(
            "tenantry.W121",
            f"publication {publication}",
            f"streams {rows} of {table}, whatever its policy says",
            f"{run}, or let only roles subscribe that may see every tenant",
        )
