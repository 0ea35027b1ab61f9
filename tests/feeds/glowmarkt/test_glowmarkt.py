"""Glowmarkt: signing in, windows of ten days, homes by their settings and names, and nulls that are no zeros."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import orjson
import pytest

from app.feeds.amounts import NO_VALUE
from app.feeds.exchange import Exchange, TokenBucket
from app.feeds.failures import Meaning, SourceFailure
from app.feeds.glowmarkt.client import BRIGHT, GlowmarktClient
from app.feeds.glowmarkt.kind import GLOWMARKT, Glowmarkt
from app.feeds.glowmarkt.mapping import MOST_RESOURCES, to_resources
from app.feeds.half_hours import OTHER_UNIT, UNREADABLE
from app.feeds.source import FetchedMeter
from app.meters.enums import MeterType
from app.outbound.http.transport import Transport
from app.readings.enums import ReadingChannel
from tests.delivery.receivers import Answer, Receiver, Request, receiver
from tests.feeds.sources import HASTE, METER, SECRETS, answers, at, missed, opened, shown, window

GAS_METER = FetchedMeter("3938424403", MeterType.GAS)
HOME = "0a6bbbf4-8d0e-4b7b-9a3c-000000000001"
OTHER_HOME = "0a6bbbf4-8d0e-4b7b-9a3c-000000000002"
USED, SENT, GAS, COST = (f"0a6bbbf4-8d0e-4b7b-9a3c-00000000001{number}" for number in range(4))
DAY = window("2026-01-10 00:00", "2026-01-10 02:00")

RESOURCES = {
    "resources": [
        {"resourceId": COST, "classifier": "electricity.consumption.cost", "baseUnit": "pence"},
        {"resourceId": USED, "classifier": "electricity.consumption", "baseUnit": "kWh"},
        {"resourceId": GAS, "classifier": "gas.consumption", "baseUnit": "kWh"},
    ]
}
EXPORT = {"resourceId": SENT, "classifier": "electricity.export", "baseUnit": "kWh"}
DENIED = answers({"error": "Access denied"}, 401)


def token(number: int = 1, **other: Any) -> Answer:
    return answers({"valid": True, "token": f"token-{number}", "exp": int(time.time()) + 7 * 86_400, **other})


def homes(*names: str) -> Answer:
    ids = (HOME, OTHER_HOME)
    return answers(
        [{"veId": one, "name": name, "postalCode": "SW1A 1AA"} for one, name in zip(ids, names, strict=False)]
    )


def first(instant: str | None = "2025-01-01 00:00") -> Answer:
    return answers({"data": {"firstTs": int(at(instant).timestamp())} if instant else {}})


def readings(start: str, *values: Any, units: str = "kWh") -> Answer:
    begins = int(at(start).timestamp())
    data = [[begins + 1800 * place, value] for place, value in enumerate(values)]
    return answers({"status": "OK", "units": units, "data": data})


def paths(place: Receiver) -> list[str]:
    return [urlsplit(one.line.split()[1]).path for one in place.requests]


def query(request: Request) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(request.line.split()[1]).query))


async def fetched(*told: Answer, meter: FetchedMeter = METER, period: Any = DAY) -> Any:
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        return await source.fetch(meter, period)


async def refusal(*told: Answer, meter: FetchedMeter = METER) -> SourceFailure:
    with pytest.raises(SourceFailure) as refused:
        await fetched(*told, meter=meter)
    return refused.value


async def test_the_requests_of_a_meter() -> None:
    told = [
        token(),
        homes("Home"),
        answers(RESOURCES),
        first(),
        readings("2026-01-10 00:00", 0.25, None, 0, 1.5, 9),
    ]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("/api/v0-1")) as source:
        found = await source.fetch(METER, DAY)
    assert paths(place) == [
        "/api/v0-1/auth",
        "/api/v0-1/virtualentity",
        f"/api/v0-1/virtualentity/{HOME}/resources",
        f"/api/v0-1/resource/{USED}/first-time",
        f"/api/v0-1/resource/{USED}/readings",
    ]
    assert orjson.loads(place.requests[0].body) == {
        "username": SECRETS["username"],
        "password": SECRETS["password"],
    }
    assert all(one.headers["applicationid"] == BRIGHT for one in place.requests)
    assert ["token" in one.headers for one in place.requests] == [False, True, True, True, True]
    assert query(place.requests[-1]) == {
        "from": "2026-01-10T00:00:00",
        "to": "2026-01-10T02:00:00",
        "period": "PT30M",
        "function": "sum",
        "offset": "0",
        "nulls": "1",
    }
    assert shown(found) == {"2026-01-10 00:00": "0.25", "2026-01-10 01:00": "0", "2026-01-10 01:30": "1.5"}
    assert missed(found) == [("IMPORT", "2026-01-10 00:30", "2026-01-10 01:00", NO_VALUE)]
    assert found.starts_at == at("2025-01-01 00:00")


async def test_ten_days_a_request_from_the_first_reading_on() -> None:
    told = [
        token(),
        homes("Home"),
        answers(RESOURCES),
        first("2026-01-03 12:10"),
        readings("2026-01-03 00:00"),
    ]
    period = window("2025-12-01 00:00", "2026-01-24 00:00")
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        found = await source.fetch(METER, period)
        assert [(query(one)["from"], query(one)["to"]) for one in place.requests[4:]] == [
            ("2026-01-03T12:00:00", "2026-01-13T12:00:00"),
            ("2026-01-13T12:00:00", "2026-01-23T12:00:00"),
            ("2026-01-23T12:00:00", "2026-01-24T00:00:00"),
        ]
        assert found.starts_at == at("2026-01-03 12:00")
        cause = "The source has readings from 3 January 2026 on only."
        assert missed(found) == [("IMPORT", "2025-12-01 00:00", "2026-01-03 12:00", cause)]
        before = await source.fetch(METER, window("2025-12-01 00:00", "2026-01-01 00:00"))
    assert len(place.requests) == 7
    assert before.starts_at == at("2026-01-03 12:00")


async def test_both_directions_and_gas() -> None:
    both = {"resources": [*RESOURCES["resources"], EXPORT]}
    told = [token(), homes("Home"), answers(both), first(), readings("2026-01-10 00:00", 1)]
    told += [
        first("2025-02-01 00:00"),
        readings("2026-01-10 00:00", 2),
        first(None),
        readings("2026-01-10 00:00", 3),
    ]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        electricity = await source.fetch(METER, DAY)
        gas = await source.fetch(GAS_METER, DAY)
    assert shown(electricity) == {"2026-01-10 00:00": "1"}
    assert shown(electricity, ReadingChannel.EXPORT) == {"2026-01-10 00:00": "2"}
    assert electricity.starts_at == at("2025-01-01 00:00")
    assert shown(gas) == {"2026-01-10 00:00": "3"}
    assert gas.starts_at is None
    assert f"/resource/{COST}/readings" not in paths(place)


async def test_the_first_reading_may_be_unknown() -> None:
    told = [token(), homes("Home"), answers(RESOURCES), answers({"error": "Not found"}, 404)]
    found = await fetched(*told, readings("2026-01-10 00:00", 1))
    assert shown(found) == {"2026-01-10 00:00": "1"}
    assert found.starts_at is None


@pytest.mark.parametrize(
    ("names", "settings", "home"),
    [
        (["Home"], {}, HOME),
        ([""], {}, HOME),
        ([f"Home {METER.number}"], {}, HOME),
        (["Home", f"Flat, {METER.number}"], {}, OTHER_HOME),
        (["Home", "Flat"], {"virtualEntityId": OTHER_HOME}, OTHER_HOME),
        (["Home", "Flat"], {}, None),
        ([f"A {METER.number}", f"B {METER.number}"], {}, None),
        (["Home 2499999999991"], {}, None),
        (["Home"], {"virtualEntityId": OTHER_HOME}, None),
        ([], {}, None),
    ],
)
async def test_the_home_of_a_meter(names: Sequence[str], settings: dict[str, str], home: str | None) -> None:
    meter = FetchedMeter(METER.number, MeterType.ELECTRICITY, settings)
    told = [token(), homes(*names), answers(RESOURCES), first(), readings("2026-01-10 00:00", 1)]
    if home is None:
        assert (await refusal(*told, meter=meter)).meaning is Meaning.METER
        return
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        await source.fetch(meter, DAY)
    assert paths(place)[2] == f"/virtualentity/{home}/resources"


async def test_a_home_with_two_meters_needs_the_resource() -> None:
    two = {
        "resources": [*RESOURCES["resources"], {"resourceId": SENT, "classifier": "electricity.consumption"}]
    }
    told = [token(), homes("Home"), answers(two)]
    refused = await refusal(*told)
    assert refused.meaning is Meaning.METER
    assert "resourceId" in refused.message
    meter = FetchedMeter(METER.number, MeterType.ELECTRICITY, {"resourceId": SENT})
    told += [first(), readings("2026-01-10 00:00", 1)]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        await source.fetch(meter, DAY)
    assert paths(place)[-1] == f"/resource/{SENT}/readings"


async def test_a_home_without_the_energy_of_the_meter() -> None:
    electric = {"resources": RESOURCES["resources"][:2]}
    assert (
        await refusal(token(), homes("Home"), answers(electric), meter=GAS_METER)
    ).meaning is Meaning.METER


async def test_what_is_discovered() -> None:
    both = {"resources": [*RESOURCES["resources"], EXPORT]}
    told = [token(), homes(f"Flat {METER.number}", "Home"), answers(both), answers(RESOURCES)]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        found = await source.discover()
    assert [(one.number, one.type.name, one.channel.name) for one in found] == [
        (METER.number, "ELECTRICITY", "IMPORT"),
        (HOME, "GAS", "IMPORT"),
        (METER.number, "ELECTRICITY", "EXPORT"),
        (OTHER_HOME, "ELECTRICITY", "IMPORT"),
        (OTHER_HOME, "GAS", "IMPORT"),
    ]
    assert found[-1].description == f"Home, SW1A 1AA: virtualEntityId {OTHER_HOME}, resourceId {GAS}"


async def test_units_and_entries() -> None:
    start = [token(), homes("Home"), answers(RESOURCES), first()]
    pence = await fetched(*start, readings("2026-01-10 00:00", 25, units="pence"))
    assert pence.readings == {}
    assert missed(pence) == [("IMPORT", "2026-01-10 00:00", "2026-01-10 02:00", OTHER_UNIT)]
    begins = int(DAY.start.timestamp())
    rubbish = [[begins, 1], [begins + 1, 2], [str(begins), 3], [begins], begins, None, [True, 4], [1.5, 5]]
    odd = await fetched(*start, answers({"units": "kWh", "data": rubbish}))
    assert shown(odd) == {"2026-01-10 00:00": "1"}
    assert missed(odd) == [("IMPORT", "2026-01-10 00:30", "2026-01-10 02:00", UNREADABLE)]


async def test_a_401_is_met_by_a_new_token_once() -> None:
    told = [
        token(1),
        homes("Home"),
        answers(RESOURCES),
        first(),
        DENIED,
        token(2),
        readings("2026-01-10 00:00", 1),
    ]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        assert shown(await source.fetch(METER, DAY)) == {"2026-01-10 00:00": "1"}
    assert [one.headers.get("token") for one in place.requests[4:]] == ["token-1", None, "token-2"]


async def test_the_end_of_a_consent_is_the_meters_affair() -> None:
    told = [token(1), homes("Home"), answers(RESOURCES), first(), DENIED, token(2), DENIED]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        with pytest.raises(SourceFailure) as refused:
            await source.fetch(METER, DAY)
    assert refused.value.meaning is Meaning.METER
    assert "consent" in refused.value.message
    assert len(place.requests) == 7


async def test_the_end_of_the_users_consent_is_the_feeds_affair() -> None:
    refused = await refusal(token(1), DENIED)
    assert refused.meaning is Meaning.FEED
    assert "consent" in refused.message


@pytest.mark.parametrize(
    ("told", "meaning", "words"),
    [
        (DENIED, Meaning.FEED, "user name and password (401)"),
        (answers({"error": "Bad request"}, 400), Meaning.FEED, "user name and password (400)"),
        (answers({"error": "Not found"}, 404), Meaning.FEED, "settings.baseUrl"),
        (answers({"valid": False}), Meaning.FEED, "user name and password:"),
        (answers({"valid": True}), Meaning.RETRY, "without a token"),
        (answers({"token": "line\nbreak"}), Meaning.RETRY, "without a token"),
        (answers({"token": ["t"]}), Meaning.RETRY, "without a token"),
        (answers([]), Meaning.RETRY, "without a token"),
        (answers({"error": "Later"}, 503), Meaning.RETRY, "503"),
        (answers({"error": "Later"}, 429), Meaning.WAIT, "429"),
    ],
)
async def test_signing_in_fails(told: Answer, meaning: Meaning, words: str) -> None:
    refused = await refusal(told)
    assert refused.meaning is meaning
    assert words in refused.message


@pytest.mark.parametrize("ends", [7 * 86_400, None, "soon", True, -5, 10**18])
async def test_tokens_are_renewed_before_their_end(ends: Any) -> None:
    now = [time.time()]
    end = int(now[0]) + ends if isinstance(ends, int) and not isinstance(ends, bool) else ends
    good_for = 300.0 if ends == -5 else 7 * 86_400 - 3_600
    told = [token(1, exp=end), homes("Home"), homes("Home"), token(2), homes("Home")]
    async with receiver(*told) as place, Transport((ip_network("127.0.0.0/8"),)) as transport:
        exchange = Exchange(transport, place.url(""), TokenBucket(HASTE, 1_000))
        client = GlowmarktClient(exchange, "someone", "secret", now=lambda: now[0])
        await client.homes()
        now[0] += good_for - 2
        await client.homes()
        now[0] += 3
        await client.homes()
    assert paths(place) == ["/auth", "/virtualentity", "/virtualentity", "/auth", "/virtualentity"]


async def test_homes_are_looked_up_once() -> None:
    told = [token(), homes("Home"), answers(RESOURCES), first(), readings("2026-01-10 00:00", 1)]
    async with receiver(*told) as place, opened(GLOWMARKT, place.url("")) as source:
        assert isinstance(source, Glowmarkt)
        for _ in range(3):
            await source.fetch(METER, DAY)
    assert len(place.requests) == 7


async def test_first_readings_in_the_future_are_none() -> None:
    later = datetime.now(UTC) + timedelta(days=3)
    told = [token(), homes("Home"), answers(RESOURCES), first(f"{later:%Y-%m-%d %H:%M}")]
    found = await fetched(*told, readings("2026-01-10 00:00", 1))
    assert found.starts_at is None
    assert shown(found) == {"2026-01-10 00:00": "1"}


def test_the_resources_of_a_home_that_are_kept_are_few() -> None:
    cost = {"resourceId": "cost", "classifier": "electricity.consumption.cost"}
    entries = [{"resourceId": f"r{one}", "classifier": "gas.consumption"} for one in range(500)]
    found = to_resources({"resources": [*[cost] * 500, *entries]})
    assert [one.id for one in found] == [f"r{one}" for one in range(MOST_RESOURCES)]
