"""Glowmarkt's answers: virtual entities as homes, resources by their classifiers, and readings as half-hours.

`data` of readings is `[[seconds since 1970, kWh or null], …]` by the starts of half-hours; null is missing.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final

from app.core import clock
from app.feeds.amounts import NO_VALUE
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.half_hours import OTHER_UNIT, UNREADABLE, HalfHours, half_hour_of
from app.feeds.shapes import unreadable
from app.feeds.source import Json, SourceMeter, Window
from app.meters.enums import MeterType
from app.meters.numbers import CORE_DIGITS, GAS_DIGITS, InvalidMeterNumber, parse
from app.outbound.text import quotable
from app.readings.enums import ReadingChannel

MOST_HOMES: Final = 20_000
"""Homes that are looked at."""
MOST_RESOURCES: Final = 40
"""Resources with readings of a home that are kept, for a day: a home has one for each channel of its meters."""
UNIT: Final = "kWh"
SECONDS: Final = 1800

_MOST_TEXT: Final = 100
_ID: Final = re.compile(r"[0-9A-Za-z-]{1,64}")
_DIGITS: Final = re.compile(r"(?<![0-9])[0-9]{6,13}(?![0-9])")
_CLASSIFIERS: Final = {
    "electricity.consumption": (MeterType.ELECTRICITY, ReadingChannel.IMPORT),
    "electricity.export": (MeterType.ELECTRICITY, ReadingChannel.EXPORT),
    "gas.consumption": (MeterType.GAS, ReadingChannel.IMPORT),
}
"""Costs, such as `electricity.consumption.cost`, are left out."""


@dataclass(frozen=True)
class Home:
    """A virtual entity: its id, the name that its people gave it, and its postcode, each empty if unknown."""

    id: str
    name: str
    postcode: str

    def number(self, type: MeterType) -> str | None:
        """The only meter number of this type in the home's name."""
        digits = (CORE_DIGITS,) if type is MeterType.ELECTRICITY else GAS_DIGITS
        numbers = {one for one in _DIGITS.findall(self.name) if len(one) in digits and _is_number(one, type)}
        return numbers.pop() if len(numbers) == 1 else None


@dataclass(frozen=True)
class Resource:
    """A resource with readings in kWh."""

    id: str
    type: MeterType
    channel: ReadingChannel


def to_homes(answer: Json) -> Sequence[Home]:
    """The homes of a listing; entries that are none are left out. Raises SourceFailure if it is no list."""
    if not isinstance(answer, list):
        raise unreadable("it is no list of homes")
    return [
        Home(entry["veId"], _text(entry.get("name")), _text(entry.get("postalCode")))
        for entry in answer[:MOST_HOMES]
        if isinstance(entry, dict) and _is_id(entry.get("veId"))
    ]


def to_resources(answer: Json) -> Sequence[Resource]:
    """The resources of a home that are readings, MOST_RESOURCES at most. Raises SourceFailure without a list."""
    listed = answer.get("resources") if isinstance(answer, dict) else answer
    if not isinstance(listed, list):
        raise unreadable("it has no list of resources")
    found = (
        Resource(entry["resourceId"], *_CLASSIFIERS[entry["classifier"]])
        for entry in listed
        if isinstance(entry, dict)
        and _is_id(entry.get("resourceId"))
        and isinstance(entry.get("classifier"), str)
        and entry["classifier"] in _CLASSIFIERS
    )
    return list(islice(found, MOST_RESOURCES))


