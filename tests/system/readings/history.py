"""Checks after all crashes: no half-hour is lost, none invented, revisions are complete, each change told once."""

from collections import Counter, defaultdict
from typing import Any

from sqlalchemy import select
from sqlmodel import col

from app.core.clock import format_utc, parse_utc, start_of_uk_day, uk_date
from app.db.database import Database
from app.events.models import EventRecord
from tests.readings.plain_model import Cell, Received, Value, received, told
from tests.system.clients import Api
from tests.system.readings.writers import (
    CHANNELS,
    SPANS,
    Write,
    Writers,
    half_hour,
    instant,
    intervals,
    micro,
)

REVISIONS = """
query ($id: ID!, $channel: ReadingChannel!, $after: String) {
  meter(id: $id) { revisions(channel: $channel, first: 100, after: $after) {
    nodes { startAt consumption quality reason recordedAt replacedAt } pageInfo { hasNextPage endCursor }
  } }
}
"""
COVERAGE = """
query ($id: ID!, $channel: ReadingChannel!, $from: DateTime!, $to: DateTime!) {
  meter(id: $id) { coverage(channel: $channel, from: $from, to: $to) {
    expected present estimated missing gaps { from to halfHours }
  } }
}
"""
History = dict[Cell, list[Value]]


async def check(writers: Writers, database: Database, api: Api) -> None:
    """Everything about the account's readings; a server must be running, and have carried all over."""
    history: History = {}
    for meter_id in (*writers.solo, *writers.shared):
        for channel in CHANNELS:
            history |= await read_history(api, meter_id, channel)
    foretold = {cell: values for cell, values in writers.model.values.items() if values}
    assert {cell: values for cell, values in history.items() if cell.meter_id in writers.solo} == foretold
    kept = check_shared(
        writers, {cell: one for cell, one in history.items() if cell.meter_id in writers.shared}
    )
    async with database.reading() as session:
        of_account = select(EventRecord).order_by(col(EventRecord.sequence))
        events = [
            told(one)
            for one in (await session.execute(of_account)).scalars()
            if one.type == "meter_data.received"
        ]
    check_solo_events(writers, events)
    check_shared_events(writers, kept, history, events)


async def read_history(api: Api, meter_id: str, channel: str) -> History:
    """The values of a channel's half-hours, the oldest first; every way to read them must agree."""
    history: History = defaultdict(list)
    times: dict[Cell, str] = {}
    for one in reversed(await _revisions(api, meter_id, channel)):
        cell = Cell(meter_id, channel, half_hour(one["startAt"]))
        assert one["reason"] == "PUSH"
        # Each value was recorded at the moment at which it replaced the one before.
        assert one["recordedAt"] == times.get(cell, one["recordedAt"])
        assert one["recordedAt"] < one["replacedAt"]
        times[cell] = one["replacedAt"]
        history[cell].append((micro(one["consumption"]), one["quality"] == "ESTIMATED"))
    replaced = set(history)
    for span in SPANS:
        values, answer = await intervals(api, meter_id, channel, span)
        for at, value in values.items():
            history[Cell(meter_id, channel, at)].append(value)
            replaced.discard(Cell(meter_id, channel, at))
        assert micro(answer["total"]) == sum(amount for amount, _ in values.values())
        assert answer["missingCount"] == span[1] - span[0] - len(values)
        await _check_days(api, meter_id, channel, span, values)
        await _check_coverage(api, meter_id, channel, span, values)
    # A value is replaced by another one, never removed.
    assert replaced == set()
    return dict(history)


async def _revisions(api: Api, meter_id: str, channel: str) -> list[dict[str, Any]]:
    """All revisions, the newest replacement first."""
    found: list[dict[str, Any]] = []
    after = None
    while True:
        page = (await api.data(REVISIONS, id=meter_id, channel=channel, after=after))["meter"]["revisions"]
        found += page["nodes"]
        if not page["pageInfo"]["hasNextPage"]:
            break
        after = page["pageInfo"]["endCursor"]
    places = [(one["replacedAt"], one["startAt"]) for one in found]
    assert places == sorted(set(places), reverse=True)
    return found


