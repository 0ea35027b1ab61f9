"""Writers of readings who go on whatever becomes of the servers, and the values that they have sent.

Two kinds of meters. A `solo` meter has one writer, who sends a write again with its idempotency key until it is
answered: the model foretells all of its history. Each writer sends to `shared` meters, with values that no other write
has: their history tells which writes were kept, and in which order.
"""

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from sqlalchemy import insert, select
from sqlmodel import col

from app.core import clock
from app.core.clock import parse_utc
from app.core.decimals import format_micro
from app.core.outages import UNAVAILABLE
from app.db.database import Database
from app.readings.buckets import HALF_HOUR_MS
from app.readings.models import HalfHour
from tests.readings.plain_model import Cell, Model, Value
from tests.system.clients import Api

CHANNELS = ("IMPORT", "EXPORT")
CLIENTS = 3
"""Writers of shared meters, for each server."""

WINDOWS = [
    # Both clock changes, and a new year: days before 2015 lie in no year's partition.
    (parse_utc("2014-12-31T00:00:00Z"), parse_utc("2015-01-02T00:00:00Z")),
    (parse_utc("2024-03-30T00:00:00Z"), parse_utc("2024-04-02T00:00:00Z")),
    (parse_utc("2024-10-26T00:00:00Z"), parse_utc("2024-10-29T00:00:00Z")),
]
"""The periods that are written to."""

