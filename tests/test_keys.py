"""The tenant key: which values are tenant ids, which are refused, and in what words."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest
from django.db import models
from django.utils.safestring import mark_safe
from hypothesis import example, given
from hypothesis import strategies as st

from tenantry.exceptions import InvalidTenantIdError, TenantIdTypeError, TenantryError
from tenantry.keys import KEY_TYPES, TenantKey, key_type_of
from tests.app.models import Tenant, User

A_UUID = uuid.UUID("0f8fad5b-d9cb-469f-a165-70867728950e")
each_key = pytest.mark.parametrize("sql_type", KEY_TYPES)
each_integer = pytest.mark.parametrize("sql_type", ["int", "bigint"])


class Number(int):
    """An int whose text is not that of its value."""

    def __str__(self) -> str:
        return "1'; DROP TABLE tenant; --"


class Plan(enum.IntEnum):
    FREE = 7


class Code(str, enum.Enum):  # noqa: UP042 -- str() of these is not their value
    ACME = "acme"


INJECTIONS = [
    "1' OR '1'='1",
    "1'; DROP TABLE tenant; --",
    "1'; SET rls.is_admin = 'true",
    "1\\'; SET rls.is_admin = 'true",
    '1"; SELECT 1; --',
    "1\x00",
    "1\n",
    "\n1",
    "1\r\nSET rls.is_admin = true",
    "1\t",
    "\x7f1",
]


def test_there_are_four_key_types() -> None:
    assert KEY_TYPES == ("int", "bigint", "uuid", "text")


def test_the_errors_are_what_callers_already_catch() -> None:
    assert issubclass(TenantIdTypeError, TypeError)
    assert issubclass(InvalidTenantIdError, ValueError)
    assert issubclass(TenantIdTypeError, TenantryError)
    assert issubclass(InvalidTenantIdError, TenantryError)


@each_integer
@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        (1, 1),
        (0, 0),
        (-1, -1),
        ("1", 1),
        ("-1", -1),
        ("007", 7),
        (2**31 - 1, 2**31 - 1),
        (-(2**31), -(2**31)),
        (str(2**31 - 1), 2**31 - 1),
        (str(-(2**31)), -(2**31)),
        (Number(5), 5),
        (Plan.FREE, 7),
        (mark_safe("5"), 5),
    ],
)
def test_an_integer_key_takes_ints_and_decimal_strings(
    sql_type: str, value: object, parsed: int
) -> None:
    result = TenantKey(sql_type).parse(value)
    assert (type(result), result) == (int, parsed)


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**63 - 1, -(2**63)])
@pytest.mark.parametrize("kind", [int, str])
def test_bigint_reaches_further_than_int(value: int, kind: type) -> None:
    assert TenantKey("bigint").parse(kind(value)) == value
    with pytest.raises(InvalidTenantIdError, match=rf"{value}'? is not a number.*PostgreSQL's int"):
        TenantKey("int").parse(kind(value))


@each_integer
@pytest.mark.parametrize("value", [2**63, -(2**63) - 1, 10**19, 10**100])
@pytest.mark.parametrize("kind", [int, str])
def test_integers_out_of_range_are_refused(sql_type: str, value: int, kind: type) -> None:
    with pytest.raises(InvalidTenantIdError, match=f"fits PostgreSQL's {sql_type}; the tenant key"):
        TenantKey(sql_type).parse(kind(value))


@each_integer
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        " 1",
        "1 ",
        "+1",
        "--1",
        "-",
        "1_000",
        "1.0",
        "1e3",
        "0x1",
        "one",
        "None",
        "\u0661",
        "\uff11",
        "\u00b2",
        "\u22121",
        "1\u00a0",
        *INJECTIONS,
    ],
)
def test_strings_that_are_no_plain_decimals_are_refused(sql_type: str, value: str) -> None:
    with pytest.raises(InvalidTenantIdError) as raised:
        TenantKey(sql_type).parse(value)
    assert f"tenant_id {value!r} is not a decimal number" in str(raised.value)


@each_key
@pytest.mark.parametrize("digits", [4_300, 10_000])
def test_very_long_strings_of_digits_are_refused_in_a_short_message(
    sql_type: str, digits: int
) -> None:
    value = "9" * digits
    if sql_type == "text":
        assert TenantKey(sql_type).parse(value) == value
        return
    with pytest.raises(InvalidTenantIdError, match=r"tenant_id '9+\.\.\. is not") as raised:
        TenantKey(sql_type).parse(value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("sql_type", "error"),
    [
        ("int", InvalidTenantIdError),
        ("bigint", InvalidTenantIdError),
        ("uuid", TenantIdTypeError),
        ("text", TenantIdTypeError),
    ],
)
def test_very_long_values_of_other_kinds_are_refused_in_a_short_message(
    sql_type: str, error: type[Exception]
) -> None:
    with pytest.raises(error) as raised:
        TenantKey(sql_type).parse(10**10_000)
    assert len(str(raised.value)) < 200
    with pytest.raises(TenantIdTypeError) as raised_by_type:
        TenantKey(sql_type).parse(b"9" * 10_000)
    assert len(str(raised_by_type.value)) < 200


@pytest.mark.parametrize(
    "value",
    [A_UUID, str(A_UUID), str(A_UUID).upper(), A_UUID.hex, A_UUID.hex.upper()],
)
def test_a_uuid_key_takes_uuids_and_their_two_usual_texts(value: object) -> None:
    assert TenantKey("uuid").parse(value) == A_UUID


@pytest.mark.parametrize(
    "value",
    [
        "",
        "1",
        f"{{{A_UUID}}}",
        A_UUID.urn,
        f"uuid:{A_UUID}",
        f" {A_UUID}",
        f"{A_UUID}\n",
        f"{A_UUID}'",
        str(A_UUID)[:-1],
        f"{A_UUID}0",
        str(A_UUID).replace("-", "_"),
        str(A_UUID).replace("-", "", 1),
        str(A_UUID).replace("0", "\u0660", 1),
        str(A_UUID).replace("0", "g", 1),
        *INJECTIONS,
    ],
)
def test_other_texts_of_uuids_are_refused(value: str) -> None:
    with pytest.raises(InvalidTenantIdError) as raised:
        TenantKey("uuid").parse(value)
    assert str(raised.value) == f"tenant_id {value!r} is not a UUID; the tenant key is uuid"


@pytest.mark.parametrize(
    "value", ["acme", "1", "-1", " ", "a b", "Größe", "日本", "a;b", "--", "$1", "%s", "x" * 10_000]
)
def test_a_text_key_takes_strings_as_they_are(value: str) -> None:
    assert TenantKey("text").parse(value) == value


@pytest.mark.parametrize("value", [mark_safe("acme"), Code.ACME], ids=["SafeString", "enum"])
def test_a_text_key_returns_plain_strings(value: str) -> None:
    result = TenantKey("text").parse(value)
    assert (type(result), result) == (str, "acme")


@pytest.mark.parametrize("value", ["", *INJECTIONS, "\x1f", "a\\b", "it's", 'say "hi"'])
def test_texts_with_quotes_backslashes_or_control_characters_are_refused(value: str) -> None:
    with pytest.raises(InvalidTenantIdError) as raised:
        TenantKey("text").parse(value)
    assert repr(value) in str(raised.value)
    assert "a text without quotes, backslashes or control characters" in str(raised.value)


def test_texts_that_cannot_be_sent_are_refused() -> None:
    with pytest.raises(InvalidTenantIdError):
        TenantKey("text").parse("\udc80")


@each_key
def test_none_is_refused_with_the_way_to_run_unbound(sql_type: str) -> None:
    with pytest.raises(TenantIdTypeError, match="is None; pass the tenant's primary key, or leave"):
        TenantKey(sql_type).parse(None)


@each_key
@pytest.mark.parametrize(
    "instance", [Tenant(pk=1, name="A"), Tenant(), User(pk=2)], ids=["saved", "new", "of a tenant"]
)
def test_a_model_instance_is_refused_with_the_key_to_pass(sql_type: str, instance: Any) -> None:
    message = rf"not the instance <{type(instance).__name__}: .*>; pass the tenant's \.pk"
    with pytest.raises(TenantIdTypeError, match=message):
        TenantKey(sql_type).parse(instance)


@pytest.mark.parametrize(
    ("sql_type", "wanted", "values"),
    [
        ("int", "an int", [A_UUID]),
        ("bigint", "an int", [A_UUID]),
        ("uuid", "a UUID", [A_UUID.int, 1, A_UUID.bytes]),
        ("text", "a str", [A_UUID, 1]),
    ],
)
def test_values_of_other_types_are_refused(sql_type: str, wanted: str, values: list[Any]) -> None:
    for value in [*values, True, False, 1.0, b"1", bytearray(b"1"), [1], (1,), {1}, {}, object()]:
        with pytest.raises(TenantIdTypeError) as raised:
            TenantKey(sql_type).parse(value)
        assert str(raised.value) == (
            f"tenant_id must be {wanted}, the tenant key being {sql_type};"
            f" got {value!r} of type {type(value).__name__}"
        )


ANYTHING = st.one_of(
    st.integers(),
    st.integers().map(str),
    st.uuids(),
    st.uuids().map(str),
    st.uuids().map(lambda value: value.hex),
    st.text(),
    st.text(alphabet="01-'\"\\\x00\n\r abcdef{}"),
    st.from_regex(r"-?[0-9]{1,25}"),
    st.booleans(),
    st.none(),
    st.floats(),
    st.binary(),
    st.lists(st.integers()),
)


@each_key
@given(value=ANYTHING)
@example(value="\u0661")
@example(value="1\n")
@example(value="1'")
def test_what_is_parsed_is_safe_to_quote_and_parses_to_itself(sql_type: str, value: object) -> None:
    key = TenantKey(sql_type)
    try:
        result = key.parse(value)
    except (TenantIdTypeError, InvalidTenantIdError):
        return
    text = str(result)
    assert text
    assert not set(text) & set("'\"\\\x00\n\r")
    assert key.parse(text) == result
    assert key.parse(result) == result


class Parent(models.Model):
    code = models.UUIDField(primary_key=True)

    class Meta:
        app_label = "keys"


class Child(Parent):
    class Meta:
        app_label = "keys"


class Grandchild(models.Model):
    child = models.OneToOneField(Child, primary_key=True, on_delete=models.CASCADE)

    class Meta:
        app_label = "keys"


@pytest.mark.parametrize(
    ("field", "key_type"),
    [
        (models.AutoField(), "int"),
        (models.BigAutoField(), "bigint"),
        (models.SmallAutoField(), "int"),
        (models.IntegerField(), "int"),
        (models.SmallIntegerField(), "int"),
        (models.PositiveIntegerField(), "int"),
        (models.BigIntegerField(), "bigint"),
        (models.PositiveBigIntegerField(), "bigint"),
        (models.UUIDField(), "uuid"),
        (models.CharField(max_length=10), "text"),
        (models.SlugField(), "text"),
        (models.TextField(), "text"),
        (Tenant._meta.pk, "bigint"),
        (Child._meta.pk, "uuid"),
        (Grandchild._meta.pk, "uuid"),
        (models.DecimalField(max_digits=5, decimal_places=0), None),
        (models.DateField(), None),
        (models.BinaryField(), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, models.Field) else str(value),
)
def test_the_primary_key_says_the_key_type(
    field: models.Field[Any, Any], key_type: str | None
) -> None:
    assert key_type_of(field) == key_type
