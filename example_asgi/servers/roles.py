"""Roles, and the databases they own or work with."""

from __future__ import annotations

import psycopg
from psycopg import sql


def ensure_role(conninfo: str, name: str, *, createdb: bool = False) -> None:
    """Create a login role that RLS binds, or make an existing one so."""
    role, may_create = sql.Identifier(name), sql.SQL("CREATEDB" if createdb else "NOCREATEDB")
    with psycopg.connect(conninfo) as connection:
        found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE ROLE {}").format(role))
        command = sql.SQL("ALTER ROLE {} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE {}")
        connection.execute(command.format(role, may_create))


def ensure_admin_role(conninfo: str, name: str, *, members: list[str]) -> None:
    """Create a role for the admin, whom `members` can become without inheriting from it."""
    role = sql.Identifier(name)
    with psycopg.connect(conninfo) as connection:
        found = connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [name]).fetchone()
        if found is None:
            connection.execute(sql.SQL("CREATE ROLE {} NOLOGIN").format(role))
        for member in members:
            command = sql.SQL("GRANT {} TO {} WITH INHERIT FALSE, SET TRUE")
            connection.execute(command.format(role, sql.Identifier(member)))


def ensure_database(conninfo: str, name: str, *, owner: str) -> None:
    """Create a database unless it is there, in which only the owner makes temporary tables.

    Where bindings are sealed, nobody else may.
    """
    query = "SELECT FROM pg_database WHERE datname = %s"
    with psycopg.connect(conninfo, autocommit=True) as connection:
        if connection.execute(query, [name]).fetchone() is None:
            database = sql.Identifier(name)
            command = sql.SQL("CREATE DATABASE {} OWNER {}")
            connection.execute(command.format(database, sql.Identifier(owner)))
            command = sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC")
            connection.execute(command.format(database))


def grant_by_default(conninfo: str, *, owner: str, to: str) -> None:
    """Let role `to` work with the tables and sequences that `owner` will create in this database.

    `conninfo` is of a role that may act for `owner`.
    """
    for privileges in ("SELECT, INSERT, UPDATE, DELETE ON TABLES", "USAGE ON SEQUENCES"):
        command = sql.SQL("ALTER DEFAULT PRIVILEGES FOR ROLE {} GRANT {} TO {}").format(
            sql.Identifier(owner), sql.SQL(privileges), sql.Identifier(to)
        )
        with psycopg.connect(conninfo) as connection:
            connection.execute(command)
