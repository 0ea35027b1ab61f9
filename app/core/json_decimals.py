"""JSON whose numbers keep their digits."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any


class OutOfRange(ValueError):
    """A number is beyond all use."""

    def __init__(self) -> None:
        super().__init__("has a number that is out of range")


class Number(Decimal):
    """A number with a point or an exponent, which errors show as it was sent."""

    def __inspect__(self) -> str:
        return str(self)


def number(text: str) -> Number:
    """The number in these digits. Raises OutOfRange for its exponent."""
    try:
        return Number(text)
    except InvalidOperation:
        raise OutOfRange from None


def loads(text: str | bytes) -> Any:
    """Any JSON value. Raises ValueError with a predicate of the text, such as "is not valid JSON"."""
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode("utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError):
        raise ValueError("is not valid JSON") from None
    except (InvalidOperation, ValueError):
        # Python refuses to read the longest integers.
        raise OutOfRange from None


def _no_constant(name: str) -> Any:
    raise json.JSONDecodeError("not JSON", name, 0)


# Python's own parser, because a faster one would round numbers to floats.
_DECODER = json.JSONDecoder(parse_float=Number, parse_constant=_no_constant)
