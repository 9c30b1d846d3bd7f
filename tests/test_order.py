"""Tables are filled after those that they refer to, whatever refers to what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tenantry.lifecycle.order import Reference, in_order, is_cyclic


def refer(text: str) -> list[Reference]:
    """Return references from "a>b c~d a=d".

    A tilde is one that can be NULL, and an equals sign says whose a row is.
    """
    found = []
    for each in text.split():
        table, sign, target = list(each)
        loose = "x" if sign == "~" else None
        decides = sign == "="
        found.append(Reference(each, table, ("x",), target, ("id",), loose=loose, decides=decides))
    return found


@pytest.mark.parametrize(
    ("text", "groups", "cuts"),
    [
        ("", "a b c", ""),
        ("a>b b>c", "c b a", ""),
        ("a>a b~b", "a b c", "b~b"),
        ("a>b b~a c>a", "b a c", "b~a"),
        ("a>b b>a c>a", "ab c", ""),
        ("a>b b>c c>a", "abc", ""),
        ("a>b b>a a~c c>a", "ab c", "a~c"),
        ("a>b a~b b>a", "ab c", "a~b"),
        # One is enough.
        ("a~b b~a", "a b c", "a~b"),
        ("a>z z>b", "a b c", ""),
    ],
)
def test_the_order_of_tables(text: str, groups: str, cuts: str) -> None:
    order = in_order(["a", "b", "c"], refer(text))
    assert sorted("".join(sorted(group)) for group in order.groups) == sorted(groups.split())
    if ">" in text and "z" not in text:
        assert " ".join("".join(sorted(group)) for group in order.groups) == groups
    assert [each.name for each in order.cuts] == cuts.split()


def test_a_group_that_refers_to_itself_goes_at_once() -> None:
    assert is_cyclic(["a"], refer("a>a"))
    assert not is_cyclic(["a"], refer("a~a a>b"))


@pytest.mark.parametrize(
    ("text", "tables"),
    [
        ("a>b b>c c>a", "abc"),
        ("a=b b>a", "bac"),
        ("a=b b>c c=a", "bac"),
        ("a=b b=c c>a", "cba"),
        # Tables of which each would be the other's owner go as they may.
        ("a=b b=a", "bac"),
        ("a=a a>b b>a", "abc"),
    ],
)
def test_owners_are_first_in_a_group(text: str, tables: str) -> None:
    assert "".join(in_order(["a", "b", "c"], refer(text)).tables) == tables


NAMES = st.sampled_from("abcdef")


@given(st.lists(st.tuples(NAMES, st.sampled_from(">~="), NAMES), max_size=20))
def test_nothing_refers_to_what_comes_later(edges: list[tuple[str, str, str]]) -> None:
    references = refer(" ".join(map("".join, edges)))
    order = in_order(list("abcdef"), references)
    assert sorted(order.tables) == list("abcdef")
    place = {table: n for n, group in enumerate(order.groups) for table in group}
    for each in references:
        assert each in order.cuts or place[each.target] <= place[each.table]
        # Only what is cut, or goes at once, may stay inside a group.
        if place[each.target] == place[each.table] and each not in order.cuts:
            assert is_cyclic(order.groups[place[each.table]], references)
    assert all(each.loose for each in order.cuts)
