"""A tenant that was exported is restored row by row; nothing of others is in the file."""

from __future__ import annotations

import gzip
import io
import json
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from django.core.management import CommandError
from django.db import connections

from tenantry import tenant_context
from tenantry.lifecycle.archive import Writer
from tenantry.lifecycle.export import export
from tenantry.seal import seal_keys
from tests import settings as test_settings
from tests.app.models import Author, Note, Tag, Tenant
from tests.fix_checks import broken
from tests.fix_commands import manage
from tests.fix_lifecycle import Contents, command

Tenants = tuple[Tenant, Tenant]
Read = Callable[[], Contents]


def exported(tenant: Tenant, alias: str = "default") -> list[Any]:
    """Return what the lines of a file say."""
    file = io.BytesIO()
    export(connections[alias], tenant, file)
    return [json.loads(line) for line in file.getvalue().splitlines()]


def rewritten(lines: list[Any], path: Path) -> Path:
    """Write lines with a trailer that fits them, as somebody would who wants them imported."""
    header = {name: value for name, value in lines[0].items() if name != "tenantry"}
    with path.open("wb") as file:
        writer = Writer(file, header)
        for line in lines[1:-1]:
            if isinstance(line, dict):
                writer.begin(line["table"])
            else:
                writer.add(line)
        writer.end()
    return path


