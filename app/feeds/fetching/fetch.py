"""A fetch from a source: under a deadline, with no transaction open, and packed for the database afterwards."""

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import structlog

from app.core.outages import error_name
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.fetching.due_work import Work
from app.feeds.fetching.gaps import Span, span_of
from app.feeds.source import Fetched, MissingPeriod, Source, Window
from app.readings.columns import Columns, packed_days
from app.readings.enums import ReadingChannel

DEADLINE: Final = 120.0
"""Seconds for a meter's window, by however many requests."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Found:
    """The readings of a meter's window as packed days by channel, and what the source says of the others.

    `half_hours` counts all readings, `span` are the window's half-hours.
    """

    days: Mapping[ReadingChannel, Mapping[int, bytes]]
    missing: Sequence[MissingPeriod]
    starts_at: datetime | None
    insists: bool
    half_hours: int
    span: Span


async def fetch(source: Source, work: Work, window: Window, deadline: float = DEADLINE) -> Found:
    """Asks the source for a piece of work. Raises SourceFailure, and nothing else."""
    try:
        async with asyncio.timeout(deadline):
            fetched = await source.fetch(work.meter, window)
        return _packed(fetched, span_of(window))
    except SourceFailure:
        raise
    except TimeoutError:
        raise SourceFailure(
            Meaning.RETRY, f"The source did not answer within {deadline:g} s; it is asked again."
        ) from None
    except Exception as error:
        # Messages may quote an answer, or a URL with credentials in it.
        frames = "".join(traceback.format_tb(error.__traceback__))
        log.error(
            "feed_fetch_failed",
            kind=work.feed.kind,
            feed_id=work.feed.id,
            error=error_name(error),
            traceback=frames,
        )
        raise SourceFailure(
            Meaning.RETRY, "The source's answer could not be understood; it is asked again."
        ) from None


def _packed(fetched: Fetched, span: Span) -> Found:
    """Raises ValueError for half-hours outside the span, given twice, or with an amount that no day can hold."""
    days = {}
    half_hours = 0
    for channel, readings in fetched.readings.items():
        if readings.starts:
            _require_within(readings, span)
            days[channel] = packed_days(readings)
            half_hours += len(readings.starts)
    return Found(days, fetched.missing, fetched.starts_at, fetched.insists, half_hours, span)


def _require_within(readings: Columns, span: Span) -> None:
    if min(readings.starts) < span[0] or max(readings.starts) >= span[1]:
        raise ValueError("There are half-hours outside of the window that was asked for.")
