"""A year of half-hours through a real server: what went in comes out, at every granularity, to the last digit."""

import gzip
import itertools
from collections.abc import Sequence
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.core.clock import HALF_HOUR, UK, half_hours_in_uk_day, parse_utc
from app.readings.actions import MAX_READINGS
from app.readings.enums import ReadingQuality
from tests.readings.generated_year import (
    DAYS,
    ESTIMATED,
    FIRST_DAY,
    GENERATED_JANUARY,
    GENERATED_TOTAL,
    HALF_HOURS,
    METER_NUMBER,
    SHARED_JANUARY,
    SHARED_TOTAL,
    YearReading,
    generated_year,
    shared_year,
    shared_year_path,
)
from tests.readings.metered import as_csv, as_intervals, as_ndjson, plain, reading, sums
from tests.system.clients import Api

PERIOD = {"from": "2024-01-01T00:00:00.000Z", "to": "2024-12-02T00:00:00.000Z"}
INTERVALS = """
query ($meter: ID!, $from: DateTime, $to: DateTime, $granularity: Granularity!) {
  intervalData(meterId: $meter, from: $from, to: $to, granularity: $granularity) {
    total unit missingCount intervals { startAt endAt consumption quality missingCount }
  }
}
"""
RECEIVED = """
query ($filter: EventFilter) {
  events(first: 100, filter: $filter) { nodes { ... on MeterDataReceivedEvent { from to intervalCount } } }
}
"""
numbers = itertools.count()


@pytest.fixture(params=["generated", "shared"], scope="module")
def year(request: pytest.FixtureRequest) -> tuple[list[YearReading], Decimal, Decimal]:
    """Readings, their total, and January's."""
    if request.param == "generated":
        return generated_year(), GENERATED_TOTAL, GENERATED_JANUARY
    if shared_year_path() is None:
        pytest.skip("the real year lies beside the repository, or in VOLTWIRE_TEST_DATA, and is not there")
    return shared_year(), SHARED_TOTAL, SHARED_JANUARY


async def make_meter(api: Api) -> str:
    """A meter of a new customer, with a valid consent."""
    made = await api.mutate(
        "createCustomer",
        "customer { id }",
        name="Bath Library",
        email=f"library{next(numbers)}@example.com",
    )
    customer = made["customer"]["id"]
    made = await api.mutate(
        "createHostedConsent",
        "hostedConsent { link }",
        customerId=customer,
        flowType="GB_COMMERCIAL_BLANKET",
        expiry=(date.today() + timedelta(days=300)).isoformat(),  # noqa: DTZ011 - any day of next year
        redirectUrl="https://bright.example/welcome",
    )
    await api.mutate(
        "approveHostedConsent",
        "hostedConsent { valid }",
        token=made["hostedConsent"]["link"].rpartition("/")[2],
        consenteeFullName="Ada Lovelace",
        consenteeEmail="ada@example.com",
        consenteeJobTitle="Head of Estates",
    )
    made = await api.mutate("createMeter", "meter { id status }", customerId=customer, number=METER_NUMBER)
    assert made["meter"]["status"] == "ACTIVE"
    meter: str = made["meter"]["id"]
    return meter


async def by_mutation(api: Api, meter: str, readings: Sequence[YearReading]) -> list[int]:
    """As many mutations as their limit makes it; the number of readings in each."""
    sizes = []
    for start in range(0, len(readings), MAX_READINGS):
        some = [reading(at, kwh, quality.name) for at, kwh, quality in readings[start : start + MAX_READINGS]]
        recorded = await api.mutate("recordReadings", "accepted changed", meterId=meter, readings=some)
        assert recorded == {"accepted": len(some), "changed": len(some)}
        sizes.append(len(some))
    return sizes


async def by_csv(api: Api, meter: str, readings: Sequence[YearReading]) -> list[int]:
    return await upload(api, as_csv(readings, meter), "text/csv", len(readings))


async def by_ndjson(api: Api, meter: str, readings: Sequence[YearReading]) -> list[int]:
    # By its id, because other customers have a meter of the same number.
    content = as_ndjson(readings, METER_NUMBER).replace(
        f'"meter_number":"{METER_NUMBER}"'.encode(), f'"meter_id":"{meter}"'.encode()
    )
    return await upload(api, content, "application/x-ndjson", len(readings))


