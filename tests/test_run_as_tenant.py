"""``run_as_tenant`` opens a scope around any command, and psql gets the binding too."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from tenantry import admin_context, tenant_context
from tenantry.exceptions import UnbindableStatementError
from tests import settings as test_settings
from tests.app.models import Tenant
from tests.fix_commands import manage

Tenants = tuple[Tenant, Tenant]


def run(*arguments: object) -> str:
    output = io.StringIO()
    call_command("run_as_tenant", *map(str, arguments), stdout=output)
    return output.getvalue()


def test_a_command_sees_the_rows_of_its_tenant(tenants: Tenants) -> None:
    a, b = tenants
    assert run(a.pk, "probe") == f"{a.pk}  [] A 1,A 2\n"
    assert run(b.pk, "probe") == f"{b.pk}  [] B 1,B 2\n"
    assert run("--by", "name", "B", "probe") == f"{b.pk}  [] B 1,B 2\n"
    assert run("--admin", "probe") == "None admin [] A 1,A 2,B 1,B 2\n"


def test_arguments_pass_through_untouched(tenants: Tenants) -> None:
    a, _ = tenants
    expected = f"{a.pk}  ['--by', 'x', '--', 'y'] A 1,A 2\n"
    assert run(a.pk, "probe", "--repeat=1", "--", "--by", "x", "--", "y") == expected
    assert run(a.pk, "--", "probe", "--repeat=2", "w") == f"{a.pk}  ['w'] A 1,A 2\n" * 2
    assert run("--", a.pk, "probe", "--repeat", 1) == f"{a.pk}  [] A 1,A 2\n"
    assert run("--admin", "--", "probe", "z") == "None admin ['z'] A 1,A 2,B 1,B 2\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["999", "probe"], "there is no tenant whose pk is '999'; list the tenants with:"),
        (["acme", "probe"], "tenant_id 'acme' is not a decimal number; .* --by FIELD"),
        (["--by", "name", "C", "probe"], "there is no tenant whose name is 'C'"),
        (["--by", "nome", "C", "probe"], "'nome', which is not a unique field .* one of id, name"),
        (["--by", "user", "C", "probe"], "'user', which is not a unique field"),
        (["1"], "run_as_tenant 1 lacks a command"),
        (["1", "nonsense"], "there is no command 'nonsense'"),
        (["--admin", "--by", "name", "probe"], "cannot be combined"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], message: str, tenants: Tenants) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_a_command_writes_what_it_writes_by_itself(tenants: Tenants) -> None:
    a, _ = tenants
    written = run(a.pk, "dumpdata", "app.Note", "--format", "jsonl")
    lines = [json.loads(line) for line in written.splitlines()]
    assert [line["fields"]["title"] for line in lines] == ["A 1", "A 2"]


def test_a_process_exits_as_the_command_does(tenants: Tenants, processes: dict[str, str]) -> None:
    a, _ = tenants
    result = manage("run_as_tenant", a.pk, "probe", "--fail-for", a.pk, "--exit-code", 7)
    assert (result.returncode, result.stdout) == (7, f"{a.pk}  [] A 1,A 2\n")
    result = manage("run_as_tenant", a.pk, "probe", "--fail-for", a.pk)
    assert result.returncode == 1
    assert result.stderr == f"CommandError: no luck with {a.pk}\n"
    assert manage("run_as_tenant", 999, "probe").returncode == 1


def test_a_shell_runs_as_the_tenant(tenants: Tenants, processes: dict[str, str]) -> None:
    code = "from tests.app.models import Note; print(*Note.objects.all().values_list('title'))"
    result = manage("run_as_tenant", tenants[1].pk, "shell", "-c", code)
    assert result.stdout.splitlines()[-1] == "('B 1',) ('B 2',)", result.stderr


COUNT = "SELECT string_agg(title, ',' ORDER BY title) FROM app_note"


@pytest.mark.unsealed
def test_psql_runs_as_the_tenant(tenants: Tenants, processes: dict[str, str]) -> None:
    a, _ = tenants
    result = manage("run_as_tenant", a.pk, "dbshell", "--", "-At", text=COUNT)
    assert result.stdout == "A 1,A 2\n", result.stderr
    result = manage("run_as_tenant", "--admin", "dbshell", "--", "-At", text=COUNT)
    assert result.stdout == "A 1,A 2,B 1,B 2\n", result.stderr
    result = manage("dbshell", "--", "-At", text=COUNT)
    assert result.stdout == "\n", result.stderr


@pytest.mark.unsealed
def test_options_for_psql_are_escaped(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    monkeypatch.setenv("PGOPTIONS", "-c work_mem=8MB")
    settings.RLS_TENANTS = {**test_settings.RLS_TENANTS, "TENANT_PK_TYPE": "text"}
    client: Any = connections["default"].client
    config = connections["default"].settings_dict
    with tenant_context("two words"):
        _, env = client.settings_to_cmd_args_env(config, [])
    assert env["PGOPTIONS"].startswith(r"-c work_mem=8MB -c rls.current_tenant=two\ words -c ")
    assert client.settings_to_cmd_args_env(config, [])[1] is None


@pytest.mark.sealed_shape
def test_psql_cannot_be_sealed(tenants: Tenants) -> None:
    client: Any = connections["default"].client
    for scope in (tenant_context(tenants[0].pk), admin_context()):
        with scope, pytest.raises(UnbindableStatementError, match="psql cannot run as a tenant"):
            client.settings_to_cmd_args_env(connections["default"].settings_dict, [])
    with pytest.raises(CommandError, match="use the Python shell"):
        run(tenants[0].pk, "dbshell")