async def _check_days(
    api: Api, meter_id: str, channel: str, span: tuple[int, ...], values: dict[int, Value]
) -> None:
    first, end = (start_of_uk_day(uk_date(parse_utc(instant(at)))) for at in (span[0], span[1] - 1))
    _, answer = await intervals(api, meter_id, channel, span, "DAY")
    sums: dict[str, int] = Counter()
    estimated: dict[str, bool] = defaultdict(bool)
    for at, (amount, is_estimated) in values.items():
        start = start_of_uk_day(uk_date(parse_utc(instant(at))))
        assert first <= start <= end
        sums[format_utc(start)] += amount
        estimated[format_utc(start)] |= is_estimated
    found = {one["startAt"]: (micro(one["consumption"]), one["quality"]) for one in answer["intervals"]}
    assert found == {
        start: (amount, "ESTIMATED" if estimated[start] else "ACTUAL") for start, amount in sums.items()
    }


async def _check_coverage(
    api: Api, meter_id: str, channel: str, span: tuple[int, ...], values: dict[int, Value]
) -> None:
    asked = {"id": meter_id, "channel": channel, "from": instant(span[0]), "to": instant(span[1])}
    found = (await api.data(COVERAGE, **asked))["meter"]["coverage"]
    assert (found["expected"], found["present"]) == (span[1] - span[0], len(values))
    assert found["estimated"] == sum(is_estimated for _, is_estimated in values.values())
    missing = {at for gap in found["gaps"] for at in range(half_hour(gap["from"]), half_hour(gap["to"]))}
    assert missing == set(range(*span)) - values.keys()
    assert sum(gap["halfHours"] for gap in found["gaps"]) == found["missing"] == len(missing)


def check_shared(writers: Writers, history: History) -> list[Write]:
    """Every write that was answered is kept, others whole or not at all, and nothing else; gives those kept."""
    authors = {
        (cell, value): number
        for number, write in enumerate(writers.sent)
        for cell, value in write.given.items()
    }
    found: Counter[int] = Counter()
    for cell, values in history.items():
        assert len(set(values)) == len(values)
        found.update(authors[cell, value] for value in values)
    for number, write in enumerate(writers.sent):
        assert found[number] in ({0, len(write.given)} if write in writers.uncertain else {len(write.given)})
    return [write for number, write in enumerate(writers.sent) if found[number]]


def check_solo_events(writers: Writers, events: list[Received]) -> None:
    for meter_id in writers.solo:
        for channel in CHANNELS:
            of_channel = [one for one in events if one[:2] == (meter_id, channel)]
            assert of_channel == [one for one in writers.model.received if one[:2] == (meter_id, channel)]


def check_shared_events(
    writers: Writers, kept: list[Write], history: History, events: list[Received]
) -> None:
    """Each channel that a write changed has one event, in the order in which the writes were kept."""
    of_shared = [one for one in events if one.meter_id in writers.shared]
    tells = [write for write in kept if write not in writers.older]
    expected = [one for write in tells for one in received(write.given)]
    assert Counter(of_shared) == Counter(expected)
    known = Counter(of_shared)
    sequences = {one: at for at, one in enumerate(of_shared) if known[one] == 1}
    places: dict[tuple[Cell, Value], int] = {}
    for write in tells:
        by_channel = {(one.meter_id, one.channel): one for one in received(write.given)}
        for cell, value in write.given.items():
            event = by_channel[cell.meter_id, cell.channel]
            if event in sequences:
                places[cell, value] = sequences[event]
    for cell, values in history.items():
        ordered = [places[cell, value] for value in values if (cell, value) in places]
        assert ordered == sorted(ordered)