def choose_home(homes: Sequence[Home], number: str, type: MeterType, given: str | None) -> Home:
    """The home of a meter: by its virtual entity's id if given, by the number in its name, or the only one.

    Raises SourceFailure.
    """
    if not homes:
        raise SourceFailure(Meaning.METER, "The source shows no home to this user.")
    if given is not None:
        chosen = [home for home in homes if home.id == given]
        sentence = "The source does not show the home of virtualEntityId: correct it with setMeterFeed."
    else:
        chosen = [home for home in homes if number in _DIGITS.findall(home.name)]
        if not chosen and len(homes) == 1 and homes[0].number(type) is None:
            chosen = [homes[0]]
        sentence = (
            "The source does not tell which home has this meter: "
            "choose one that checkFeed lists, and set its virtualEntityId with setMeterFeed."
        )
    if len(chosen) != 1:
        raise SourceFailure(Meaning.METER, sentence)
    return chosen[0]


def choose_resources(resources: Sequence[Resource], type: MeterType, given: str | None) -> Sequence[Resource]:
    """A resource of a home for each channel of a meter. Raises SourceFailure."""
    of_type = [one for one in resources if one.type is type]
    if not of_type:
        raise SourceFailure(Meaning.METER, f"The source shows no {type.name.lower()} readings of this home.")
    chosen = []
    for channel in dict.fromkeys(one.channel for one in of_type):
        rivals = [one for one in of_type if one.channel is channel]
        if len(rivals) > 1:
            rivals = [one for one in rivals if one.id == given]
        if len(rivals) != 1:
            raise SourceFailure(
                Meaning.METER,
                f"This home has several resources of the channel {channel.name}: "
                "choose one from checkFeed, and set its resourceId with setMeterFeed.",
            )
        chosen += rivals
    return chosen


def to_meters(home: Home, resources: Sequence[Resource]) -> Iterator[SourceMeter]:
    """A home's resources as meters. The number is that in the home's name, or else the virtual entity's id."""
    place = ", ".join(text for text in (home.name, home.postcode) if text)
    for resource in resources:
        described = f"virtualEntityId {home.id}, resourceId {resource.id}"
        yield SourceMeter(
            home.number(resource.type) or home.id,
            resource.type,
            resource.channel,
            f"{place}: {described}" if place else described,
        )


def to_first(answer: Json, now: datetime) -> datetime | None:
    """The half-hour of a resource's first reading; None if the source does not tell, or tells no past instant."""
    data = answer.get("data") if isinstance(answer, dict) else None
    first = data.get("firstTs") if isinstance(data, dict) else None
    if not isinstance(first, int | float) or isinstance(first, bool) or not 0 < first <= now.timestamp():
        return None
    return clock.from_ms(int(first) // SECONDS * SECONDS * 1000)


def take(into: HalfHours, resource: Resource, answer: Json, window: Window) -> None:
    """Puts an answer's half-hours of the window in. Raises SourceFailure for an answer of another shape."""
    data = answer.get("data") if isinstance(answer, dict) else None
    if not isinstance(data, list):
        raise unreadable("data is no list")
    first, after = half_hour_of(window.start), half_hour_of(window.end)
    if answer.get("units") != UNIT:
        into.miss_period(resource.channel, first, after, OTHER_UNIT)
        return
    is_unreadable = False
    for entry in data:
        at = _half_hour(entry)
        if at is None:
            is_unreadable = True
        elif first <= at < after and entry[1] is None:
            into.miss(resource.channel, at, NO_VALUE)
        elif first <= at < after:
            into.add(resource.channel, at, entry[1])
    if is_unreadable:
        into.miss_period(resource.channel, first, after, UNREADABLE)


def _half_hour(entry: Json) -> int | None:
    if not isinstance(entry, list) or len(entry) != 2:
        return None
    at = entry[0]
    if not isinstance(at, int) or isinstance(at, bool) or at % SECONDS:
        return None
    return at // SECONDS


def _is_number(digits: str, type: MeterType) -> bool:
    try:
        return not parse(digits, type).invalid
    except InvalidMeterNumber:
        return False


def _is_id(value: Json) -> bool:
    return isinstance(value, str) and _ID.fullmatch(value) is not None


def _text(value: Json) -> str:
    return quotable(value)[:_MOST_TEXT] if isinstance(value, str) else ""
