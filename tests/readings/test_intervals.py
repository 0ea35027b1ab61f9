"""Reads of intervals: exact sums at every granularity, the period's arguments, missing counts, and a whole year."""

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from app.accounts import actions as accounts
from app.core import clock
from app.core.clock import (
    HALF_HOUR,
    UK,
    format_utc,
    half_hours_in_uk_day,
    start_of_uk_day,
    uk_date,
)
from app.db.database import run_script
from app.meters import actions as meters
from app.meters.numbers import mpan_check_digit
from app.readings.actions import lock_meters, write_channels
from app.readings.buckets import HALF_HOUR_MS
from app.readings.columns import Columns, packed_days
from app.readings.enums import ReadingChannel
from app.readings.stored_days import MAX_READ
from tests.accounts.state import reads
from tests.meters.asking import NUMBERS, make_customer, make_meter
from tests.readings.generated_year import (
    DAYS,
    ESTIMATED,
    GENERATED_JANUARY,
    GENERATED_TOTAL,
    HALF_HOURS,
    SHARED_JANUARY,
    SHARED_TOTAL,
    YearReading,
    generated_year,
    shared_year,
    shared_year_path,
)
from tests.readings.metered import INTERVALS, Metered, as_intervals, metered, plain, reading, sums
from tests.support import World

pytestmark = pytest.mark.both_databases

YEAR = {"from": "2024-01-01T00:00:00Z", "to": "2024-12-02T00:00:00Z"}


async def expect_year(meter: Metered, readings: list[YearReading], total: Decimal, january: Decimal) -> None:
    """The recorded year is read back exactly, at every granularity."""
    data = await meter.intervals(**YEAR)
    assert data["intervals"] == as_intervals(readings)
    assert (len(data["intervals"]), data["total"], data["missingCount"]) == (HALF_HOURS, plain(total), 0)
    assert sum(one["quality"] == "ESTIMATED" for one in data["intervals"]) == ESTIMATED
    await _expect_sums(meter, readings, "HOUR", lambda at: at.replace(minute=0))
    days = await _expect_sums(meter, readings, "DAY", uk_date)
    assert len(days) == DAYS
    await _expect_sums(
        meter, readings, "WEEK", lambda at: uk_date(at) - timedelta(days=uk_date(at).weekday())
    )
    months = await _expect_sums(meter, readings, "MONTH", lambda at: uk_date(at).replace(day=1))
    assert months[0]["consumption"] == plain(january)
    [year] = await _expect_sums(meter, readings, "YEAR", lambda at: uk_date(at).replace(month=1, day=1))
    assert (year["consumption"], year["quality"]) == (plain(total), "ESTIMATED")
    for day, count in ((date(2024, 3, 31), 46), (date(2024, 10, 27), 50), (date(2024, 7, 1), 48)):
        of_day = await meter.intervals(
            **{
                "from": format_utc(start_of_uk_day(day)),
                "to": format_utc(start_of_uk_day(day + timedelta(1))),
            }
        )
        assert (day, len(of_day["intervals"]), of_day["missingCount"]) == (day, count, 0)


async def _expect_sums(
    meter: Metered, readings: list[YearReading], granularity: str, key: Any
) -> list[dict[str, Any]]:
    data = await meter.intervals(**YEAR, granularity=granularity)
    expected = sums(readings, key)
    intervals: list[dict[str, Any]] = data["intervals"]
    assert [
        (one["consumption"], one["missingCount"] + count, one["quality"])
        for one, (_, count, _) in zip(intervals, expected.values(), strict=True)
    ] == [
        (plain(total), _half_hours(one), "ESTIMATED" if estimated else "ACTUAL")
        for one, (total, _, estimated) in zip(intervals, expected.values(), strict=True)
    ]
    starts = [min(at for at, _, _ in readings if key(at) == one) for one in list(expected)[1:3]]
    assert [one["startAt"] for one in intervals[1:3]] == [format_utc(one) for one in starts]
    assert data["total"] == plain(sum((kwh for _, kwh, _ in readings), Decimal(0)))
    return intervals


