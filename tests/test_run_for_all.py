"""``run_for_all_tenants`` runs a command as each tenant, and says what became of it."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from tenantry.runs import children as children_module
from tenantry.runs import ledger as ledger_module
from tenantry.runs.children import Children, Outcome
from tenantry.runs.files import write_json
from tenantry.runs.fleet import Fleet
from tenantry.runs.interruption import Interrupted, signals
from tenantry.runs.ledger import Ledger
from tenantry.runs.progress import Lines, progress
from tests.app.models import Tenant, User
from tests.fix_commands import ROOT, manage
from tests.fix_faults import wait_for

Tenants = tuple[Tenant, Tenant]
DJANGO = [sys.executable, "-m", "django"]
pytestmark = pytest.mark.usefixtures("processes")


def run(*arguments: object) -> tuple[int, list[str], list[str]]:
    """Return the exit code, and the lines of output and of progress."""
    output, errors = io.StringIO(), io.StringIO()
    try:
        call_command("run_for_all_tenants", *map(str, arguments), stdout=output, stderr=errors)
    except SystemExit as error:
        code = int(error.code or 0)
    else:
        code = 0
    return code, output.getvalue().splitlines(), errors.getvalue().splitlines()


def statuses(path: Path) -> dict[str, str]:
    return {each["tenant"]: each["status"] for each in json.loads(path.read_text())["tenants"]}


@pytest.fixture
def third(tenants: Tenants) -> Tenant:
    return Tenant.objects.create(name="C")


def test_each_tenant_sees_its_own_rows(tenants: Tenants) -> None:
    a, b = tenants
    code, output, errors = run("probe", "--", "--x")
    assert code == 0
    assert output == [f"[{a.pk}] {a.pk}  ['--x'] A 1,A 2", f"[{b.pk}] {b.pk}  ['--x'] B 1,B 2"]
    assert [line.rpartition(" ok ")[0] for line in errors[:2]] == [f"[1/2] {a.pk}", f"[2/2] {b.pk}"]
    assert errors[2] == "probe -- --x: 2 ok"


def test_tenants_are_chosen(tenants: Tenants, third: Tenant) -> None:
    def chosen(*options: object) -> str:
        code, output, _ = run(*options, "--list")
        assert code == 0
        return "".join(line.partition("\t")[0] for line in output)

    a, b, c = tenants[0].pk, tenants[1].pk, third.pk
    assert chosen() == f"{a}{b}{c}"
    assert chosen("--filter", "name=B") == f"{b}"
    assert chosen("--filter", "name__in=A,C") == f"{a}{c}"
    assert chosen("--filter", "name__range=A,B") == f"{a}{b}"
    assert chosen("--filter", "name__in=A,C", "--filter", f"pk__gt={a}") == f"{c}"
    assert chosen("--exclude", "name=B", "--exclude", "name=C") == f"{a}"
    assert chosen("--filter", "user__isnull=TRUE") == f"{a}{b}{c}"
    assert chosen("--only", b, "--only", a) == f"{a}{b}"
    # Once, however many rows of another table the condition finds.
    for name in ("x", "y"):
        User.objects.create(username=name, tenant=tenants[1])
    assert chosen("--filter", "user__isnull=false") == f"{b}"
    assert chosen("--filter", "user__username__in=x,y", "--only", b) == f"{b}"
    assert chosen("--exclude", "user__username=x") == f"{a}{c}"
    assert run("--filter", "name=Z", "probe") == (0, [], ["probe: no tenants"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "nome=B", "probe"], "'nome=B' is not a condition on app.Tenant"),
        (["--filter", "id=B", "probe"], "'id=B' is not a condition on app.Tenant"),
        (["--exclude", "name", "probe"], "'name' is not a condition .* it has no ="),
        (["--filter", "user__isnull=2", "probe"], "'2' is neither true nor false"),
        (["--only", "99", "probe"], "--only names tenants that do not exist.*: 99;"),
        (["--only", "x", "probe"], "'x' is not a decimal number.* --filter FIELD=VALUE, or list"),
        (["--jobs", "0", "probe"], "--jobs: 0 is too few; give 1 or more"),
        (["nonsense"], "there is no command 'nonsense'"),
        (["shell"], "shell wants a terminal; run it for one tenant"),
        (["--"], "the following arguments are required: COMMAND"),
        ([], "the following arguments are required: COMMAND"),
    ],
)
def test_what_is_wrong_is_named(arguments: list[str], message: str, tenants: Tenants) -> None:
    with pytest.raises(CommandError, match=message):
        run(*arguments)


def test_settings_must_be_found(tenants: Tenants, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DJANGO_SETTINGS_MODULE")
    with pytest.raises(CommandError, match="set it, instead of calling settings"):
        run("probe")


def test_one_failure_does_not_stop_the_others(
    tenants: Tenants, third: Tenant, tmp_path: Path
) -> None:
    a, b = tenants
    report = tmp_path / "report.json"
    code, output, errors = run(
        "--json", report, "--jobs", 3, "probe", "--fail-for", b.pk, "--exit-code", 7
    )
    assert code == 1
    assert {line.split()[0] for line in output} == {f"[{a.pk}]", f"[{b.pk}]", f"[{third.pk}]"}
    assert any(f"] {b.pk} failed with 7 " in line for line in errors)
    found = json.loads(report.read_text())
    assert found["command"] == ["probe", "--fail-for", str(b.pk), "--exit-code", "7"]
    assert (found["exit_code"], found["counts"]) == (1, {"ok": 2, "failed": 1})
    one = found["tenants"][1]
    assert one.pop("seconds") > 0
    assert one == {
        "tenant": str(b.pk),
        "status": "failed",
        "exit_code": 7,
        "output": [f"{b.pk}  [] B 1,B 2"],
    }


def test_fail_fast_starts_no_other(tenants: Tenants, third: Tenant, tmp_path: Path) -> None:
    a, b = tenants
    report = tmp_path / "report.json"
    code, output, _ = run("--fail-fast", "--json", report, "probe", "--fail-for", a.pk)
    assert code == 1
    expected = {str(a.pk): "failed", str(b.pk): "not run", str(third.pk): "not run"}
    assert statuses(report) == expected
    assert {line.split()[0] for line in output} == {f"[{a.pk}]"}


def test_a_report_keeps_the_last_lines(tenants: Tenants, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    _, output, _ = run("--only", tenants[0].pk, "--json", report, "probe", "--repeat", 500)
    assert len(output) == 500
    found = json.loads(report.read_text())
    assert len(found["tenants"][0]["output"]) == children_module.KEPT


def test_a_run_is_resumed(tenants: Tenants, third: Tenant, tmp_path: Path) -> None:
    a, b = tenants
    ran, state, report = tmp_path / "ran", tmp_path / "state.json", tmp_path / "report.json"
    ran.mkdir()
    command = ["probe", "--touch-in", ran, "--fail-for", b.pk]
    assert run("--resume", state, *command)[0] == 1
    assert json.loads(state.read_text())["done"] == [str(a.pk), str(third.pk)]
    code, output, errors = run("--resume", state, "--json", report, *command)
    assert code == 1
    assert {line.split()[0] for line in output} == {f"[{b.pk}]"}
    assert errors[0].startswith(f"[1/1] {b.pk} failed")
    assert statuses(report) == {str(a.pk): "skipped", str(b.pk): "failed", str(third.pk): "skipped"}
    times = {path.name: path.read_text().count("ran") for path in ran.iterdir()}
    assert times == {str(a.pk): 1, str(b.pk): 2, str(third.pk): 1}


def test_a_file_of_another_command_is_refused(tenants: Tenants, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert run("--resume", state, "probe")[0] == 0
    with pytest.raises(CommandError, match=r"of the command \['probe'\], not \['probe', 'x'\]"):
        run("--resume", state, "probe", "x")
    state.write_text("[]")
    with pytest.raises(CommandError, match="which run_for_all_tenants did not write"):
        run("--resume", state, "probe")


@pytest.mark.parametrize("option", ["--resume", "--json"])
def test_a_file_that_cannot_be_written_is_said_before_anything_runs(
    option: str, tenants: Tenants, tmp_path: Path
) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    with pytest.raises(CommandError, match=r"cannot write '.*no folder/x.json': No such file"):
        run(option, tmp_path / "no folder" / "x.json", "probe", "--touch-in", ran)
    assert list(ran.iterdir()) == []


def test_a_report_does_not_take_the_place_of_what_a_run_goes_on_from(
    tenants: Tenants, tmp_path: Path
) -> None:
    state, again = tmp_path / "state.json", tmp_path / "x" / ".." / "state.json"
    (tmp_path / "x").mkdir()
    with pytest.raises(CommandError, match=r"--json and --resume both name .*; name two files"):
        run("--json", again, "--resume", state, "probe")
    assert not state.exists()


def test_what_is_no_regular_file_is_not_replaced(tenants: Tenants, tmp_path: Path) -> None:
    ran, link, pipe = tmp_path / "ran", tmp_path / "link", tmp_path / "pipe"
    ran.mkdir()
    link.symlink_to(tmp_path / "file")
    os.mkfifo(pipe)
    for path in (tmp_path, Path(), Path("/"), link, pipe):
        with pytest.raises(CommandError, match=f"cannot write '{path}', which is not a regular"):
            run("--json", path, "probe", "--touch-in", ran)
        with pytest.raises(CommandError, match="which is not a regular file; name a regular"):
            call_command("export_tenant", str(tenants[0].pk), "--output", str(path))
    with pytest.raises(CommandError, match=f"cannot write '{pipe}', which is not a regular"):
        run("--resume", pipe, "probe", "--touch-in", ran)
    assert list(ran.iterdir()) == []
    assert link.is_symlink()
    assert pipe.is_fifo()
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    ledger = Ledger(path, ["probe"])
    ledger.add("1")
    before = path.read_text()
    ledger.command = [object()]  # type: ignore[list-item]  # which JSON cannot hold
    with pytest.raises(TypeError):
        ledger.add("2")
    assert path.read_text() == before
    assert [each.name for each in tmp_path.iterdir()] == ["state.json"]
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.fixture
def told() -> Iterator[None]:
    """Let programs that the test starts hear SIGHUP, which ``nohup`` keeps from all it runs."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("number", "finish"),
    [
        (signal.SIGINT, []),
        (signal.SIGINT, ["--finish"]),
        (signal.SIGTERM, []),
        (signal.SIGHUP, []),
    ],
)
@pytest.mark.usefixtures("told")
def test_an_interruption_ends_the_children(
    number: signal.Signals, finish: list[str], tenants: Tenants, third: Tenant, tmp_path: Path
) -> None:
    a, b = tenants
    report, state, waits = (tmp_path / name for name in ("report.json", "state.json", "waits"))
    waits.mkdir()
    options = ["--jobs", "2", "--json", str(report), "--resume", str(state)]
    process = subprocess.Popen(
        [*DJANGO, "run_for_all_tenants", *options, "probe", "--wait-in", str(waits), *finish],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    wait_for(lambda: len([p for p in waits.iterdir() if p.read_text()]) == 2, 60)
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    # What ends well, although it was interrupted, is done.
    status, code = ("ok", 0) if finish else ("interrupted", 130)
    assert statuses(report) == {str(a.pk): status, str(b.pk): status, str(third.pk): "not run"}
    found = json.loads(report.read_text())
    assert [each["exit_code"] for each in found["tenants"]] == [code, code, None]
    assert found["exit_code"] == 130
    assert len(json.loads(state.read_text())["done"]) == (2 if finish else 0)
    for path in waits.iterdir():
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)


