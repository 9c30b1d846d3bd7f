"""A plugin of pytest that breaks one thing of ours, in the one test that has to notice.

``python -m pytest -p tests.mutants <tests>`` runs each test once with every mutant of it, and once
as it is, in a database that both share.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import pytest

from tests.sabotage import broken

Fixtures = Mapping[str, Any]
Break = Callable[[Fixtures], AbstractContextManager[None]]
WHOLE = "whole"


@dataclass(frozen=True)
class Mutant:
    """Be one thing that is broken, and the test of a shape of policies that fails by it."""

    test: str
    break_it: Break
    shape: str = "guc"

    @property
    def function(self) -> str:
        """The test without its parameters."""
        return self.test.partition("[")[0]


def is_now(target: str, value: Callable[..., Any]) -> Break:
    """Return what puts `value` in the place of a function of ours."""

    @contextmanager
    def break_it(fixtures: Fixtures) -> Iterator[None]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(f"tenantry.{target}", value)
            yield

    return break_it


def is_unchecked(fixtures: Fixtures) -> AbstractContextManager[None]:
    """Let the policy of a table find rows, and not look at what is written."""
    how = "ALTER POLICY tenantry_isolation ON app_author WITH CHECK (true)"
    return broken(fixtures["superuser"], "app_author", how)


def verifies_without(condition: str) -> Break:
    """Return what lets the function that verifies seals take whatever a condition of it refuses."""

    @contextmanager
    def break_it(fixtures: Fixtures) -> Iterator[None]:
        from tenantry.policies.seal import verifier

        sql = verifier("rls")
        assert sql.count(f"IF {condition}") == 1
        fixtures["superuser"].execute(sql.replace(f"IF {condition}", f"IF false AND {condition}"))
        try:
            yield
        finally:
            fixtures["superuser"].execute(sql)

    return break_it


def prefix_of_somebody(binding: Any, *others: Any) -> Any:
    """Return what goes in front of a statement, which is nothing for nobody."""
    from tenantry.backends.postgresql.apply import Prefix, prefix
    from tenantry.binding import UNBOUND

    return Prefix(b"", 0) if binding == UNBOUND else prefix(binding, *others)


def prefix_of_no_role(binding: Any, *others: Any) -> Any:
    """Return what goes in front of a statement, which leaves the role of the one before."""
    from tenantry.backends.postgresql.apply import Prefix, prefix

    text, results = prefix(binding, *others)
    no_role = b"SET LOCAL role='none';"
    return Prefix(text.replace(no_role, b""), results - text.count(no_role))


def current(cursor: Any) -> Any:
    """Return the binding that is current when rows are fetched."""
    from tenantry.binding import current_binding

    return current_binding()


DRIVER = "backends.postgresql"
IS_SIGNED = "tests/test_sealed_keys.py::test_only_what_is_signed_for_here_and_now_is_a_tenant"
MUTANTS = {
    "nobody says nothing": Mutant(
        "tests/test_pooler.py::test_what_a_foreign_client_left_on_the_session_is_not_inherited",
        is_now(f"{DRIVER}.statement.prefix", prefix_of_somebody),
    ),
    "a fetch is bound anew": Mutant(
        "tests/test_statement_paths.py::test_binary_rows_of_a_named_cursor_are_bound",
        is_now(f"{DRIVER}.named.NamedStatementMixin._binding", current),
    ),
    "a rollback is not looked for": Mutant(
        "tests/test_several.py::test_native_async_refuses_it_too",
        is_now(f"{DRIVER}.several.undoes_binding", lambda text: False),
    ),
    "queries have no predicate": Mutant(
        "tests/test_compiler.py::test_prefetches_and_relations_are_scoped",
        is_now(f"{DRIVER}.compiler.protections", lambda apps: {}),
    ),
    "what is written is not checked": Mutant(
        "tests/test_policies.py::test_a_tenant_writes_its_own_rows_only", is_unchecked
    ),
    "relations have no policy": Mutant(
        "tests/test_dependents.py::test_rows_of_a_many_to_many_table_belong_to_both_ends[default]",
        is_now(f"{DRIVER}.schema.SchemaEditorMixin.dependence", lambda *arguments: None),
    ),
    "foreign keys leave the tenant out": Mutant(
        "tests/test_samekeys.py::test_every_write_of_another_tenants_key_is_refused[default]",
        is_now("samekeys.samekeys.add", lambda policy, valid: "SELECT"),
    ),
    "a connection is not restored": Mutant(
        "tests/test_pool_states.py::"
        "test_the_next_one_gets_the_connection_as_the_settings_want_it[transaction-True]",
        is_now(f"{DRIVER}.connection.BoundConnection.restore", lambda connection: None),
    ),
    "a frame has no home": Mutant(
        "tests/test_copy_back.py::"
        "test_a_plain_thread_after_an_interrupted_hop_never_runs_as_the_hop[around0]",
        is_now("binding.Frame.counts_here", lambda frame: True),
    ),
    "a user has no scope": Mutant(
        "tests/test_for_user.py::test_rows_are_written_as_the_user",
        is_now("managers.RLSQuerySet.scope", lambda queryset: nullcontext()),
    ),
    "a body has no scope": Mutant(
        "tests/test_middleware.py::test_a_sync_stream_runs_in_the_binding_of_its_request",
        is_now("middleware.bind_body", lambda response, binding: response),
    ),
    "a flush has no binding": Mutant(
        "tests/test_sealed.py::test_raw_sql_reads_the_tenant_and_is_stamped",
        is_now(f"{DRIVER}.connection.ControlMixin.query_of", lambda *arguments: (b"SELECT 1", [])),
        "sealed_guc",
    ),
    "a commit says nothing": Mutant(
        "tests/test_sealed_traps.py::test_a_trap_catches_no_seal[a cursor-default]",
        is_now(f"{DRIVER}.connection.before_commit", lambda *arguments: b""),
        "sealed_guc",
    ),
    "a signature is not looked at": Mutant(
        IS_SIGNED, verifies_without("part[5] <> encode"), "sealed_guc"
    ),
    "a seal does not expire": Mutant(
        IS_SIGNED, verifies_without("part[3]::bigint < extract"), "sealed_guc"
    ),
    "a role is not put back": Mutant(
        "tests/test_roles.py::test_the_role_ends_with_its_statement[as it is-wire]",
        is_now(f"{DRIVER}.statement.prefix", prefix_of_no_role),
        "role",
    ),
}


def id_of(test: str, mutant: str) -> str:
    """Return what pytest calls a test with a mutant of it."""
    return f"{test[:-1]}-{mutant}]" if test.endswith("]") else f"{test}[{mutant}]"


# What follows are pytest's hooks.


@pytest.fixture(autouse=True)
def mutant(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.hookimpl(trylast=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run a test with its mutants, and then without."""
    test = metafunc.definition.nodeid
    names = [name for name, each in MUTANTS.items() if each.function == test]
    metafunc.parametrize("mutant", [*names, WHOLE], ids=[*names, WHOLE], indirect=True)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what has other parameters."""
    wanted = {id_of(each.test, which) for name, each in MUTANTS.items() for which in (name, WHOLE)}
    items[:] = [item for item in items if item.nodeid in wanted]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: Any) -> Generator[None, None, None]:
    """Break what the mutant breaks while the test runs, after its fixtures."""
    name = item.callspec.params["mutant"]
    is_broken = nullcontext() if name == WHOLE else MUTANTS[name].break_it(item.funcargs)
    with is_broken:
        return (yield)
