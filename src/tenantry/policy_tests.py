"""Checks of every protected table, as a definition for the program ``rls-policy-tester``.

The program runs each statement as an identity, in a transaction that it rolls back, and the
statements of a denial once more as one whom no policy binds, so that a denial because of an empty
table does not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from django.apps import apps

from .binding import ADMIN, Binding
from .checks.inspection import protected_models
from .conf import rls_tenants, tenant_key
from .declared import constraint_of
from .dependents import references_of
from .exceptions import InvalidTenantIdError, RLSConfigurationError
from .policies.references import all_exist_sql
from .policies.ways import Quote, Way
from .protected import column_of, external_models
from .seal import token

# The program writes the name of a role without quotes, and splits connection strings at spaces.
PLAIN_ROLE = re.compile(r"[a-z_][a-z0-9_$]*")
ANCHOR, ADMIN_NAME, UNBOUND_NAME = "anchor", "admin", "unbound"
TENANTS = ("tenant_a", "tenant_b")
# The parameter that stands for either of them, and what the program takes for a parameter.
TENANT = ":tenant"
PARAMETER = re.compile(r"(?<![:\w]):[A-Za-z_]")

SELECT = "SELECT 1 FROM {table} WHERE {where}"
UPDATE = "UPDATE {table} SET {column} = {value} WHERE {where}"
DELETE = "DELETE FROM {table} WHERE {where}"
INSERT = "INSERT INTO {table} ({column}) VALUES ({value})"
# Rows replaced by themselves: an INSERT that needs no values.
REPLACE = """\
WITH gone AS (DELETE FROM {table} WHERE {where} RETURNING *) \
INSERT INTO {table} ({columns}) SELECT {columns} FROM gone"""

Check = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Subject:
    """A protected table: its quoted names, and what tells whose a row is.

    Predicates name the tenant as ``:tenant``, if they do not ask who is bound.
    """

    name: str
    table: str
    # The column of the tenant, or the first one that refers to an owner; and all that are written.
    column: str
    columns: Sequence[str]
    # That a row is the tenant's.
    holds: str
    # That the tenant may read it; None if the program cannot be told.
    shows: str | None
    # What to write in the column for the row to be the tenant's, or to be refused.
    written: str
    # Whether its rows name no tenant, and are visible with those that they refer to.
    hangs: bool = False

    def own(self, tenant: str) -> str:
        """Return the predicate that a row is `tenant`'s, for a statement that runs as it."""
        return of(tenant, self.holds)

    def seen(self, tenant: str) -> str:
        """Return the predicate that a row is `tenant`'s, as far as can be said of the admin."""
        return of(tenant, (self.hangs and self.shows) or self.holds)

    def foreign(self, tenant: str) -> str:
        """Return the predicate that a row is not `tenant`'s, for a statement that runs as it."""
        return f"({self.own(tenant)}) IS NOT TRUE"

    def hidden(self, tenant: str) -> str | None:
        """Return the predicate that a row is not for `tenant` to read, for the same, or None."""
        return self.shows and f"({of(tenant, self.shows)}) IS NOT TRUE"

    def value(self, tenant: str) -> str:
        """Return what to write in the column for the row to be `tenant`'s, or to be refused."""
        return of(tenant, self.written)

    def sql(self, template: str, where: str = "true", value: str | None = None) -> str:
        """Return a statement about the table; an UPDATE leaves rows as they are without `value`."""
        return template.format(
            table=self.table,
            column=self.column,
            columns=", ".join(self.columns),
            where=where,
            value=value or self.column,
        )