async def upload(api: Api, content: bytes, media_type: str, count: int) -> list[int]:
    headers = {"content-type": media_type, "content-encoding": "gzip"}
    for changed in (count, 0):
        # The second time nothing changes, and so nothing happens.
        answer = await api.http.post("/readings", content=gzip.compress(content), headers=headers)
        assert (answer.status_code, answer.json()) == (
            200, {"accepted": count, "changed": changed, "meters": 1},
        )  # fmt: skip
    return [count]


@pytest.mark.parametrize("record", [by_mutation, by_csv, by_ndjson])
async def test_a_year_comes_out_as_it_went_in(
    api: Api, year: tuple[list[YearReading], Decimal, Decimal], record: Any
) -> None:
    readings, total, january = year
    meter = await make_meter(api)
    sizes = await record(api, meter, readings)
    await check_half_hours(api, meter, readings, total)
    await check_days(api, meter, readings, total)
    await check_months(api, meter, readings, total, january)
    events = (await api.data(RECEIVED, filter={"types": ["METER_DATA_RECEIVED"], "meterIds": [meter]}))[
        "events"
    ]["nodes"]
    assert [event["intervalCount"] for event in events] == sizes
    assert (events[0]["from"], events[-1]["to"]) == (PERIOD["from"], PERIOD["to"])


async def intervals(api: Api, meter: str, granularity: str) -> dict[str, Any]:
    data = await api.data(INTERVALS, meter=meter, granularity=granularity, **PERIOD)
    found: dict[str, Any] = data["intervalData"]
    assert found["unit"] == "KWH"
    return found


async def check_half_hours(api: Api, meter: str, readings: Sequence[YearReading], total: Decimal) -> None:
    found = await intervals(api, meter, "HALF_HOUR")
    assert len(found["intervals"]) == HALF_HOURS
    assert found["intervals"] == as_intervals(readings)
    assert sum(one["quality"] == "ESTIMATED" for one in found["intervals"]) == ESTIMATED
    assert (found["total"], found["missingCount"]) == (plain(total), 0)


async def check_days(api: Api, meter: str, readings: Sequence[YearReading], total: Decimal) -> None:
    found = await intervals(api, meter, "DAY")
    assert (found["total"], found["missingCount"]) == (plain(total), 0)
    days = [parse_utc(one["startAt"]).astimezone(UK).date() for one in found["intervals"]]
    assert days == [FIRST_DAY + timedelta(days=offset) for offset in range(DAYS)]
    lengths = {
        day: (parse_utc(one["endAt"]) - parse_utc(one["startAt"])) // HALF_HOUR
        for day, one in zip(days, found["intervals"], strict=True)
    }
    assert lengths == {day: half_hours_in_uk_day(day) for day in days}
    assert {day: length for day, length in lengths.items() if length != 48} == {
        date(2024, 3, 31): 46,
        date(2024, 10, 27): 50,
    }
    expected = sums(readings, lambda at: at.astimezone(UK).date())
    assert {
        day: (Decimal(one["consumption"]), lengths[day] - one["missingCount"], one["quality"] == "ESTIMATED")
        for day, one in zip(days, found["intervals"], strict=True)
    } == expected


async def check_months(
    api: Api, meter: str, readings: Sequence[YearReading], total: Decimal, january: Decimal
) -> None:
    found = await intervals(api, meter, "MONTH")
    assert found["total"] == plain(total)
    # Of December there is the first day only.
    assert [one["missingCount"] for one in found["intervals"]] == [*([0] * 11), 30 * 48]
    assert found["missingCount"] == 30 * 48
    expected = sums(readings, lambda at: at.astimezone(UK).month)
    assert [one["consumption"] for one in found["intervals"]] == [
        plain(expected[month][0]) for month in range(1, 13)
    ]
    assert found["intervals"][0]["consumption"] == plain(january)
    estimated = [month for month, one in enumerate(found["intervals"], 1) if one["quality"] == "ESTIMATED"]
    assert estimated == sorted(
        {at.astimezone(UK).month for at, _, quality in readings if quality is ReadingQuality.ESTIMATED}
    )
