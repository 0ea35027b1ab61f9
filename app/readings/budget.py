"""The bound of readings that one operation reads, whichever of its fields read them."""

from typing import Final

from app.core.errors import QueryTooComplex
from app.graphql.context import Context

MAX_READ: Final = 200_000
"""Readings: the intervals of ten meters over a year, or of a hundred over a month."""

COVERED_DAY: Final = 4
"""The readings that a day counts as where its amounts are not decoded: a hundred meters have a year of coverage."""


def readings_left(context: Context) -> int:
    """How many readings the operation may still read. Raises QueryTooComplex."""
    spend(context, 0)
    return MAX_READ - context.readings_read


def spend(context: Context, readings: int) -> None:
    """Counts readings that the operation reads. Raises QueryTooComplex."""
    context.readings_read += readings
    if context.readings_read > MAX_READ:
        raise QueryTooComplex(
            f"This reads more than {MAX_READ} readings; ask for fewer meters or a shorter period at once.",
            limit=MAX_READ,
        )
