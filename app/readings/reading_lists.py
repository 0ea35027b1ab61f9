"""The readings of a mutation as columns, straight from the client's JSON."""

from operator import itemgetter
from typing import Any, Final

from app.core import clock
from app.core.json_decimals import Number
from app.graphql.list_inputs import ConvertedList
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, StartTexts, are_estimated, micro_amounts

_START, _CONSUMPTION, _QUALITY = "startAt", "consumption", "quality"
_LEAST: Final = 2
"""The keys that each reading has; the third one is its quality."""


class ReadingList(ConvertedList):
    """A list of readings of the usual form."""

    def __init__(self, columns: Columns, given: list[dict[str, Any]]) -> None:
        self.columns = columns
        self._given = given

    @classmethod
    def of(cls, values: list[Any]) -> "ReadingList | None":
        """None if anything about the values is unusual."""
        try:
            return cls(_columns(values), values)
        except (ValueError, KeyError):
            return None

    def plain(self) -> list[dict[str, Any]]:
        starts, amounts, _ = self.columns
        return [
            {
                "start_at": clock.from_ms(start * HALF_HOUR_MS),
                "consumption": amount,
                "quality": given.get(_QUALITY),
            }
            for start, amount, given in zip(starts, amounts, self._given, strict=True)
        ]


def _columns(values: list[Any]) -> Columns:
    """Raises ValueError or KeyError."""
    _require_types(values, dict)
    qualities = [one.get(_QUALITY) for one in values]
    if sum(map(len, values)) != _LEAST * len(values) + sum(_QUALITY in one for one in values):
        raise ValueError("A reading has other keys.")
    starts, amounts = (list(map(itemgetter(name), values)) for name in (_START, _CONSUMPTION))
    _require_types(starts, str)
    _require_types(amounts, str, int, Number)
    _require_types(qualities, str, type(None))
    return Columns(
        StartTexts().half_hours(starts),
        micro_amounts(list(map(str, amounts))),
        are_estimated(qualities, None),
    )


def _require_types(values: list[Any], *types: type) -> None:
    if not set(map(type, values)) <= set(types):
        raise ValueError("A value has another type.")