SPANS = [tuple(clock.to_ms(end) // HALF_HOUR_MS for end in window) for window in WINDOWS]
RECORD = (
    "mutation ($input: RecordReadingsInput!) { recordReadings(input: $input) "
    "{ accepted changed userErrors { code message } } }"
)
INTERVALS = """
query ($meter: ID!, $channel: ReadingChannel!, $from: DateTime!, $to: DateTime!, $granularity: Granularity!) {
  intervalData(meterId: $meter, channel: $channel, from: $from, to: $to, granularity: $granularity) {
    total missingCount intervals { startAt consumption quality missingCount }
  }
}
"""


class Unavailable(Exception):
    """The server had no database at the moment."""


@dataclass(eq=False)
class Write:
    """A request, and how many half-hours it changes."""

    given: dict[Cell, Value]
    changed: int
    key: str | None


@dataclass
class Writers:
    """The writers of an account, and what became of their writes."""

    key: str
    solo: list[str]
    shared: list[str]
    quiet: str
    """A meter that nobody writes to."""
    quiet_values: dict[int, Value]
    chance: random.Random
    model: Model = field(default_factory=Model)
    certain: list[Write] = field(default_factory=list)
    """Writes to shared meters that were answered."""
    uncertain: list[Write] = field(default_factory=list)
    """Writes to shared meters without a key that were not answered."""
    older: list[Write] = field(default_factory=list)
    """Writes of a version before days."""
    answers: int = 0
    looks: int = 0
    _pending: dict[str | None, list[Write]] = field(default_factory=lambda: defaultdict(list))
    """Writes to send again, by solo meter; those to shared ones under None."""
    _numbers: Iterator[int] = field(default_factory=lambda: iter(range(1, 10**6)))
    _used: dict[Cell, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def sent(self) -> list[Write]:
        """All writes to shared meters."""
        return [*self.certain, *self.uncertain, *self.older]

    async def use(self, url: str, solo: list[str]) -> None:
        """Writes to a server, and looks at what is there, until the server is gone; these solo meters are written."""
        async with Api(url, self.key) as api:
            await asyncio.gather(
                *(self._client(api, None) for _ in range(CLIENTS)),
                *(self._client(api, one) for one in solo),
                self._look(api),
            )

    async def finish(self, url: str) -> None:
        """Sends all that has to be answered."""
        async with Api(url, self.key) as api:
            for solo, writes in self._pending.items():
                while writes:
                    await self._send(api, writes[0])
                    write = writes.pop(0)
                    if solo is None:
                        self.certain.append(write)

    async def write_as_before(self, database: Database) -> None:
        """Writes half-hours of any meter but the quiet one as versions before days did."""
        # Nobody knows yet whether a write that waits to be sent again was kept.
        solo = [one for one in self.solo if not self._pending[one]]
        shared = self.chance.choice(self.shared)
        writes = [self._solo_values(one, ["IMPORT"]) for one in solo]
        for given in [*writes, self._unlike([(shared, "IMPORT")])]:
            stored = await store_as_before(database, given)
            if shared in {cell.meter_id for cell in given}:
                self.older.append(Write(stored, len(stored), None))
            else:
                self.model.write(stored, tells=False)

    async def _client(self, api: Api, solo: str | None) -> None:
        while True:
            pending = self._pending[solo]
            write = pending.pop(0) if pending else self._next(solo)
            try:
                await self._send(api, write)
            except (httpx.TransportError, Unavailable) as error:
                if write.key is None:
                    self.uncertain.append(write)
                else:
                    pending.insert(0, write)
                if isinstance(error, httpx.TransportError):
                    return
            else:
                self.answers += 1
                if solo is None:
                    self.certain.append(write)

    def _next(self, solo: str | None) -> Write:
        channels = [self.chance.choice(CHANNELS)] if self.chance.random() < 0.7 else [*CHANNELS]
        if solo is not None:
            given = self._solo_values(solo, channels)
            return Write(given, self.model.write(given), f"key {next(self._numbers)}")
        meters = self.chance.sample(self.shared, self.chance.randint(1, len(self.shared)))
        given = self._unlike([(meter, channel) for meter in meters for channel in channels])
        key = f"key {next(self._numbers)}" if self.chance.random() < 0.5 else None
        return Write(given, len(given), key)

    def _solo_values(self, meter_id: str, channels: list[str]) -> dict[Cell, Value]:
        """Few different values, so that many are there already."""
        return {
            Cell(meter_id, channel, at): (self.chance.choice((0, 1, 250_000, 10**18 - 1)), self._chosen(0.2))
            for channel in channels
            for at in self._half_hours()
        }

    def _unlike(self, channels: list[tuple[str, str]]) -> dict[Cell, Value]:
        """Values that no other write has for these half-hours."""
        number, scale = next(self._numbers), 10 ** self.chance.randint(0, 6)
        given = {}
        for meter_id, channel in channels:
            for at in self._half_hours():
                cell, micro = Cell(meter_id, channel, at), (number * 100 + at % 100) * scale
                while micro in self._used[cell]:
                    micro += 1
                self._used[cell].add(micro)
                given[cell] = micro, self._chosen(0.2)
        return given

    def _half_hours(self) -> list[int]:
        """Some half-hours of a period, in any order."""
        first, end = self.chance.choice(SPANS)
        low = self.chance.randrange(first, end)
        found = [at for at in range(low, min(end, low + self.chance.randint(1, 60))) if self._chosen(0.8)]
        self.chance.shuffle(found)
        return found or [low]

    def _chosen(self, share: float) -> bool:
        return self.chance.random() < share

    async def _send(self, api: Api, write: Write) -> None:
        """Raises httpx.TransportError where the server is gone, and Unavailable where its database is."""
        channels = {(cell.meter_id, cell.channel) for cell in write.given}
        if len(channels) == 1 and len(write.given) % 2:
            answer = await self._mutate(api, write)
        else:
            answer = await self._upload(api, write)
        assert (answer["accepted"], answer["changed"]) == (len(write.given), write.changed)

    async def _mutate(self, api: Api, write: Write) -> dict[str, Any]:
        cell = next(iter(write.given))
        given: dict[str, Any] = {
            "meterId": cell.meter_id,
            "channel": cell.channel,
            "readings": [
                {"startAt": instant(one.half_hour), "consumption": format_micro(micro), "quality": quality(estimated)}
                for one, (micro, estimated) in write.given.items()
            ],
        }  # fmt: skip
        if write.key is not None:
            given["idempotencyKey"] = write.key
        response = await api.ask(RECORD, {"input": given})
        if UNAVAILABLE in [error["message"] for error in response.get("errors", ())]:
            raise Unavailable
        assert "errors" not in response, response
        payload: dict[str, Any] = response["data"]["recordReadings"]
        assert payload["userErrors"] == []
        return payload

    async def _upload(self, api: Api, write: Write) -> dict[str, Any]:
        lines = [
            f"{cell.meter_id},{cell.channel},{instant(cell.half_hour)},{format_micro(micro)},{quality(estimated)}"
            for cell, (micro, estimated) in write.given.items()
        ]
        content = "\n".join(["meter_id,channel,start_at,consumption,quality", *lines])
        headers = {"content-type": "text/csv"}
        if write.key is not None:
            headers["idempotency-key"] = write.key
        response = await api.http.post("/readings", content=content, headers=headers)
        if response.status_code == 503:
            raise Unavailable
        assert response.status_code == 200, response.text
        answer: dict[str, Any] = response.json()
        return answer

    async def _look(self, api: Api) -> None:
        """The quiet meter reads the same all the time."""
        with contextlib.suppress(httpx.TransportError):
            while True:
                with contextlib.suppress(Unavailable):
                    for window in SPANS:
                        found, _ = await intervals(api, self.quiet, "IMPORT", window)
                        expected = {
                            at: one for at, one in self.quiet_values.items() if window[0] <= at < window[1]
                        }
                        assert found == expected
                    self.looks += 1


async def intervals(
    api: Api, meter_id: str, channel: str, span: tuple[int, ...], granularity: str = "HALF_HOUR"
) -> tuple[dict[int, Value], dict[str, Any]]:
    """The values of a period by their half-hours, counted from 1970, and the answer."""
    period = {"from": instant(span[0]), "to": instant(span[1])}
    asked = {"meter": meter_id, "channel": channel, "granularity": granularity, **period}
    response = await api.ask(INTERVALS, asked)
    if UNAVAILABLE in [error["message"] for error in response.get("errors", ())]:
        raise Unavailable
    assert "errors" not in response, response
    data = response["data"]["intervalData"]
    return {
        half_hour(one["startAt"]): (micro(one["consumption"]), one["quality"] == "ESTIMATED")
        for one in data["intervals"]
    }, data


async def store_as_before(database: Database, given: Mapping[Cell, Value]) -> dict[Cell, Value]:
    """Stores half-hours as versions before days did, but those that are there; gives what it stored."""
    rows = {
        cell: {
            "meter_id": cell.meter_id,
            "start_ms": cell.half_hour * HALF_HOUR_MS,
            "micro_kwh": micro,
            "estimated": int(estimated),
            "recorded_at": clock.now(),
        }
        for cell, (micro, estimated) in given.items()
    }
    async with database.transaction() as session:
        found = await session.execute(select(col(HalfHour.meter_id), col(HalfHour.start_ms)))
        known = {(meter_id, start_ms // HALF_HOUR_MS) for meter_id, start_ms in found}
        new = {cell: row for cell, row in rows.items() if (cell.meter_id, cell.half_hour) not in known}
        if new:
            await session.execute(insert(HalfHour), list(new.values()))
    return {cell: given[cell] for cell in new}


def instant(at: int) -> str:
    return clock.format_utc(clock.from_ms(at * HALF_HOUR_MS))


def half_hour(text: str) -> int:
    return clock.to_ms(parse_utc(text)) // HALF_HOUR_MS


def micro(kwh: str) -> int:
    whole, _, fraction = kwh.partition(".")
    return int(whole) * 1_000_000 + int(fraction.ljust(6, "0"))


def quality(estimated: bool) -> str:
    return "ESTIMATED" if estimated else "ACTUAL"
