"""The seam between feeds and their sources: what a source is asked, what it answers, and what its failures mean.

A package of a kind implements `Source` and declares itself by a `SourceKind`. Instants are UTC, periods are half-open,
half-hours count from 1970, and energy is in millionths of a kWh, also that of gas.
"""

import enum
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple, Protocol

from app.feeds.enums import FeedKind
from app.feeds.exchange import Exchange
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

MOST_METERS: Final = 1_000
"""Meters that a source shows at most."""
NOBODYS_METER: Final = "9999999999999"
"""For trying credentials at a source without a list: it fails the check digit of MPANs, so that it is no one's."""


class Window(NamedTuple):
    """A period to fetch: `[start, end)`, both at the start of a half-hour in UTC."""

    start: datetime
    end: datetime

    def parts(self, longest: timedelta) -> Iterator["Window"]:
        """Windows that follow each other over the whole, none longer than a source takes in one request."""
        start = self.start
        while start < self.end:
            end = min(start + longest, self.end)
            yield Window(start, end)
            start = end


class MissingPeriod(NamedTuple):
    """Half-hours `[start, end)` of a channel that the source says it does not have, and its reason in a sentence."""

    channel: ReadingChannel
    start: datetime
    end: datetime
    cause: str


@dataclass(frozen=True)
class SourceMeter:
    """A meter that the credentials show."""

    number: str
    type: MeterType
    channel: ReadingChannel = ReadingChannel.IMPORT
    description: str | None = None


@dataclass(frozen=True)
class FetchedMeter:
    """A meter to fetch: its MPAN or MPRN, and the settings that the account gave for it."""

    number: str
    type: MeterType
    settings: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Fetched:
    """The answer of a source for one meter and window.

    `readings` holds nothing outside the window, no half-hour twice, in ascending order, and no channel without any.
    Half-hours that are in neither `readings` nor `missing` are missing without a reason. `starts_at` is the instant
    before which the source never has readings for the customer, such as a move-in; None if it does not tell.
    `insists` says that an estimated value is the source's correction of an actual one.
    """

    readings: Mapping[ReadingChannel, Columns]
    missing: Sequence[MissingPeriod] = ()
    starts_at: datetime | None = None
    insists: bool = False


class Source(Protocol):
    """A source with one feed's credentials. Calls are made one at a time, and may be cancelled.

    An instance may keep tokens and lists of meters between calls; it is dropped when the feed changes. Both methods
    raise SourceFailure, and nothing else for anything that a source or a network does.
    """

    async def discover(self) -> Sequence[SourceMeter]:
        """The meters that these credentials show, at most MOST_METERS."""
        ...

    async def fetch(self, meter: FetchedMeter, window: Window) -> Fetched:
        """The readings of all channels of a meter, by as many requests as the source's limits ask for."""
        ...


class SettingType(enum.Enum):
    """Whose setting it is."""

    FEED = "FEED"
    METER = "METER"


@dataclass(frozen=True)
class Setting:
    """A setting that an account may give, a text that matches `pattern` as a whole."""

    name: str
    description: str
    pattern: re.Pattern[str]
    of: SettingType = SettingType.FEED
    is_required: bool = False


@dataclass(frozen=True)
class SourceKind:
    """A kind of source: the credentials and settings that it takes, its limits, and how it is opened.

    Every kind also takes the setting `baseUrl`, which points a feed at another host; `base_url` is the source's own and
    has no slash at its end. A credential `password` may have any printable characters, every other one ASCII alone, for
    it may go into a header. `open` is given the credentials, the feed's settings and the way to the source.
    Meters of other types than `meter_types` cannot have its feeds.
    """

    kind: FeedKind
    base_url: str
    credentials: tuple[str, ...]
    open: Callable[[Mapping[str, str], Mapping[str, str], Exchange], Source]
    settings: tuple[Setting, ...] = ()
    meter_types: tuple[MeterType, ...] = (MeterType.ELECTRICITY, MeterType.GAS)
    requests_a_minute: float = 120.0
    # Requests that may follow each other at once after a rest.
    burst: int = 5


Json = Any
"""Parsed JSON of a source: of any type until it is checked."""
