"""The tenant key: which Python values a tenant id may have, and which SQL type it is."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from django.db import models

from .binding import TenantId
from .exceptions import InvalidTenantIdError, TenantIdTypeError

INTEGER_RANGES = {"int": 2**31, "bigint": 2**63}
# Quotes and backslashes are legal in SQL text, but in a tenant id they are an attack or a mistake.
FORBIDDEN_IN_TEXT = re.compile(r"""['"\\\x00-\x1f\x7f\ud800-\udfff]""")
DECIMAL = re.compile(r"-?[0-9]+")


@dataclass(frozen=True, slots=True)
class TenantKey:
    """The type of tenant ids: ``int``, ``bigint``, ``uuid`` or ``text``."""

    sql_type: str

    def parse(self, value: object) -> TenantId:
        """Return `value` as an int, a UUID or a str.

        Integers may also come as decimal strings and UUIDs as strings, as they do from headers.

        Raises TenantIdTypeError for a type that is never a key, such as None or a model instance,
        and InvalidTenantIdError for a value that is out of range or malformed.
        """
        if type(value) is int and self.sql_type == "bigint" and -(2**63) <= value < 2**63:
            return value  # What most tenant ids are, at the least cost.
        if value is None:
            raise TenantIdTypeError(
                "tenant_id is None; pass the tenant's primary key, or leave the scope out to run"
                " unbound"
            )
        if isinstance(value, models.Model):
            raise TenantIdTypeError(
                f"tenant_id must be the primary key of a tenant, not the instance {value!r}; pass"
                " the tenant's .pk"
            )
        return _PARSERS[self.sql_type](self, value)

    def _parse_integer(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise self._wrong_type(value, "an int")
        if isinstance(value, str) and not DECIMAL.fullmatch(value):
            raise self._malformed(value, "a decimal number")
        limit = INTEGER_RANGES[self.sql_type]
        # The length goes first: int() of a very long string is slow, and refused by Python.
        if (isinstance(value, str) and len(value) > 20) or not -limit <= int(value) < limit:
            raise self._malformed(value, f"a number that fits PostgreSQL's {self.sql_type}")
        return int(value)

    def _parse_uuid(self, value: Any) -> UUID:
        if isinstance(value, UUID):
            return value
        if not isinstance(value, str):
            raise self._wrong_type(value, "a UUID")
        try:
            parsed = UUID(value)
        except ValueError:
            raise self._malformed(value, "a UUID") from None
        if str(parsed) != value.lower() and parsed.hex != value.lower():
            raise self._malformed(value, "a UUID")
        return parsed

    def _parse_text(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self._wrong_type(value, "a str")
        if not value or FORBIDDEN_IN_TEXT.search(value):
            raise self._malformed(value, "a text without quotes, backslashes or control characters")
        # Not str(value), which is what a subclass wants it to be.
        return str.__str__(value)

    def _wrong_type(self, value: object, wanted: str) -> TenantIdTypeError:
        return TenantIdTypeError(
            f"tenant_id must be {wanted}, the tenant key being {self.sql_type};"
            f" got {_shown(value)} of type {type(value).__name__}"
        )

    def _malformed(self, value: object, wanted: str) -> InvalidTenantIdError:
        return InvalidTenantIdError(
            f"tenant_id {_shown(value)} is not {wanted}; the tenant key is {self.sql_type}"
        )


def _shown(value: object) -> str:
    try:
        shown = repr(value)
    except ValueError:  # Python refuses to print very long numbers.
        return f"<a long {type(value).__name__}>"
    return shown if len(shown) <= 60 else f"{shown[:60]}..."


_PARSERS: dict[str, Callable[[TenantKey, Any], TenantId]] = {
    "int": TenantKey._parse_integer,
    "bigint": TenantKey._parse_integer,
    "uuid": TenantKey._parse_uuid,
    "text": TenantKey._parse_text,
}
KEY_TYPES = tuple(_PARSERS)


def key_type_of(field: models.Field[Any, Any]) -> str | None:
    """Return the key type for a tenant model's primary key `field`; None when it has no match."""
    while isinstance(field, models.ForeignKey):
        field = field.target_field
    for field_class, sql_type in (
        (models.BigIntegerField, "bigint"),
        (models.IntegerField, "int"),
        (models.UUIDField, "uuid"),
        (models.CharField, "text"),
        (models.TextField, "text"),
    ):
        if isinstance(field, field_class):
            return sql_type
    return None
