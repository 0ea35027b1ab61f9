"""JSON whose numbers keep the digits they were sent with."""

import json
from decimal import Decimal
from typing import Any


class Number(Decimal):
    """A number with a point, shown in errors as it was sent."""

    def __inspect__(self) -> str:
        return str(self)


def loads(text: str | bytes) -> Any:
    """Any JSON value. Raises ValueError. A faster parser would round numbers to floats."""
    try:
        return json.loads(text, parse_float=Number, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("This is nested too deeply.") from None


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
