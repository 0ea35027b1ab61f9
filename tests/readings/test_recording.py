"""Recording of readings: accepted and changed counts, events, and refusals."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text, update

from app.accounts import actions as accounts
from app.auth.actor import Scope
from app.consents.models import ConsentStatus, HostedConsent
from app.core import clock, json_decimals
from app.core.clock import HALF_HOUR
from app.db.database import run_script
from app.readings.actions import FEW_DAYS, MAX_READINGS, lock_meters, write_channels
from app.readings.columns import Columns, packed_days
from app.readings.enums import ReadingChannel
from tests.accounts.state import events, refusals, unchanged
from tests.meters.asking import NUMBERS, make_consent, make_customer, make_meter, run
from tests.readings.metered import RECORD, metered, reading
from tests.support import World

pytestmark = pytest.mark.both_databases

DAY = {"from": "2024-05-01T00:00:00Z", "to": "2024-05-02T00:00:00Z"}


async def test_readings_are_recorded_told_once_and_read_back(world: World) -> None:
    meter = await metered(world)
    # The readings are out of order and have a gap.
    payload = await meter.record(
        reading("10:00", "0"), reading("09:00", "999999999999.999999", "ESTIMATED"), reading("12:30", "1.5")
    )
    assert payload == {"meter": {"id": meter.meter_id}, "accepted": 3, "changed": 3, "userErrors": []}
    data = await meter.intervals(**DAY)
    assert [(one["startAt"], one["consumption"], one["quality"]) for one in data["intervals"]] == [
        ("2024-05-01T09:00:00.000Z", "999999999999.999999", "ESTIMATED"),
        ("2024-05-01T10:00:00.000Z", "0", "ACTUAL"),
        ("2024-05-01T12:30:00.000Z", "1.5", "ACTUAL"),
    ]
    assert (data["total"], data["missingCount"]) == ("1000000000001.499999", 45)
    [event] = await meter.received()
    assert event.data == {
        "meterId": meter.meter_id,
        "customerId": meter.customer_id,
        "from": "2024-05-01T09:00:00.000Z",
        "to": "2024-05-01T13:00:00.000Z",
        "intervalCount": 3,
        "channel": "IMPORT",
        "reason": "PUSH",
        "estimatedCount": 1,
        "backfillId": None,
        "part": None,
        "parts": None,
    }
    assert (event.subject_id, event.customer_id) == (meter.meter_id, meter.customer_id)


async def test_the_event_shows_its_meter_and_period(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("09:00", "1"))
    query = (
        "{ events(filter: {types: [METER_DATA_RECEIVED]}) { nodes { name data ... on MeterDataReceivedEvent "
        "{ meter { id number } customer { id name } from to intervalCount } } } }"
    )
    [shown] = (await world.data(query, key=meter.account.key))["events"]["nodes"]
    data = shown.pop("data")
    assert shown == {
        "name": "meter_data.received",
        "meter": {"id": meter.meter_id, "number": "2499999999991"},
        "customer": {"id": meter.customer_id, "name": "Ada"},
        "from": data["from"],
        "to": data["to"],
        "intervalCount": 1,
    }


async def test_only_what_changes_is_told(world: World) -> None:
    meter = await metered(world)
    first = [reading("00:00", "1"), reading("00:30", "2"), reading("01:00", "3")]
    await meter.record(*first)
    async with unchanged(world):
        # "2.000000" is the same number, ACTUAL the default.
        again = await meter.record(first[0], reading("00:30", "2.000000", "ACTUAL"), first[2])
        assert (again["accepted"], again["changed"]) == (3, 0)
    payload = await meter.record(
        first[0], reading("00:30", "2.000001"), reading("01:00", "3", "ESTIMATED"), reading("23:30", "4")
    )
    assert (payload["accepted"], payload["changed"]) == (4, 3)
    assert [one.data["intervalCount"] for one in await meter.received()] == [3, 3]
    assert [(one.data["from"], one.data["to"]) for one in await meter.received()] == [
        ("2024-05-01T00:00:00.000Z", "2024-05-01T01:30:00.000Z"),
        ("2024-05-01T00:30:00.000Z", "2024-05-02T00:00:00.000Z"),
    ]
    data = await meter.intervals(**DAY)
    assert [(one["consumption"], one["quality"]) for one in data["intervals"]] == [
        ("1", "ACTUAL"),
        ("2.000001", "ACTUAL"),
        ("3", "ESTIMATED"),
        ("4", "ACTUAL"),
    ]


async def test_a_decimal_is_taken_as_string_number_or_literal(world: World) -> None:
    meter = await metered(world)
    document = (
        "mutation ($id: ID!, $kwh: Decimal!) { recordReadings(input: {meterId: $id, readings: ["
        '{startAt: "2024-05-01T00:00:00Z", consumption: 12.345678, quality: ESTIMATED}, '
        '{startAt: "2024-05-01T00:30Z", consumption: 7}, '
        '{startAt: "2024-05-01T01:00:00+00:00", consumption: "0.1", quality: null}, '
        '{startAt: "2024-05-01T01:30:00.000Z", consumption: $kwh}]}) { accepted userErrors { code } } }'
    )
    variables = {"id": meter.meter_id, "kwh": json_decimals.number("0.3")}
    payload = (await world.data(document, variables, key=meter.account.key))["recordReadings"]
    assert payload == {"accepted": 4, "userErrors": []}
    data = await meter.intervals(**DAY)
    assert [one["consumption"] for one in data["intervals"]] == ["12.345678", "7", "0.1", "0.3"]


async def test_two_writers_of_one_meter_tell_each_change_once(world: World) -> None:
    meter = await metered(world)
    same = [reading("00:00", "1"), reading("00:30", "2")]
    payloads = await asyncio.gather(*(meter.record(*same) for _ in range(5)))
    assert sorted(one["changed"] for one in payloads) == [0, 0, 0, 0, 2]
    assert [one.data["intervalCount"] for one in await meter.received()] == [2]


async def test_writers_of_several_meters_in_any_order_do_not_block_each_other(world: World) -> None:
    meter = await metered(world)
    other = await make_meter(world, meter.account, meter.customer_id, NUMBERS[0])
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    ids = [meter.meter_id, other["id"]]

    async def both(order: list[str], kwh: int) -> int:
        async with world.database.transaction() as session:
            meters = await run_script(session, lock_meters(actor, order))
            days = packed_days(Columns([0], [kwh], [False]))
            new = {ReadingChannel.IMPORT: dict.fromkeys(ids, days)}
            return await run_script(session, write_channels(session, meters, new))

    orders = [ids, ids[::-1]] * 4
    assert await asyncio.gather(*(both(order, at) for at, order in enumerate(orders))) == [2] * 8
    log = await events(world, meter.account.id)
    assert [one.sequence for one in log] == [*range(1, len(log) + 1)]
    assert len(await meter.received()) == 16


async def test_a_half_hour_that_has_begun_may_be_read_and_one_to_come_may_not(world: World) -> None:
    meter = await metered(world)
    begun = clock.from_ms(clock.to_ms(clock.now()) // 1_800_000 * 1_800_000)
    assert (await meter.record(reading(begun - HALF_HOUR, "1")))["changed"] == 1
    async with unchanged(world):
        payload = await meter.record(reading(begun + 2 * HALF_HOUR, "1"))
        assert refusals(payload) == [("OUT_OF_RANGE", ["readings", "0", "startAt"])]


async def test_any_time_in_the_past_is_allowed(world: World) -> None:
    meter = await metered(world)
    ancient, old = "1900-01-01T00:00:00Z", "1969-12-31T23:30:00Z"
    assert (await meter.record(reading(ancient, "1"), reading(old, "2")))["changed"] == 2
    for start, consumption in ((ancient, "1"), (old, "2")):
        [found] = (await meter.intervals(**{"from": start, "to": start[:11] + "23:59Z"}))["intervals"]
        assert (found["startAt"], found["consumption"]) == (start[:-1] + ".000Z", consumption)


@pytest.mark.parametrize(
    ("readings", "refused"),
    [
        ([], [("REQUIRED", ["readings"])]),
        ([reading("00:00", "-0.000001")], [("OUT_OF_RANGE", ["readings", "0", "consumption"])]),
        ([reading("00:15", "1")], [("INVALID", ["readings", "0", "startAt"])]),
        ([reading("2024-05-01T00:00:00.001Z", "1")], [("INVALID", ["readings", "0", "startAt"])]),
        ([reading("2024-05-01T00:00:01Z", "1")], [("INVALID", ["readings", "0", "startAt"])]),
        ([reading("9999-01-01T00:00:00Z", "1")], [("OUT_OF_RANGE", ["readings", "0", "startAt"])]),
        ([reading("00:00", "1"), reading("00:00", "1")], [("INVALID", ["readings", "1", "startAt"])]),
        (
            [reading("00:00", "-1"), reading("00:30", "1"), reading("00:31", "1")],
            [
                ("OUT_OF_RANGE", ["readings", "0", "consumption"]),
                ("INVALID", ["readings", "2", "startAt"]),
            ],
        ),
    ],
)
async def test_a_wrong_reading_refuses_them_all(
    world: World, readings: list[dict[str, Any]], refused: list[tuple[str, list[str]]]
) -> None:
    meter = await metered(world)
    async with unchanged(world):
        assert refusals(await meter.record(*readings)) == refused


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"consumption": "1.2345678"}, ["readings", "0", "consumption"]),
        ({"consumption": "1e3"}, ["readings", "0", "consumption"]),
        ({"consumption": "1000000000000"}, ["readings", "0", "consumption"]),
        ({"consumption": "NaN"}, ["readings", "0", "consumption"]),
        ({"consumption": ""}, ["readings", "0", "consumption"]),
        ({"consumption": None}, ["readings", "0", "consumption"]),
        ({"consumption": True}, ["readings", "0", "consumption"]),
        ({"consumption": 12345678901.123456789}, ["readings", "0", "consumption"]),
        ({"startAt": "2024-05-01T01:00:00+01:00"}, ["readings", "0", "startAt"]),
        ({"startAt": "2024-05-01T01:00:00"}, ["readings", "0", "startAt"]),
        ({"startAt": "2024-02-30T01:00:00Z"}, ["readings", "0", "startAt"]),
        ({"startAt": 1714521600}, ["readings", "0", "startAt"]),
        ({"quality": "GUESSED"}, ["readings", "0", "quality"]),
    ],
)
async def test_what_the_types_refuse_is_told_with_its_field(
    world: World, values: dict[str, Any], field: list[str]
) -> None:
    meter = await metered(world)
    given = {"meterId": meter.meter_id, "readings": [{**reading("00:00", "1"), **values}]}
    async with unchanged(world):
        response = await world.ask(RECORD, {"input": given}, key=meter.account.key)
        [error] = response["errors"]
        assert error["extensions"] == {"code": "BAD_USER_INPUT", "field": field}


async def test_at_most_twenty_thousand_and_the_first_hundred_faults(world: World) -> None:
    meter = await metered(world)
    start = clock.parse_utc("2022-01-01T00:00:00Z")
    many = [reading(start + index * HALF_HOUR, "1") for index in range(MAX_READINGS + 1)]
    async with unchanged(world):
        assert refusals(await meter.record(*many)) == [("LIMIT_REACHED", ["readings"])]
        wrong = [reading(start + index * timedelta(hours=1), "-1") for index in range(101)]
        assert refusals(await meter.record(*wrong)) == [
            ("OUT_OF_RANGE", ["readings", str(index), "consumption"]) for index in range(100)
        ]
    payload = await meter.record(*many[:MAX_READINGS])
    assert (payload["accepted"], payload["changed"]) == (20_000, 20_000)
    [event] = await meter.received()
    assert event.data["intervalCount"] == 20_000


@pytest.mark.parametrize(
    "decision", [None, ConsentStatus.PENDING, ConsentStatus.DECLINED, ConsentStatus.REVOKED, "expired"]
)
async def test_readings_need_a_valid_consent(world: World, decision: Any) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    if decision == "expired":
        await make_consent(world, account, customer_id, until=clock.now() - timedelta(seconds=1))
    elif decision is not None:
        await make_consent(world, account, customer_id, decision)
    meter = await make_meter(world, account, customer_id)
    given = {"meterId": meter["id"], "readings": [reading("00:00", "1")]}
    async with unchanged(world):
        assert refusals(await run(world, account, RECORD, **given)) == [("CONSENT_REQUIRED", ["meterId"])]


async def test_a_consent_that_is_revoked_while_a_writer_waits_for_the_meter_counts_no_more(
    world: World,
) -> None:
    meter = await metered(world)
    actor = (await world.authenticator.authenticate(meter.account.key)).actor
    async with world.database.transaction() as session:
        await run_script(session, lock_meters(actor, [meter.meter_id]))
        recording = asyncio.create_task(meter.record(reading("00:00", "1")))
        if not world.database.is_sqlite:
            await _waits_for_a_lock(world, recording)
        await session.execute(update(HostedConsent).values(decision=ConsentStatus.REVOKED.value))
    assert refusals(await recording) == [("CONSENT_REQUIRED", ["meterId"])]
    assert await meter.received() == []


async def _waits_for_a_lock(world: World, task: asyncio.Task[Any]) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    async with world.database.engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        while not (await connection.execute(waiting)).scalar_one():
            assert not task.done()
            await asyncio.sleep(0.002)


@pytest.mark.parametrize("count", [FEW_DAYS, FEW_DAYS + 1])
async def test_few_days_and_many_are_recorded_alike(world: World, count: int) -> None:
    meter = await metered(world)
    other = await make_customer(world, meter.account, "bob@example.com")
    bare = await make_meter(world, meter.account, other, NUMBERS[0])
    days = [clock.parse_utc("2024-05-01T00:00Z") + timedelta(days=day) for day in range(count)]
    # Days that are new, of which a part is replaced, and that stay as they are.
    first = [reading(start + slot * HALF_HOUR, "1") for start in days for slot in range(2)]
    second = [reading(start, "2") for start in days]
    for given, changed in ((first, 2 * count), (second, count), (second, 0)):
        payload = await meter.record(*given)
        assert (payload["accepted"], payload["changed"]) == (len(given), changed)
    assert [one.data["intervalCount"] for one in await meter.received()] == [2 * count, count]
    data = await meter.intervals(**{"from": clock.format_utc(days[0]), "to": clock.format_utc(days[-1])})
    assert data["total"] == str(3 * (count - 1))
    query = "query ($id: ID!) { meter(id: $id) { revisions(first: 100) { nodes { consumption } } } }"
    found = (await world.data(query, {"id": meter.meter_id}, key=meter.account.key))["meter"]
    assert found["revisions"]["nodes"] == [{"consumption": "1"}] * count
    async with unchanged(world):
        given_bare = {"meterId": bare["id"], "readings": first}
        payload = await run(world, meter.account, RECORD, **given_bare)
        assert refusals(payload) == [("CONSENT_REQUIRED", ["meterId"])]


async def test_what_was_recorded_stays_readable_without_consent(world: World) -> None:
    account = await world.account()
    customer_id = await make_customer(world, account)
    consent = await make_consent(world, account, customer_id)
    meter = await make_meter(world, account, customer_id)
    given = {"meterId": meter["id"], "readings": [reading("00:00", "1.25")]}
    await run(world, account, RECORD, **given)
    revoke = (
        "mutation ($id: ID!) { revokeHostedConsent(input: {hostedConsentId: $id}) { userErrors { code } } }"
    )
    revoked = await world.data(revoke, {"id": consent}, key=account.key)
    assert revoked == {"revokeHostedConsent": {"userErrors": []}}
    assert refusals(await run(world, account, RECORD, **given)) == [("CONSENT_REQUIRED", ["meterId"])]
    query = "query ($id: ID!) { intervalData(meterId: $id) { total } }"
    assert (await world.data(query, {"id": meter["id"]}, key=account.key))["intervalData"]["total"] == "1.25"


async def test_a_meter_that_is_not_the_accounts_is_not_there(world: World) -> None:
    meter, other = await metered(world), await world.account()
    async with unchanged(world):
        for meter_id in (meter.meter_id, "mtr_00000000000000000000000000", "nonsense", ""):
            given = {"meterId": meter_id, "readings": [reading("00:00", "1")]}
            assert refusals(await run(world, other, RECORD, **given)) == [("NOT_FOUND", ["meterId"])]


async def test_recording_needs_write(world: World) -> None:
    meter = await metered(world)
    admin = (await world.authenticator.authenticate(meter.account.key)).actor
    async with world.database.transaction() as session:
        _, reads = await accounts.create_api_key(session, admin, name="Reads", scopes=[Scope.READ])
        token, _until = await accounts.create_stream_token(session, admin, world.services.keyring)
    given = {"meterId": meter.meter_id, "readings": [reading("00:00", "1")]}
    async with unchanged(world):
        for credential in (reads, token):
            [error] = (await world.ask(RECORD, {"input": given}, key=credential))["errors"]
            assert error["extensions"]["code"] == "FORBIDDEN"


async def test_deleting_the_meter_deletes_its_readings(world: World) -> None:
    meter = await metered(world)
    await meter.record(reading("00:00", "1"))
    await run(
        world,
        meter.account,
        "mutation ($input: DeleteMeterInput!) { deleteMeter(input: $input) { deletedId } }",
        meterId=meter.meter_id,
    )
    async with unchanged(world):
        payload = await meter.record(reading("00:00", "1"))
        assert refusals(payload) == [("NOT_FOUND", ["meterId"])]
