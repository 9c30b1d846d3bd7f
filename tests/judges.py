"""Programs of third parties that judge a database: they need no more than a connection string."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODES = ("anon", "cross-tenant", "write")


@dataclass(frozen=True)
class Verdict:
    """Be what a program said: its exit status, and what it printed as JSON."""

    status: int
    found: Any


def run(program: str, *arguments: str) -> Verdict:
    """Run a program of this environment that prints JSON."""
    command = [str(Path(sys.executable).with_name(program)), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert result.stdout, result.stderr
    return Verdict(result.returncode, json.loads(result.stdout))


@dataclass(frozen=True)
class Judge:
    """Hold a database, and what pgrls has to know of it."""

    dsn: str
    config: Path
    functions: tuple[str, ...] = ()

    def lint(self) -> dict[str, set[tuple[str, str]]]:
        """Return the rule and the place of every finding of pgrls, by severity.

        The place is a table or a policy: of a constraint, that it is on.
        """
        verdict = run("pgrls", "lint", *self._source(), "--schemas", "public,tenantry")
        findings: dict[str, set[tuple[str, str]]] = {
            "error": set(),
            "warning": set(),
            "info": set(),
        }
        for each in verdict.found["violations"]:
            findings[each["severity"]].add((each["rule_id"], each["location"].split(" (")[0]))
        assert bool(findings["error"]) == (verdict.status == 1)
        return findings

    def verify(self, mode: str) -> dict[str, dict[str, str]]:
        """Return what pgrls proves of each policy of each table; "" is the table as a whole."""
        arguments = [part for name in self.functions for part in ("--auth-function", name)]
        found = run("pgrls", "verify", "--mode", mode, *self._source(), *arguments).found
        return {
            table["table"].removeprefix("public."): {"": table["verdict"]}
            | {each["policy"]: each["verdict"] for each in table["policies"]}
            for table in found["tables"]
        }

    def _source(self) -> list[str]:
        return ["--database-url", self.dsn, "--config", str(self.config), "--format", "json"]


def write_config(
    path: Path,
    *,
    app_role: str,
    columns: Iterable[str],
    allowed: Mapping[str, Iterable[str]],
) -> Path:
    """Write what pgrls has to know: who is nobody in particular, and which findings are meant."""
    lines = ["[lint]", 'fail_on = "error"']
    options: dict[str, dict[str, list[str]]] = {
        rule: {"allowlist": sorted(places)} for rule, places in allowed.items()
    }
    for rule in ("SEC004", "SEC039"):
        options.setdefault(rule, {})["anon_roles"] = [app_role]
    options.setdefault("SEC021", {})["identity_columns"] = sorted(columns)
    options.setdefault("SEC042", {})["anon_roles"] = [app_role, "PUBLIC"]
    options.setdefault("SEC047", {})["low_trust_roles"] = [app_role, "PUBLIC"]
    for rule, values in options.items():
        lines.append(f"[lint.rules.{rule}]")
        lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines))
    return path


def try_policies(dsn: str, definition: Path) -> tuple[int, list[Any], list[Any]]:
    """Return the exit status of rls-policy-tester, its facts and its checks."""
    verdict = run("rls-policy-tester", "--dsn", dsn, "--file", str(definition), "--json")
    (suite,) = verdict.found["suites"]
    return verdict.status, suite["preflight"], suite["checks"]