def policy_tests(connection: Any, tenants: Sequence[object]) -> str:
    """Return the definition, in JSON, for two tenants that have rows in every protected table.

    Raises InvalidTenantIdError or RLSConfigurationError for what the program could not run as.
    """
    a, b = (tenant_key().parse(tenant) for tenant in tenants)
    if a == b:
        raise InvalidTenantIdError(f"both tenants are {a!r}; name two")
    for tenant in (a, b):
        if any(character.isspace() for character in str(tenant)):
            raise InvalidTenantIdError(
                f"the tenant {tenant!r} has a space in it, which rls-policy-tester cannot pass on;"
                " name another one"
            )
    subjects = list(protected_tables(connection))
    definition = {
        "schema_version": 1,
        "suite": "tenantry",
        "title": "Every protected table, as two tenants, unbound and as the admin",
        "admin_identity": ANCHOR,
        "params": {TENANTS[0]: jsonable(a), TENANTS[1]: jsonable(b)},
        "identities": identities(connection, [Binding(a), Binding(b)]),
        "fixtures": {"tables": [{"table": each.table, "min_rows": 2} for each in subjects]},
        "checks": [check for subject in subjects for check in checks_of(subject)],
    }
    return json.dumps(definition, indent=2)


def of(tenant: str, sql: str) -> str:
    """Return SQL with the parameter `tenant` for the tenant."""
    return sql.replace(TENANT, f":{tenant}")


def protected_tables(connection: Any) -> Iterator[Subject]:
    """Yield the protected tables that the models say a database has."""
    quote = connection.ops.quote_name
    external = dict(external_models())
    for model in protected_models(connection):
        columns = [
            quote(field.column)
            for field in model._meta.local_concrete_fields
            if not field.generated
        ]
        if model in external:
            column = column_of(model, external[model])
            # It need not be a field's.
            columns = list(dict.fromkeys([*columns, quote(column)]))
            yield naming(model, Way(column), columns, quote)
        elif constraint := constraint_of(model):
            table = quote(model._meta.db_table)
            shared = [each.sql(model, table, TENANT, quote) for each in constraint.extra_predicates]
            yield naming(model, constraint.way_of(model), columns, quote, shared)
        else:
            yield hanging(model, columns, quote)


def naming(
    model: Any, way: Way, columns: Sequence[str], quote: Quote, shared: Sequence[str] = ()
) -> Subject:
    """Return what there is to know of a table whose rows name their tenant, or lead to it."""
    name = model._meta.db_table
    table = quote(name)
    holds = way.holds_sql(table, TENANT, quote)
    column, written = way.column, TENANT
    if way.hops:
        # Of those that others share, if there are any; PostgreSQL asks the policy before NOT NULL.
        column, written = way.hops[0].column, f"({way.keys_sql(TENANT, quote)} LIMIT 1)"
    shows = " OR ".join([holds, *shared])
    is_clear = not PARAMETER.search(shows.replace(TENANT, ""))
    return Subject(name, table, quote(column), columns, holds, shows if is_clear else None, written)


def hanging(model: Any, columns: Sequence[str], quote: Quote) -> Subject:
    """Return what there is to know of a table whose rows are those of what they refer to."""
    name = model._meta.db_table
    table, references = quote(name), references_of(model, apps, quote)
    holds, shows = (all_exist_sql(table, references, own=own) for own in (True, False))
    first = references[0]
    written = "NULL"
    if first.own:
        # One that others share, if there is any.
        rows = f"SELECT {first.alias}.{first.key} FROM {first.table} AS {first.alias}"  # noqa: S608 - quoted
        written = f"({rows} WHERE ({first.own}) IS NOT TRUE LIMIT 1)"
    return Subject(name, table, first.column, columns, holds, shows, written, hangs=True)


def identities(connection: Any, tenants: Sequence[Binding]) -> dict[str, Any]:
    """Return whom the program can be: the anchor is the login that it is started with."""
    settings = rls_tenants()
    app = plain(settings.app_role or connection.settings_dict["USER"])
    admin: dict[str, Any] = {"role": plain(settings.admin_role or app)}
    if settings.sealed:
        admin["dsn"] = option("current_tenant", carried(connection, ADMIN))
    elif settings.admin_role is None:
        admin["dsn"] = option("is_admin", "true")
    found: dict[str, Any] = {
        ANCHOR: {"dsn": "application_name=tenantry", "admin": True},
        ADMIN_NAME: admin,
        UNBOUND_NAME: {"role": app},
    }
    for name, binding in zip(TENANTS, tenants, strict=True):
        dsn = option("current_tenant", carried(connection, binding))
        found[name] = {"role": app, "dsn": dsn}
    return found