@pytest.mark.parametrize("alias", ["default", "pool", "pooled", "wire_server_side"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_what_was_exported_is_restored(
    alias: str, name: str, library: Tenants, contents: Read, tmp_path: Path
) -> None:
    a, b = library
    before = contents()
    path = tmp_path / name
    command("export_tenant", a.pk, "--output", path, "--database", alias)
    connections[alias].close()
    command("delete_tenant", a.pk, "--yes", "--also", "app.Shared")
    assert Tenant.objects.get() == b
    text = command("import_tenant", path, "--database", "owner")
    assert contents() == before
    assert "app_item: 3\n" in text
    assert path.stat().st_mode & 0o777 == 0o600
    # The next rows have keys of their own.
    with tenant_context(a.pk):
        Note.objects.create(title="after")
        Author.objects.create(name="after")
    assert Tenant.objects.create(name="after")


def test_a_file_holds_one_tenant_only(library: Tenants) -> None:
    a, _ = library
    lines = exported(a)
    header, *rows, trailer = lines
    assert header["tenant"] == {"model": "app.Tenant", "key": str(a.pk)}
    tables = [each["table"] for each in header["tables"]]
    assert tables == [each["table"] for each in rows if isinstance(each, dict)]
    assert tables.index("app_tenant") < tables.index("app_author") < tables.index("app_note")
    assert tables.index("app_item") < tables.index("app_tagging")
    assert {"Odd table", "app_book", "app_contract", "app_payment"} <= set(tables)
    assert "app_user" not in tables
    assert "app_shared" not in tables
    assert trailer["rows"]["app_note"] == 2
    assert all(trailer["rows"].values())
    text = json.dumps(rows)
    assert "A 1" in text
    assert "B 1" not in text
    assert "B " not in text
    references = {(each["table"], each["target"]) for each in header["references"]}
    assert references == {
        ("app_contract", "app_document"),
        ("app_comment", "django_content_type"),
    }


def test_rows_that_others_share_are_not_exported(
    library: Tenants, superuser: psycopg.Connection[Any]
) -> None:
    a, _ = library
    sharing = "CREATE POLICY shared ON app_author FOR SELECT USING (true)"
    with broken(superuser, sharing, "DROP POLICY shared ON app_author"):
        assert exported(a)[-1]["rows"]["app_author"] == 1


TYPES = {
    "bytea": r"'\x00ff5c0a'",
    "jsonb": """'{"a": [1, null, "\\u00e4\\n\\t\\\\"]}'""",
    "json": """'{"b":  1, "b": 2}'""",
    "integer[]": "'[2:3]={1,NULL}'",
    "text[]": """ARRAY['', NULL, 'a,"b\\\\', E'\\t']""",
    "numeric": "123456789012345678901234567890.123456789000",
    "numeric(9,3)": "'NaN'",
    "double precision": "0.1::float8 + 0.2::float8",
    "real": "'-Infinity'",
    "date": "'infinity'",
    "timestamp with time zone": "'0044-03-15 12:00:00.123456+01 BC'",
    "timestamp": "'294276-12-31 23:59:59.999999'",
    "time with time zone": "'24:00:00-15:59'",
    "interval": "'-1 years 2 mons -3 days 04:05:06.000007'",
    "uuid": "'00000000-0000-0000-0000-00000000000a'",
    "int4range": "'(1,5]'",
    "tstzrange": "'[2026-01-01 00:00+00,)'",
    "datemultirange": "'{[2026-01-01,2026-02-01),[2027-01-01,)}'",
    "inet": "'::1/64'",
    "bit(3)": "B'101'",
    "bit varying": "B'0101'",
    "character(5)": "'a'",
    '"char"': "'x'",
    "boolean": "false",
    "text": r"E'\\N \\. \r\n\t\x01 \u20ac %%s %%'",
    "money": "'12.34'",
    "tsvector": "'''a b'':1A c'",
    "point": "'(0.1,2e-300)'",
    "test_mood": "'so so'",
    "test_domain": "7",
}


def test_no_type_loses_anything(
    library: Tenants,
    contents: Read,
    arrange: psycopg.Connection[Any],
    tmp_path: Path,
) -> None:
    a, _ = library
    columns = ", ".join(f'ADD COLUMN "col %s {n}" {kind}' for n, kind in enumerate(TYPES))
    values = ", ".join(f'"col %s {n}" = {value}' for n, value in enumerate(TYPES.values()))
    values = values.replace("%%", "%")
    how = (
        "CREATE TYPE test_mood AS ENUM ('so so');"
        "CREATE DOMAIN test_domain AS integer CHECK (VALUE > 6);"
        f"ALTER TABLE app_note {columns},"
        " ADD COLUMN made text GENERATED ALWAYS AS (title || '!') STORED,"
        ' ADD COLUMN "counted %s" bigint GENERATED ALWAYS AS IDENTITY;'
        # One of the two rows; the other has NULL in each.
        f"UPDATE app_note SET {values} WHERE title LIKE '%1'"
    )
    drops = ", ".join(f'DROP COLUMN "col %s {n}"' for n in range(len(TYPES)))
    back = (
        f'ALTER TABLE app_note {drops}, DROP COLUMN made, DROP COLUMN "counted %s";'
        "DROP TYPE test_mood; DROP DOMAIN test_domain"
    )
    path = tmp_path / "a.jsonl.gz"
    with broken(arrange, how, back):
        before = contents()
        command("export_tenant", a.pk, "--output", path)
        command("delete_tenant", a.pk, "--yes", "--also", "app.Shared")
        command("import_tenant", path, "--database", "owner")
        assert contents() == before
    connections["default"].close()


def test_floats_lose_nothing_where_the_role_has_them_rounded(
    library: Tenants,
    contents: Read,
    arrange: psycopg.Connection[Any],
    tmp_path: Path,
) -> None:
    a, _ = library
    how = (
        "ALTER TABLE app_note ADD COLUMN size double precision, ADD COLUMN weight real;"
        "ALTER TABLE app_tenant ADD COLUMN share float8 DEFAULT 0.1::float8 + 0.2::float8;"
        "UPDATE app_note SET size = 0.1::float8 + 0.2::float8, weight = 1.1000001;"
        "ALTER ROLE app SET extra_float_digits = 0; ALTER ROLE owner SET extra_float_digits = -1"
    )
    back = (
        "ALTER TABLE app_note DROP COLUMN size, DROP COLUMN weight;"
        "ALTER TABLE app_tenant DROP COLUMN share;"
        "ALTER ROLE app RESET extra_float_digits; ALTER ROLE owner RESET extra_float_digits"
    )
    path = tmp_path / "a.jsonl"
    for alias in ("default", "owner"):
        connections[alias].close()
    with broken(arrange, how, back):
        before = contents()
        command("export_tenant", a.pk, "--output", path)
        # The tenant's own row, where it stays, is compared.
        for options in ([], ["--keep-tenant"]):
            command("delete_tenant", a.pk, "--yes", "--also", "app.Shared", *options)
            command("import_tenant", path, "--database", "owner")
            assert contents() == before
    for alias in ("default", "owner"):
        connections[alias].close()


class Hooked(io.BytesIO):
    """Calls back when a table begins."""

    def __init__(self, hook: Callable[[], object]) -> None:
        super().__init__()
        self.hook = hook

    def write(self, data: Any) -> int:
        if data.startswith(b'{"table":'):
            self.hook()
        return super().write(data)


def test_an_export_is_of_one_moment(library: Tenants, superuser: psycopg.Connection[Any]) -> None:
    a, _ = library
    rows = exported(a)[-1]["rows"]

    def insert() -> None:
        superuser.execute("INSERT INTO app_tag (name, tenant_id) VALUES ('new', %s)", [a.pk])
        superuser.execute("INSERT INTO app_author (name, tenant_id) VALUES ('new', %s)", [a.pk])

    file = Hooked(insert)
    assert export(connections["pool"], a, file) == rows
    connections["pool"].close()
    assert exported(a)[-1]["rows"]["app_tag"] > rows["app_tag"]


def test_an_export_that_fails_leaves_no_file(
    library: Tenants, arrange: psycopg.Connection[Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("before")
    refuse = "REVOKE SELECT ON app_payment FROM app"
    grant = "GRANT SELECT ON app_payment TO app"
    refused = (
        "app_payment cannot be exported: permission denied for table app_payment; run export_tenant"
        " as the owner of the tables, or GRANT the role what it lacks"
    )
    with broken(arrange, refuse, grant), pytest.raises(CommandError, match=refused):
        command("export_tenant", library[0].pk, "--output", path)
    assert [each.read_text() for each in tmp_path.iterdir()] == ["before"]


@pytest.mark.unsealed
def test_an_export_under_policies_that_are_not_sealed_does_not_show_the_seal(
    library: Tenants, settings: Any
) -> None:
    sealed = {"SEALED": True, "SEAL_KEYS": ["a secret that is long enough for a test"]}
    settings.RLS_TENANTS = test_settings.RLS_TENANTS | sealed | {"GUC_PREFIX": "new"}
    with pytest.raises(CommandError, match=r"(?s)new_sealed.*run makemigrations") as raised:
        command("export_tenant", library[0].pk)
    assert seal_keys()[0].name not in "".join(traceback.format_exception(raised.value))


def test_an_export_goes_to_the_standard_output(
    library: Tenants, processes: dict[str, str], tmp_path: Path
) -> None:
    a, _ = library
    result = manage("export_tenant", a.name, "--by", "name")
    assert [json.loads(line) for line in result.stdout.splitlines()][1:-1] == exported(a)[1:-1]
    path = tmp_path / "a.jsonl"
    path.write_text(result.stdout)
    with pytest.raises(CommandError, match=r"which has rows in '.*' already"):
        command("import_tenant", path, "--database", "owner")
    assert result.stderr.endswith(" tables\n")


def test_the_next_keys_are_new_in_another_database(
    library: Tenants, superuser: psycopg.Connection[Any], tmp_path: Path
) -> None:
    path = tmp_path / "a.jsonl"
    a, b = library
    key = b.pk
    command("export_tenant", key, "--output", path)
    for tenant in (a, b):
        command("delete_tenant", tenant.pk, "--yes", "--also", "app.Shared")
    # One of them stands at the key of the imported row, and has not given it.
    for sequence, start in (("app_tenant", 1), ("app_author", 2), ("app_note", 1)):
        superuser.execute(f"ALTER SEQUENCE {sequence}_id_seq RESTART WITH {start}".encode())
    # Models that the other one has besides are no obstacle.
    more = "INSERT INTO django_content_type (app_label, model) VALUES ('more', 'more')"
    with broken(superuser, more, "DELETE FROM django_content_type WHERE app_label = 'more'"):
        command("import_tenant", path, "--database", "owner", "--dry-run")
        assert superuser.execute("SELECT last_value FROM app_note_id_seq").fetchone() == (1,)
        command("import_tenant", path, "--database", "owner")
    with tenant_context(key):
        new = Note.objects.create(title="new"), Author.objects.create(name="new")
    last = superuser.execute("SELECT max(id) FROM app_note").fetchone()
    assert [each.pk for each in new] == [last and last[0], 3]
    assert Tenant.objects.create(name="new").pk == key + 1


def test_the_tenants_own_row_may_be_there_if_it_is_the_same(
    library: Tenants, tmp_path: Path
) -> None:
    path, (_, b) = tmp_path / "b.jsonl", library
    before = exported(b)
    command("export_tenant", b.pk, "--output", path)
    command("delete_tenant", b.pk, "--yes", "--keep-tenant", "--also", "app.Shared")
    own = Tenant.objects.filter(pk=b.pk)
    own.update(name="somebody else")
    with pytest.raises(CommandError, match="in 'app_tenant' is not the one that is here"):
        command("import_tenant", path, "--database", "owner")
    own.update(name=b.name)
    # Nor may there be rows of which a file of an older schema knows nothing.
    tables = [each for each in before[0]["tables"] if each["table"] == "app_tenant"]
    start = before.index({"table": "app_tenant"})
    older = [{**before[0], "tables": tables}, *before[start : start + 2], {}]
    with tenant_context(b.pk):
        left = Tag.objects.create(name="left")
        refused(rewritten(older, tmp_path / "older.jsonl"), "has rows in 'app_tag' already")
        left.delete()
    assert "app_tenant: 0\n" in command("import_tenant", path, "--database", "owner")
    assert exported(b)[1:-1] == before[1:-1]


def test_an_export_without_a_name_is_written_out(
    library: Tenants, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    command("export_tenant", library[0].pk)
    lines = [json.loads(line) for line in capsysbinary.readouterr().out.splitlines()]
    assert lines[1:-1] == exported(library[0])[1:-1]


class OfDefault:
    """Let tables migrate to one database, of which others are replicas."""

    def allow_migrate(self, db: str, app_label: str, **hints: Any) -> bool:
        return db == "default"


def test_a_database_without_the_protected_tables_is_refused(
    library: Tenants, contents: Read, settings: Any, tmp_path: Path
) -> None:
    a, _ = library
    settings.DATABASE_ROUTERS = [OfDefault()]
    path = tmp_path / "a.jsonl"
    before = contents()
    for name, *arguments in (
        ("export_tenant", a.pk, "--output", path),
        ("delete_tenant", a.pk, "--yes"),
        ("delete_tenant", a.pk, "--dry-run"),
    ):
        message = "the database 'pooled' has none of the protected tables, as allow_migrate"
        with pytest.raises(CommandError, match=message):
            command(name, *arguments, "--database", "pooled")
    assert contents() == before
    assert not path.exists()
    command("export_tenant", a.pk, "--output", path)
    connections["pooled"].close()


def test_a_tenant_that_has_gone_is_not_exported(tenants: Tenants) -> None:
    gone = Tenant(pk=77)
    with pytest.raises(CommandError, match="the tenant 77 has no row in app_tenant any more"):
        exported(gone)


# What is refused.


@pytest.fixture
def gone(library: Tenants, tmp_path: Path) -> tuple[Tenant, list[Any], Path]:
    """Return a tenant that was exported and deleted, the lines, and their file."""
    a, _ = library
    key = a.pk
    lines = exported(a)
    path = rewritten(lines, tmp_path / "a.jsonl")
    command("delete_tenant", key, "--yes", "--also", "app.Shared")
    return Tenant(pk=key, name="A"), lines, path


Gone = tuple[Tenant, list[Any], Path]


def refused(path: Path, message: str, *options: str, alias: str = "owner") -> None:
    with pytest.raises(CommandError, match=message) as caught:
        command("import_tenant", path, "--database", alias, *options)
    if "sequence" not in message and "cannot read" not in message:
        assert "nothing of it was imported" in str(caught.value)


def test_a_file_without_its_end_is_refused(gone: Gone, contents: Read) -> None:
    _, _, path = gone
    before = contents()
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    for count in range(len(lines)):
        path.write_bytes(b"".join(lines[:count]))
        refused(path, "not written by export_tenant" if count == 0 else "is truncated; export")
    path.write_bytes(whole[:-10])
    refused(path, "is damaged or truncated")
    path.write_bytes(whole + b"{}\n")
    refused(path, "has data after its last line")
    path.write_bytes(whole.replace(b"A 1", b"A 3"))
    refused(path, "was changed after export_tenant wrote it")
    packed = path.with_suffix(".gz")
    packed.write_bytes(gzip.compress(whole)[:-20])
    refused(packed, "is damaged or truncated")
    packed.write_bytes(whole)
    refused(packed, "is damaged or truncated")
    path.write_bytes(gzip.compress(whole))
    refused(path, "does not end with .gz where it is compressed")
    missing = str(path.with_name("missing"))
    refused(Path(missing), f"^cannot read '{missing}': No such file or directory; name a file of")
    assert contents() == before


def test_a_dry_run_inserts_and_takes_it_back(gone: Gone, contents: Read) -> None:
    _, _, path = gone
    before = contents()
    text = command("import_tenant", path, "--database", "owner", "--dry-run")
    assert text.endswith("rows would be imported\n")
    assert contents() == before
    command("import_tenant", path, "--database", "owner")
    refused(path, "which has rows in")


def test_a_role_that_may_not_read_is_told_who_may(
    gone: Gone, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    _, _, path = gone
    before = contents()
    refuse = "REVOKE SELECT ON app_payment FROM app"
    said = (
        "permission denied for table app_payment; run import_tenant as the owner of the tables, or"
        " GRANT the role what it lacks; nothing of it was imported"
    )
    with (
        broken(arrange, refuse, "GRANT SELECT ON app_payment TO app"),
        pytest.raises(CommandError, match=said),
    ):
        command("import_tenant", path, "--database", "default")
    assert contents() == before


def change(lines: list[Any], table: str, column: str, value: str) -> None:
    """Give all rows of a table another value."""
    [header] = [each for each in lines[0]["tables"] if each["table"] == table]
    within = False
    for line in lines[1:-1]:
        if isinstance(line, dict):
            within = line["table"] == table
        elif within:
            line[header["columns"].index(column)] = value


def test_rows_of_another_tenant_are_refused(gone: Gone, library: Tenants, contents: Read) -> None:
    _, lines, path = gone
    before = contents()
    change(lines, "app_tag", "tenant_id", str(library[1].pk))
    refused(rewritten(lines, path), "violates row-level security policy for table .app_tag.")
    assert contents() == before


def test_another_tenant_is_refused(gone: Gone, contents: Read) -> None:
    _, lines, path = gone
    before = contents()
    change(lines, "app_tenant", "id", "77")
    refused(rewritten(lines, path), "does not fit the database|of which 0 are the tenant's")
    assert contents() == before


def test_keys_that_are_taken_are_refused(
    gone: Gone, superuser: psycopg.Connection[Any], library: Tenants
) -> None:
    _, _, path = gone
    superuser.execute(
        "INSERT INTO app_author (id, name, tenant_id) VALUES (1, 'of B', %s)", [library[1].pk]
    )
    refused(path, "duplicate key value violates unique constraint .app_author_pkey.")


def test_a_missing_row_of_a_shared_table_is_refused(
    gone: Gone, superuser: psycopg.Connection[Any]
) -> None:
    _, _, path = gone
    superuser.execute("DELETE FROM app_document WHERE text LIKE 'A%'")
    for options in (["--dry-run"], []):
        refused(path, "is not present in table .app_document.", *options)


def test_a_row_that_a_trigger_drops_is_missed(
    gone: Gone, contents: Read, arrange: psycopg.Connection[Any]
) -> None:
    _, _, path = gone
    before = contents()
    how = (
        "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';"
        "CREATE TRIGGER lose BEFORE INSERT ON app_payment FOR EACH ROW EXECUTE FUNCTION lose()"
    )
    with broken(arrange, how, "DROP FUNCTION lose CASCADE"):
        refused(path, "has 2 rows of 'app_payment', of which 0 are the tenant's; see whether a tr")
    assert contents() == before


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tenantry", 2, "has the format 2, and this release reads 1"),
        ("date_style", "SQL, DMY", "was written with date_style 'SQL, DMY', and this .* has 'ISO"),
        ("content_types", {"1": "x.y"}, "was written with content_types"),
        ("tenant", {"model": "x.Y", "key": "1"}, "a tenant of the model x.Y, but .* is app"),
    ],
)
def test_another_meaning_is_refused(name: str, value: Any, message: str, gone: Gone) -> None:
    _, _, path = gone
    header, _, rest = path.read_text().partition("\n")
    path.write_text(json.dumps(json.loads(header) | {name: value}) + "\n" + rest)
    refused(path, message)


def test_another_schema_is_refused(gone: Gone) -> None:
    _, lines, path = gone
    table = lines[0]["tables"][0]
    table["columns"].append("extra")
    refused(rewritten(lines, path), f"has columns that '{table['table']}' lacks here: extra")
    table["columns"].pop()
    table["table"] = "app_user"
    refused(rewritten(lines, path), "has rows of 'app_user', which is not a protected table")


def test_a_row_unlike_its_header_is_refused(gone: Gone) -> None:
    _, lines, path = gone
    first = next(line for line in lines if isinstance(line, list))
    first.append("more")
    whole = path.read_text().splitlines(keepends=True)
    path.write_text("".join([whole[0], '"nothing"\n', *whole[1:]]))
    refused(path, "has a line that cannot be read")
    refused(rewritten(lines, path), "that is not like its header")
    path.write_text('{"tenantry": 1}\n')
    refused(path, "has a header without 'tenant'")


def test_a_role_that_may_not_move_sequences_is_refused(gone: Gone, contents: Read) -> None:
    _, _, path = gone
    before = contents()
    message = r"may not move the sequences .* UPDATE ON SEQUENCE \w+_seq(, \w+_seq)+ TO it$"
    refused(path, message, alias="default")
    assert contents() == before