def test_who_does_not_hear_of_a_terminal_that_is_gone_goes_on() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals():
            signal.raise_signal(signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_child_that_will_not_end_is_killed(
    tenants: Tenants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "PATIENCE", 0.1)
    program = tmp_path / "stubborn.py"
    program.write_text(
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "print('ready', flush=True)\nsignal.pause()\n"
    )
    heard = threading.Event()
    children = Children([], lambda tenant, line: heard.set(), program=(str(program),))
    outcome = Outcome("1")
    thread = threading.Thread(target=children.run, args=[outcome])
    thread.start()
    assert heard.wait(30)
    children.kill()
    thread.join(30)
    assert (outcome.status, outcome.exit_code) == ("interrupted", 128 + signal.SIGKILL)
    late = children.run(Outcome("2"))
    assert late.status == "not run"


def test_a_child_whom_nobody_hears_is_ended(tmp_path: Path) -> None:
    program = tmp_path / "long.py"
    program.write_text(
        "import os, signal\nprint(os.getpid(), flush=True)\nwhile True:\n    signal.pause()\n"
    )
    heard: list[int] = []

    def say(tenant: str, line: str) -> None:
        heard.append(int(line))
        raise BrokenPipeError

    children, outcome = Children([], say, program=(str(program),)), Outcome("1")
    with pytest.raises(BrokenPipeError):
        children.run(outcome)
    with pytest.raises(ProcessLookupError):
        os.kill(heard[0], 0)
    assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
    assert not children.running
    assert children.run(Outcome("2")).status == "not run"


def test_what_is_no_text_is_passed_on_as_far_as_it_is_one() -> None:
    program = ("-c", r"import os; os.write(1, b'\xff one\n')")
    heard: list[str] = []
    outcome = Outcome("1")
    Children([], lambda tenant, line: heard.append(line), program=program).run(outcome)
    assert (heard, outcome.status) == (["\N{REPLACEMENT CHARACTER} one"], "ok")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_interrupts_again_waits_for_nobody(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children_module, "PATIENCE", 600)
    program = tmp_path / "stubborn.py"
    program.write_text(
        "import signal\n"
        "signal.signal(signal.SIGINT, lambda *args: print('heard', flush=True))\n"
        "print('ready', flush=True)\n"
        "while True:\n    signal.pause()\n"
    )
    ready = threading.Event()

    def say(tenant: str, line: str) -> None:
        if line == "heard":
            signal.pthread_kill(threading.main_thread().ident or 0, number)
        ready.set()

    children, outcome = Children([], say, program=(str(program),)), Outcome("1")
    thread = threading.Thread(target=children.run, args=[outcome])
    thread.start()
    assert ready.wait(30)
    with signals():
        children.kill()
    thread.join(30)
    assert (outcome.status, outcome.exit_code) == ("interrupted", 128 + signal.SIGKILL)


def test_a_terminal_has_a_bar_and_a_pipe_has_lines(tenants: Tenants) -> None:
    a, _ = tenants
    leader, follower = pty.openpty()
    command = [*DJANGO, "run_for_all_tenants", "probe", "--fail-for", str(a.pk)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=follower, text=True
    )
    os.close(follower)
    parts: list[bytes] = []

    def read() -> None:
        # Linux tells of the end by an error.
        with suppress(OSError):
            while part := os.read(leader, 65536):
                parts.append(part)

    # Meanwhile: a terminal that nobody reads from takes a few kilobytes, and then has it wait.
    reader = threading.Thread(target=read)
    reader.start()
    output, _ = process.communicate(timeout=60)
    reader.join(60)
    os.close(leader)
    assert process.returncode == 1
    assert output.count("\n") == 3
    drawn = b"".join(parts)
    assert b"2/2" in drawn
    assert "━".encode() in drawn
    assert f"{a.pk} failed with 1".encode() in drawn
    piped = manage("run_for_all_tenants", "probe")
    assert "━" not in piped.stderr
    assert piped.stderr.splitlines()[0].startswith(f"[1/2] {a.pk} ok ")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_without_rich_a_terminal_has_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    assert type(progress(io.StringIO(), Terminal(), 2)) is Lines


def test_with_rich_a_terminal_has_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    errors = Terminal()
    output = io.StringIO()
    with progress(output, errors, 2) as bar:
        bar.say("1", "line")
        bar.note(Outcome("1", "ok"))
        bar.note(Outcome("2", "failed", 1.0, 3))
    assert "tenants" in capsys.readouterr().err
    assert (output.getvalue(), errors.getvalue()) == (
        "[1] line",
        "[2/2] 2 failed with 3 1.0 s",
    )


class Interrupting(Lines):
    """Is interrupted when the first tenant is done, with an error of its own."""

    def __init__(self, error: type[BaseException]) -> None:
        super().__init__(io.StringIO(), io.StringIO(), 3)
        self.error = error

    def note(self, outcome: Outcome) -> None:
        super().note(outcome)
        if self.count == 1:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt, Interrupted])
