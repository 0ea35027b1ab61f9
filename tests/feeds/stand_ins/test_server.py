"""The base of the stand-ins, by a source of two endpoints: counts, refusals and the scenarios of the server."""

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from app.feeds.enums import FeedKind
from app.feeds.stand_ins.households import SLOTS
from app.feeds.stand_ins.meters import Shown
from app.feeds.stand_ins.scenarios import COMPLETE, GAPS, SCENARIOS, TEST_METERS, Loss
from app.feeds.stand_ins.server import PAGE, Answered, Endpoint, StandIn, listener, serving
from app.meters.numbers import parse
from app.readings.enums import ReadingChannel

NOW = datetime(2026, 4, 15, 12, tzinfo=UTC)


class Small(StandIn):
    kind = FeedKind.PERSE
    credentials = {"apiKey": "a key"}
    base_path = "/v1"
    requests_a_minute = 15

    def endpoints(self) -> Sequence[Endpoint]:
        return [Endpoint("/meters", self._meters), Endpoint("/days", self._days)]

    def error(self, status: int, message: str) -> Any:
        return {"error": message}

    def authorize(self, request: Request) -> None:
        if self.scenario.has_expired or request.headers.get("key") != "a key":
            raise self.failed(401, "No.")

    async def _meters(self, _request: Request) -> Any:
        return sorted(self.meters)

    async def _days(self, request: Request) -> Any:
        if int(request.query_params["days"]) > 31:
            raise self.outside("More than 31 days.")
        return []


@pytest.fixture(scope="module")
async def small() -> AsyncIterator[tuple[Small, httpx.AsyncClient]]:
    stand_in = Small(now=NOW)
    async with serving(stand_in) as url, httpx.AsyncClient(base_url=url, headers={"key": "a key"}) as client:
        yield stand_in, client


@pytest.fixture(autouse=True)
def fresh(request: pytest.FixtureRequest) -> None:
    if "small" in request.fixturenames:
        stand_in = request.getfixturevalue("small")[0]
        stand_in.play(COMPLETE)
        stand_in.forget()


Running = tuple[Small, httpx.AsyncClient]


async def test_requests_are_counted_and_those_outside_limits_refused(small: Running) -> None:
    stand_in, client = small
    assert (await client.get("/meters")).json() == sorted(stand_in.meters)
    refused = await client.get("/days", params={"days": 90})
    assert (refused.status_code, refused.json()) == (400, {"error": "More than 31 days."})
    assert (await client.get("/elsewhere")).status_code == 404
    assert (await client.get("/meters", headers={"key": "another"})).status_code == 401
    assert stand_in.counts.total == 4
    assert stand_in.counts.refused == [
        "GET /v1/days?days=90: More than 31 days.",
        "GET /v1/elsewhere: There is no GET /v1/elsewhere.",
    ]
    told = (await client.get(str(client.base_url.join("/_stand-in/requests")))).json()
    assert (told["total"], told["refused"]) == (4, stand_in.counts.refused)
    assert [(one["target"], one["status"]) for one in told["requests"]] == [
        ("/v1/meters", 200), ("/v1/days?days=90", 400), ("/v1/elsewhere", 404), ("/v1/meters", 401),
    ]  # fmt: skip
    assert "a key" not in str(told)


async def test_more_requests_in_a_minute_than_the_source_allows_are_refused(small: Running) -> None:
    stand_in, client = small
    answers = [(await client.get("/meters")).status_code for _ in range(17)]
    assert answers == [200] * 15 + [429] * 2
    assert len(stand_in.counts.refused) == 2


async def test_expired_credentials_are_refused(small: Running) -> None:
    stand_in, client = small
    stand_in.play(SCENARIOS["expired"])
    assert (await client.get("/meters")).status_code == 401


async def test_a_flaky_source_fails_in_three_ways_in_turn(small: Running) -> None:
    stand_in, client = small
    stand_in.play(SCENARIOS["flaky"])
    seen: list[int | str] = []
    for _ in range(12):
        try:
            response = await client.get("/meters")
            seen.append(response.text if response.text == PAGE else response.status_code)
        except httpx.RemoteProtocolError:
            seen.append("cut")
    assert seen == [200, 200, 200, 503, 200, 200, 200, "cut", 200, 200, 200, PAGE]
    assert stand_in.counts.refused == []