def _half_hours(interval: dict[str, Any]) -> int:
    return (clock.parse_utc(interval["endAt"]) - clock.parse_utc(interval["startAt"])) // HALF_HOUR


async def test_a_generated_year_goes_in_and_comes_out_exactly(world: World) -> None:
    meter = await metered(world)
    year = generated_year()
    await meter.record_year(year)
    await expect_year(meter, year, GENERATED_TOTAL, GENERATED_JANUARY)


@pytest.mark.skipif(shared_year_path() is None, reason="the real year is not beside the repository")
async def test_the_real_year_goes_in_and_comes_out_exactly(world: World) -> None:
    meter = await metered(world)
    year = shared_year()
    await meter.record_year(year)
    await expect_year(meter, year, SHARED_TOTAL, SHARED_JANUARY)


async def test_a_period_is_widened_to_whole_buckets_of_the_uk(world: World) -> None:
    meter = await metered(world)
    await meter.record(
        reading("2024-06-30T23:00:00Z", "1"), reading("2024-07-31T22:30:00Z", "2", "ESTIMATED")
    )
    for granularity, start, end in (
        ("HALF_HOUR", "2024-07-10T10:00:00.000Z", "2024-07-10T11:00:00.000Z"),
        ("HOUR", "2024-07-10T10:00:00.000Z", "2024-07-10T11:00:00.000Z"),
        ("DAY", "2024-07-09T23:00:00.000Z", "2024-07-10T23:00:00.000Z"),
        ("WEEK", "2024-07-07T23:00:00.000Z", "2024-07-14T23:00:00.000Z"),
        ("MONTH", "2024-06-30T23:00:00.000Z", "2024-07-31T23:00:00.000Z"),
        ("YEAR", "2024-01-01T00:00:00.000Z", "2025-01-01T00:00:00.000Z"),
    ):
        data = await meter.intervals(
            **{"from": "2024-07-10T10:15:00Z", "to": "2024-07-10T10:45:00Z", "granularity": granularity}
        )
        assert (granularity, data["from"], data["to"]) == (granularity, start, end)
        assert (
            data["missingCount"] == _half_hours({"startAt": start, "endAt": end}) - len(data["intervals"]) * 2
        )
        if granularity in ("MONTH", "YEAR"):
            assert data["intervals"] == [
                {
                    "startAt": start,
                    "endAt": end,
                    "consumption": "3",
                    "quality": "ESTIMATED",
                    "missingCount": data["missingCount"],
                }
            ]
        else:
            assert (data["intervals"], data["total"]) == ([], "0")


@pytest.mark.parametrize(("day", "count"), [("2024-03-31", 46), ("2024-10-27", 50), ("2024-10-28", 48)])
async def test_without_a_period_it_is_the_last_uk_day_with_data(world: World, day: str, count: int) -> None:
    meter = await metered(world)
    last = start_of_uk_day(date.fromisoformat(day))
    await meter.record(reading(last - HALF_HOUR, "5"), reading(last + HALF_HOUR, "1"), reading(last, "0.5"))
    data = await meter.intervals()
    assert (data["from"], data["to"]) == (
        format_utc(last),
        format_utc(last + half_hours_in_uk_day(date.fromisoformat(day)) * HALF_HOUR),
    )
    assert (len(data["intervals"]), data["total"], data["missingCount"]) == (2, "1.5", count - 2)
    assert {key: data[key] for key in ("meter", "unit", "granularity")} == {
        "meter": {"id": meter.meter_id},
        "unit": "KWH",
        "granularity": "HALF_HOUR",
    }
    month = await meter.intervals(granularity="MONTH")
    assert (month["total"], len(month["intervals"])) == ("6.5", 1)