def carried(connection: Any, binding: Binding) -> str:
    """Return the value of the parameter that carries `binding`."""
    if rls_tenants().sealed:
        database = connection.settings_dict
        return token(binding, database["OPTIONS"].get("sealed_database") or database["NAME"])
    return str(binding.tenant_id)


def option(parameter: str, value: str) -> str:
    """Return what adds a parameter of ours to a connection string."""
    return f"options=-c{rls_tenants().guc_prefix}.{parameter}={value}"


def plain(role: str) -> str:
    """Return `role` if the program can become it."""
    if not PLAIN_ROLE.fullmatch(role):
        raise RLSConfigurationError(
            f"rls-policy-tester cannot become the role {role!r}; name it with lower-case letters,"
            " digits and underscores"
        )
    return role


def jsonable(tenant: object) -> object:
    """Return a tenant id as JSON can hold it."""
    return tenant if isinstance(tenant, int) else str(tenant)


def checks_of(subject: Subject) -> Iterator[Check]:
    """Yield the checks of one table."""
    for tenant, other in (TENANTS, TENANTS[::-1]):
        yield from tenant_checks(subject, tenant, other)
    yield from unbound_checks(subject)
    yield from admin_checks(subject)


def tenant_checks(subject: Subject, tenant: str, other: str) -> Iterator[Check]:
    """Yield the checks that a tenant works with its own rows, and with no others."""
    own, foreign, value = subject.own(tenant), subject.foreign(tenant), subject.value(other)
    for verb, template in (("select", SELECT), ("update", UPDATE), ("delete", DELETE)):
        yield check(subject, tenant, f"{verb} own", subject.sql(template, own), "allow")
        where = subject.hidden(tenant) if verb == "select" else foreign
        if where is None:
            continue
        # All rows may be shared, and only for a tenant there are rows whose owner is invisible.
        is_proven = not subject.hangs and where == foreign
        proof = {} if is_proven else {"sanity_required": False}
        sql = subject.sql(template, where)
        yield check(subject, tenant, f"{verb} foreign", sql, "deny", **proof)
    yield check(subject, tenant, "insert own", subject.sql(REPLACE, own), "allow")
    yield refused(subject, tenant, "update away", subject.sql(UPDATE, own, value))
    yield refused(subject, tenant, "insert foreign", subject.sql(INSERT, value=value))


def unbound_checks(subject: Subject) -> Iterator[Check]:
    """Yield the checks that unbound code works with no rows at all."""
    for verb, template in (("select", SELECT), ("update", UPDATE), ("delete", DELETE)):
        yield check(subject, UNBOUND_NAME, verb, subject.sql(template), "deny")
    sql = subject.sql(INSERT, value=subject.value(TENANTS[0]))
    yield refused(subject, UNBOUND_NAME, "insert", sql)


def admin_checks(subject: Subject) -> Iterator[Check]:
    """Yield the checks that the admin works with the rows of both tenants."""
    for tenant in TENANTS:
        sql = subject.sql(SELECT, subject.seen(tenant))
        yield check(subject, ADMIN_NAME, f"select {tenant}", sql, "allow")
    for verb, template in (("update", UPDATE), ("delete", DELETE), ("insert", REPLACE)):
        yield check(subject, ADMIN_NAME, verb, subject.sql(template), "allow", min_rows=2)


def check(
    subject: Subject, identity: str, label: str, sql: str, expect: str, **more: object
) -> Check:
    """Return one check; `label` begins with its command."""
    return {
        "id": f"{subject.name}: {identity}: {label}",
        "table": subject.table,
        "as": identity,
        "sql": sql,
        "mode": "read" if label.startswith("select") else "write",
        "expect": expect,
        **more,
    }


def refused(subject: Subject, identity: str, label: str, sql: str) -> Check:
    """Return the check that a row is an error of the policy, and of nothing else."""
    # Nobody could run this statement: it leaves out columns, or repeats a key.
    return check(subject, identity, label, sql, "error", error_match="row-level security policy")