async def test_a_quota_ends_with_a_pause(small: Running) -> None:
    stand_in, client = small
    stand_in.play(SCENARIOS["quota"])
    answers = [await client.get("/meters") for _ in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 5 + [429]
    assert answers[-1].headers["retry-after"] == "2"
    assert stand_in.counts.refused == []


async def test_a_taken_port_is_an_error() -> None:
    with listener("127.0.0.1", 0) as taken:
        taken.listen()
        with pytest.raises(OSError, match="in use"):
            listener("127.0.0.1", taken.getsockname()[1])


def test_every_number_is_valid_and_test_meters_keep_their_behaviour() -> None:
    stand_in = Small(SCENARIOS["empty"], seed=7, now=NOW, neighbours=50, numbers=["1312345678907"])
    assert len(stand_in.meters) == len(TEST_METERS) + 5 + 1 + 50
    for number in stand_in.meters:
        parsed = parse(number)
        assert (parsed.core, parsed.type, parsed.invalid) == (
            number, stand_in.meters[number].household.type, False,
        )  # fmt: skip
    assert _shown(stand_in, "9999999999995").starts
    assert not _shown(stand_in, "1312345678907").starts
    assert _shown(stand_in, "2400000000013").lost


def test_late_half_hours_arrive_and_estimates_are_corrected() -> None:
    late, estimated = Small(SCENARIOS["late"], now=NOW), Small(SCENARIOS["estimated"], now=NOW)
    complete = _shown(Small(now=NOW), "Home")
    assert len(complete.starts) == 30 * SLOTS
    assert _shown(late, "Home").starts == complete.starts[: -3 * SLOTS]
    first = _shown(estimated, "Home")
    assert first.starts == complete.starts
    assert first.estimated == [False] * 27 * SLOTS + [True] * 3 * SLOTS
    assert all(one > other for one, other in zip(first.amounts[-144:], complete.amounts[-144:], strict=True))
    for stand_in in (late, estimated):
        stand_in.settle()
        assert _shown(stand_in, "Home") == complete


def test_gaps_have_both_causes() -> None:
    found = _shown(Small(GAPS, now=NOW), "Home")
    assert {loss for _, loss in found.lost} == set(Loss)
    assert sorted([*found.starts, *(at for at, _ in found.lost)]) == _shown(Small(now=NOW), "Home").starts


def test_an_exchange_leaves_an_hour_that_neither_meter_counts() -> None:
    meter = Small(SCENARIOS["exchange"], now=NOW).meter("Home")
    old, new = meter.serials
    assert new.first - old.after == 2
    assert [at for at, _ in meter.shown(old.first, new.after).lost] == [old.after, old.after + 1]


def test_clock_changes_alone_have_three_days_each() -> None:
    found = Small(SCENARIOS["clock-change"], now=NOW).meter("Home")
    year = found.shown(found.clock.today - 365 * SLOTS, found.clock.today)
    assert len(year.starts) == (48 + 46 + 48) + (48 + 50 + 48)


def test_nothing_is_there_of_today_nor_of_the_time_before_a_move() -> None:
    meter = Small(now=NOW).meter("Home of new tenants")
    found = meter.shown(0, meter.clock.today + 1_000)
    assert (found.starts[0], found.starts[-1]) == (meter.first, meter.clock.today - 1)
    assert meter.moved_in_at == datetime(2025, 11, 15, 23, tzinfo=UTC)


def test_only_the_home_with_panels_exports() -> None:
    stand_in = Small(now=NOW)
    assert _shown(stand_in, "Home with solar panels", ReadingChannel.EXPORT).starts
    assert not _shown(stand_in, "Home", ReadingChannel.EXPORT).starts


def test_a_wrong_unit_is_a_thousand_times_too_much() -> None:
    wrong, right = _shown(Small(SCENARIOS["wrong-unit"], now=NOW), "Home"), _shown(Small(now=NOW), "Home")
    assert wrong.amounts == [1_000 * amount for amount in right.amounts]


def test_an_answer_of_a_status_keeps_its_headers() -> None:
    answered = Small(now=NOW).failed(429, "Later.", **{"retry-after": "3"})
    assert isinstance(answered, Answered)
    assert (answered.status, answered.headers, answered.refused) == (429, {"retry-after": "3"}, None)


def _shown(stand_in: Small, name: str, channel: ReadingChannel = ReadingChannel.IMPORT) -> Shown:
    """The last 30 days of a meter, by its number or label."""
    meter = stand_in.meters.get(name) or stand_in.meter(name)
    return meter.shown(meter.clock.today - 30 * SLOTS, meter.clock.today, channel)