async def test_a_meter_without_data_shows_today(world: World) -> None:
    meter = await metered(world)
    before = clock.now()
    data = await meter.intervals()
    assert data["from"] in {format_utc(start_of_uk_day(uk_date(one))) for one in (before, clock.now())}
    assert (data["intervals"], data["total"]) == ([], "0")
    over = {(one - clock.parse_utc(data["from"])) // HALF_HOUR for one in (before, clock.now())}
    assert data["missingCount"] in over


async def test_a_lookback_ends_now_or_at_to(world: World) -> None:
    meter = await metered(world)
    for lookback, to, start in (
        ("1d", "2024-04-02T00:00:00Z", "2024-04-01T00:00:00.000Z"),
        # One day earlier in local time, across the spring change, is 23 hours.
        ("1d", "2024-03-31T23:00:00Z", "2024-03-31T00:00:00.000Z"),
        ("1w", "2024-04-08T11:00:00Z", "2024-04-01T11:00:00.000Z"),
        ("3m", "2024-05-31T11:00:00Z", "2024-02-29T12:00:00.000Z"),
        ("1y", "2024-02-29T12:00:00Z", "2023-02-28T12:00:00.000Z"),
    ):
        data = await meter.intervals(lookback=lookback, to=to)
        assert (lookback, data["from"], data["to"]) == (lookback, start, to[:-1] + ".000Z")
    before = clock.now()
    data = await meter.intervals(lookback="1w", granularity="DAY")
    starts = {format_utc(start_of_uk_day(uk_date(one) - timedelta(days=7))) for one in (before, clock.now())}
    assert data["from"] in starts
    assert clock.parse_utc(data["to"]) >= before


async def test_from_alone_reaches_until_now(world: World) -> None:
    meter = await metered(world)
    start = clock.now() - timedelta(hours=2)
    data = await meter.intervals(**{"from": format_utc(start)})
    end = clock.parse_utc(data["to"])
    assert end - HALF_HOUR <= clock.now()
    assert data["missingCount"] == (end - clock.parse_utc(data["from"])) // HALF_HOUR - 1
    later = await meter.intervals(**{"from": "9998-01-01T00:00:00Z"})
    assert (later["to"], later["missingCount"]) == ("9998-01-01T00:30:00.000Z", 0)


async def test_what_is_to_come_is_not_missing(world: World) -> None:
    meter = await metered(world)
    now = clock.now()
    midnight = start_of_uk_day(uk_date(now))
    data = await meter.intervals(
        **{
            "from": format_utc(midnight),
            "to": format_utc(midnight + timedelta(days=3)),
            "granularity": "WEEK",
        }
    )
    start = clock.parse_utc(data["from"])
    assert data["missingCount"] in {(one - start) // HALF_HOUR for one in (now, clock.now())}


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"from": "2024-01-01T00:00:00Z", "lookback": "1d"}, "lookback"),
        ({"lookback": "1h"}, "lookback"),
        ({"lookback": "0d"}, "lookback"),
        ({"lookback": "101y"}, "lookback"),
        ({"lookback": ""}, "lookback"),
        ({"to": "2024-01-01T00:00:00Z"}, "from"),
        ({"from": "2024-01-01T00:00:00Z", "to": "2024-01-01T00:00:00Z"}, "to"),
        ({"from": "2024-01-02T00:00:00Z", "to": "2024-01-01T00:00:00Z"}, "to"),
        ({"from": "2023-01-01T00:00:00Z", "to": "2024-01-02T00:30:00Z"}, "from"),
        ({"lookback": "13m", "to": "2024-01-01T00:00:00Z"}, "from"),
        ({"from": "9999-12-31T23:59:59.999Z"}, "from"),
        ({"from": "9998-12-31T00:00:00Z", "to": "9999-12-31T23:59:00Z"}, "from"),
    ],
)
async def test_a_wrong_period_is_refused(world: World, arguments: dict[str, Any], field: str) -> None:
    meter = await metered(world)
    [error] = (await world.ask(INTERVALS, {"meterId": meter.meter_id, **arguments}, key=meter.account.key))[
        "errors"
    ]
    assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": [field]}