def test_what_was_done_before_an_interruption_is_noted(
    error: type[BaseException], tenants: Tenants
) -> None:
    keys = [str(tenant.pk) for tenant in tenants]
    fleet = Fleet(["probe"], keys, Ledger(None, ["probe"]))
    fleet.run(Interrupting(error), jobs=1, fail_fast=False)
    assert (fleet.exit_code, fleet.ledger.done[0]) == (130, keys[0])
    assert [each.tenant for each in fleet.outcomes if each.status == "ok"] == fleet.ledger.done


def test_who_is_done_is_in_the_file_though_writing_it_was_interrupted(
    tenants: Tenants, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[object] = []

    def write(path: Path, value: object) -> None:
        written.append(value)
        if len(written) == 2:
            raise Interrupted
        write_json(path, value)

    monkeypatch.setattr(ledger_module, "write_json", write)
    path = tmp_path / "state.json"
    keys = [str(tenant.pk) for tenant in tenants]
    fleet = Fleet(["probe"], keys, Ledger(path, ["probe"]))
    fleet.ledger.save()
    fleet.run(Lines(io.StringIO(), io.StringIO(), 2), jobs=1, fail_fast=False)
    done = json.loads(path.read_text())["done"]
    assert done == fleet.ledger.done
    assert done[0] == keys[0]
    assert done == [each.tenant for each in fleet.outcomes if each.status == "ok"]


def test_an_error_ends_the_children(tenants: Tenants) -> None:
    keys = [str(tenant.pk) for tenant in tenants]
    fleet = Fleet(["probe"], keys, Ledger(None, ["probe"]))
    with pytest.raises(ZeroDivisionError):
        fleet.run(Interrupting(ZeroDivisionError), jobs=1, fail_fast=False)
    assert fleet.outcomes[1].status in ("not run", "interrupted")


def test_what_ended_well_is_noted_though_an_error_ends_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(self: Children, outcome: Outcome) -> Outcome:
        outcome.status = "ok"
        return outcome

    monkeypatch.setattr(Children, "run", run)
    path = tmp_path / "state.json"
    fleet = Fleet(["probe"], ["1", "2", "3"], Ledger(path, ["probe"]))
    with pytest.raises(ZeroDivisionError):
        fleet.run(Interrupting(ZeroDivisionError), jobs=3, fail_fast=False)
    assert sorted(json.loads(path.read_text())["done"]) == ["1", "2", "3"]


def test_it_runs_in_any_thread(tenants: Tenants) -> None:
    keys = [str(tenant.pk) for tenant in tenants]
    fleet = Fleet(["probe"], keys, Ledger(None, ["probe"]))
    lines = Lines(io.StringIO(), io.StringIO(), 2)
    thread = threading.Thread(target=fleet.run, args=[lines], kwargs={"jobs": 2, "fail_fast": True})
    thread.start()
    thread.join(60)
    assert fleet.counts() == {"ok": 2}