async def test_a_leap_year_of_half_hours_is_the_most(world: World) -> None:
    meter = await metered(world)
    data = await meter.intervals(**{"from": "2024-01-01T00:00:00Z", "to": "2025-01-01T00:00:00Z"})
    assert data["missingCount"] == 17_568
    ages = await meter.intervals(
        **{"from": "1900-01-01T00:00:00Z", "to": "2024-01-01T00:00:00Z", "granularity": "YEAR"}
    )
    assert (ages["from"], ages["to"]) == ("1900-01-01T00:00:00.000Z", "2024-01-01T00:00:00.000Z")


async def test_a_meter_is_named_by_id_or_by_number_and_customer(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1"))
    query = (
        "query ($meterId: ID, $meterNumber: String, $customerId: ID) { intervalData(meterId: $meterId, "
        "meterNumber: $meterNumber, customerId: $customerId) { meter { id } total } }"
    )
    found = {"meter": {"id": meter.meter_id}, "total": "1"}
    number = {"meterNumber": "00 111 222 24 9999 9999 991", "customerId": meter.customer_id}
    for arguments in ({"meterId": meter.meter_id}, number):
        data = await world.data(query, arguments, key=meter.account.key)
        assert data == {"intervalData": found}
    for arguments, field in (
        ({}, "meterId"),
        ({"meterNumber": "2499999999991"}, "meterId"),
        ({**number, "meterId": meter.meter_id}, "meterId"),
        ({**number, "meterNumber": "2499999999990"}, "meterNumber"),
    ):
        [error] = (await world.ask(query, arguments, key=meter.account.key))["errors"]
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": [field]}
    stranger, other = await world.account(), await make_customer(world, meter.account, "b@example.com")
    for key, arguments in (
        (stranger.key, {"meterId": meter.meter_id}),
        (stranger.key, number),
        (meter.account.key, {**number, "customerId": other}),
        (meter.account.key, {"meterId": "mtr_00000000000000000000000000"}),
        (meter.account.key, {"meterId": "nonsense"}),
    ):
        assert await world.data(query, arguments, key=key) == {"intervalData": None}


async def test_a_stream_token_of_one_customer_reads_its_meters_only(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1"))
    other = await make_customer(world, meter.account, "b@example.com")
    admin = (await world.authenticator.authenticate(meter.account.key)).actor
    query = "query ($id: ID!) { intervalData(meterId: $id) { total } meters { nodes { intervalData { total } } } }"
    for customer_id, expected in (
        (
            meter.customer_id,
            {"intervalData": {"total": "1"}, "meters": {"nodes": [{"intervalData": {"total": "1"}}]}},
        ),
        (other, {"intervalData": None, "meters": {"nodes": []}}),
    ):
        async with world.database.transaction() as session:
            token, _ = await accounts.create_stream_token(
                session, admin, world.services.keyring, customer_id=customer_id
            )
        assert await world.data(query, {"id": meter.meter_id}, key=token) == expected


async def test_the_intervals_of_many_meters_are_read_together(world: World) -> None:
    meter = await metered(world)
    made = [await make_meter(world, meter.account, meter.customer_id, number) for number in NUMBERS]
    ids = [meter.meter_id, *(one["id"] for one in made)]
    for at, meter_id in enumerate(ids):
        one = Metered(world, meter.account, meter.customer_id, meter_id)
        await one.record(reading("00:00", str(at)), reading(f"2024-06-0{at + 1}T00:00:00Z", "10"))
    for arguments, statements, totals in (
        ("", 3, ["10"] * 6),
        ('(from: "2024-05-01T00:00:00Z", to: "2024-05-02T00:00:00Z", granularity: DAY)', 2, [*"012345"]),
    ):
        query = f"{{ meters {{ nodes {{ intervalData{arguments} {{ total }} }} }} }}"
        with reads(world.database) as sent:
            nodes = (await world.data(query, key=meter.account.key))["meters"]["nodes"]
        assert [one["intervalData"]["total"] for one in nodes] == totals
        assert len([one for one in sent if "FROM api_keys" not in one]) == statements


async def test_a_portfolio_of_a_hundred_meters_is_two_statements(world: World) -> None:
    meter = await metered(world)
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    digits = [f"12{number:010d}" for number in range(99)]
    async with world.database.transaction() as session:
        made = [
            await run_script(
                session,
                meters.create(
                    session, actor, customer_id=meter.customer_id, number=one + str(mpan_check_digit(one))
                ),
            )
            for one in digits
        ]
    yesterday = start_of_uk_day(uk_date(clock.now())) - timedelta(hours=12)
    for number, meter_id in enumerate((made[0].id, made[98].id), 1):
        one = Metered(world, meter.account, meter.customer_id, meter_id)
        await one.record(reading(yesterday, str(number)), reading(yesterday + HALF_HOUR, "0.5"))
    query = """{ meters(first: 100) { nodes { id
        intervalData(lookback: "1m", granularity: DAY) { total intervals { consumption } } } } }"""
    with reads(world.database) as sent:
        nodes = (await world.data(query, key=meter.account.key))["meters"]["nodes"]
    assert len([one for one in sent if "FROM api_keys" not in one]) == 2
    totals = {one["id"]: one["intervalData"]["total"] for one in nodes}
    expected = dict.fromkeys(totals, "0") | {made[0].id: "1.5", made[98].id: "2.5"}
    assert (len(totals), totals) == (100, expected)
    assert nodes[-1]["intervalData"]["intervals"] == [{"consumption": "2.5"}]


async def test_the_first_and_the_last_day_are_found_in_any_year(world: World) -> None:
    meter = await metered(world)
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    query = f"""{{ meter(id: "{meter.meter_id}") {{
        intervalData {{ from }} coverage(to: "2050-01-01T00:00:00Z") {{ from latestAt }} }} }}"""
    written = []
    # Around the first and the last year that has a partition.
    for at in (
        *("2020-05-05T10:00:00.000Z", "2024-01-01T00:00:00.000Z", "2015-01-01T00:00:00.000Z"),
        *("2014-12-31T23:30:00.000Z", "2035-12-31T23:30:00.000Z", "2036-01-01T00:00:00.000Z"),
        *("1950-01-01T12:00:00.000Z", "2040-02-02T00:00:00.000Z"),
    ):
        written.append(at)
        days = packed_days(Columns([clock.to_ms(clock.parse_utc(at)) // HALF_HOUR_MS], [1], [False]))
        async with world.database.transaction() as session:
            locked = await run_script(session, lock_meters(actor, [meter.meter_id]))
            new = {ReadingChannel.IMPORT: {meter.meter_id: days}}
            await run_script(session, write_channels(session, locked, new))
        found = (await world.data(query, key=meter.account.key))["meter"]
        assert found["coverage"] == {"from": min(written), "latestAt": max(written)}
        latest = start_of_uk_day(uk_date(clock.parse_utc(max(written))))
        assert found["intervalData"] == {"from": format_utc(latest)}


async def test_one_operation_reads_so_many_readings_and_no_more(world: World) -> None:
    meter = await metered(world)
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    first = clock.to_ms(datetime(2000, 1, 1, tzinfo=UK)) // 1_800_000
    count = MAX_READ // 2 + 1
    days = packed_days(Columns(list(range(first, first + count)), [1_000_000] * count, [False] * count))
    async with world.database.transaction() as session:
        locked = await run_script(session, lock_meters(actor, [meter.meter_id]))
        new = {ReadingChannel.IMPORT: {meter.meter_id: days}}
        await run_script(session, write_channels(session, locked, new))
    once = '(from: "2000-01-01T00:00:00Z", to: "2010-01-01T00:00:00Z", granularity: YEAR) { total }'
    data = await world.data(f"{{ meters {{ nodes {{ intervalData{once} }} }} }}", key=meter.account.key)
    assert data["meters"]["nodes"] == [{"intervalData": {"total": str(MAX_READ // 2 + 1)}}]
    twice = (
        f"{{ meters {{ nodes {{ a: intervalData{once} b: intervalData{once.replace('YEAR', 'MONTH')} }} }} }}"
    )
    response = await world.ask(twice, key=meter.account.key)
    assert [one["extensions"] for one in response["errors"]] == [
        {"code": "QUERY_TOO_COMPLEX", "limit": MAX_READ}
    ]
