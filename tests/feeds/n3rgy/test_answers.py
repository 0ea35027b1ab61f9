"""Answers of n3rgy in the shapes that its documents tell of, and all that may be wrong."""

from datetime import UTC, datetime
from typing import Any

import pytest

from app.feeds.failures import Meaning
from app.feeds.n3rgy.kind import N3RGY
from app.feeds.source import FetchedMeter, Window
from app.feeds.stand_ins.households import half_hour
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel
from tests.delivery.receivers import Answer, closes, floods, says
from tests.feeds.asking import answering, causes, fails
from tests.feeds.sources import answers

KEY = {"apiKey": "a key of the tests"}
METER = FetchedMeter("1234567891000", MeterType.ELECTRICITY)
GAS = FetchedMeter("3938424403", MeterType.GAS)
MORNING = Window(datetime(2012, 4, 27, 8, 30, tzinfo=UTC), datetime(2012, 4, 27, 10, tzinfo=UTC))
MIDNIGHT = Window(datetime(2012, 4, 27, 23, tzinfo=UTC), datetime(2012, 4, 28, 1, tzinfo=UTC))
FIRST = half_hour(MORNING.start)
TYPES = answers({"entries": ["consumption", "tariff"]})


def answer(*devices: Any, unit: Any = "kWh", **more: Any) -> Answer:
    return answers(
        {
            "resource": "/mpxn/1234567891000/utility/electricity/readingtype/consumption",
            "responseTimestamp": "2014-03-01T09:00:00.000Z",
            "availableCacheRange": {"start": "201204270830", "end": "203001010000"},
            "start": "201204270900",
            "end": "201204271000",
            "granularity": "halfhour",
            "unit": unit,
            "devices": [
                {"deviceId": f"00-0{place}", "values": values} for place, values in enumerate(devices)
            ],
        }
        | more
    )


def values(*primary: Any, **more: Any) -> list[dict[str, Any]]:
    """Values of the morning's half-hours, stamped by their ends."""
    ends = ("09:00", "09:30", "10:00", "10:30")
    return [
        {"primaryValue": value, "timestamp": f"2012-04-27 {end}", **more}
        for value, end in zip(primary, ends, strict=False)
    ]


async def fetched(*answers: Answer, meter: FetchedMeter = METER, window: Window = MORNING) -> Any:
    async with answering(N3RGY, TYPES, *answers) as place:
        return await place.source({}, KEY).fetch(meter, window)


async def failure(*answers: Answer, meter: FetchedMeter = METER) -> Any:
    async with answering(N3RGY, *answers) as place:
        return await fails(place.source({}, KEY).fetch(meter, MORNING))


async def test_timestamps_are_ends_and_order_is_any() -> None:
    found = await fetched(answer(values(0.214, 0.3, 0.5, 9)[::-1], more={"unknown": []}))
    expected = Columns([FIRST, FIRST + 1, FIRST + 2], [214_000, 300_000, 500_000], [False] * 3)
    assert found.readings == {ReadingChannel.IMPORT: expected}
    assert list(found.missing) == []


@pytest.mark.parametrize("midnight", ["2012-04-27 24:00", "2012-04-28 00:00", "2012-04-28T00:00:00Z"])
async def test_midnight_is_written_in_two_ways(midnight: str) -> None:
    stamps = ("2012-04-27 23:30", midnight, "2012-04-28 00:30", "2012-04-28 01:00")
    rows = [{"primaryValue": place, "timestamp": stamp} for place, stamp in enumerate(stamps)]
    found = await fetched(answer(rows), window=MIDNIGHT)
    assert found.readings[ReadingChannel.IMPORT].amounts == [0, 1_000_000, 2_000_000, 3_000_000]


async def test_the_request_has_the_key_and_its_limits() -> None:
    async with answering(N3RGY, TYPES, answer(values(1))) as place:
        await place.source({}, KEY).fetch(METER, MORNING)
        requests = place.requests
    path = "/v1/mpxn/1234567891000/utility/electricity"
    query = "start=201204270900&end=201204271000&granularity=halfhour&outputFormat=json"
    assert [request.line.split()[1] for request in requests] == [
        path, f"{path}/readingtype/consumption?{query}",
    ]  # fmt: skip
    assert {request.headers["x-api-key"] for request in requests} == {"a key of the tests"}


async def test_both_elements_of_a_meter_are_added() -> None:
    rows = values(0.1, 0.2, 0.3)
    rows[0]["secondaryValue"], rows[1]["secondaryValue"], rows[2]["secondaryValue"] = 0.25, None, -1
    found = await fetched(answer(rows))
    assert found.readings[ReadingChannel.IMPORT].amounts == [350_000, 200_000]
    assert causes(found) == ["The source gave a negative value for this half-hour."]


async def test_several_devices_are_added_but_no_copies_of_one() -> None:
    found = await fetched(answer(values(0.1, 0.2), values(0.1, 0.3, 0.4)))
    assert found.readings[ReadingChannel.IMPORT].amounts == [100_000, 500_000, 400_000]


async def test_the_words_of_the_source_are_the_reason() -> None:
    rows = values(0, 0, 0.5, additionalInformation="")
    rows[0]["additionalInformation"] = "value not available in SMSO"
    rows[1] = {"timestamp": rows[1]["timestamp"], "additionalInformation": "invalid\n\x00value" + "!" * 500}
    found = await fetched(answer(rows))
    assert found.readings[ReadingChannel.IMPORT].amounts == [500_000]
    assert causes(found)[0] == "n3rgy says: value not available in SMSO."
    assert causes(found)[1].startswith("n3rgy says: invalid value!!")
    assert len(causes(found)[1]) < 120


@pytest.mark.parametrize(
    ("unit", "value", "amount"),
    [("m3", 1, 11_220_633), ("m³", 2, 22_441_267), ("kWh", 1.5, 1_500_000), ("Wh", 250, 250_000)],
)
async def test_gas_is_in_the_unit_that_the_answer_says(unit: str, value: float, amount: int) -> None:
    found = await fetched(answer(values(value), unit=unit), meter=GAS)
    assert found.readings[ReadingChannel.IMPORT].amounts == [amount]


@pytest.mark.parametrize(
    ("unit", "meter", "meaning"),
    [
        ("m3", METER, Meaning.METER),
        ("furlong", GAS, Meaning.METER),
        (None, GAS, Meaning.RETRY),
    ],
)
async def test_units_that_cannot_be_are_told(unit: Any, meter: FetchedMeter, meaning: Meaning) -> None:
    assert (await failure(TYPES, answer(values(1), unit=unit), meter=meter)).meaning is meaning


async def test_every_value_that_stands_for_none_is_missing() -> None:
    found = await fetched(answer(values(4294967.295, 2147483.647, 8590.017)))
    assert found.readings == {}
    assert len(causes(found)) == 3


async def test_half_hours_before_the_cache_are_missing_unless_it_is_wrong() -> None:
    late = {"start": "201204270930", "end": "203001010000"}
    found = await fetched(answer(values(1, 2, 3)[1:], availableCacheRange=late))
    assert causes(found) == ["n3rgy holds readings of this meter from 27 April 2012 on."]
    assert found.missing[0][1:3] == (MORNING.start, datetime(2012, 4, 27, 9, tzinfo=UTC))
    contradicted = await fetched(answer(values(1), availableCacheRange=late))
    assert list(contradicted.missing) == []
    for other in (None, [], {"start": 3}, {"start": "soon"}, {"start": "201199990000"}):
        assert list((await fetched(answer(values(1), availableCacheRange=other))).missing) == []


@pytest.mark.parametrize(
    ("status", "said", "meaning", "word"),
    [
        (401, "Unauthorized", Meaning.FEED, "updateFeed"),
        (403, "Invalid API key.", Meaning.FEED, "updateFeed"),
        (403, "Forbidden", Meaning.FEED, "updateFeed"),
        (403, "User is not authorized to access this resource", Meaning.FEED, "updateFeed"),
        (403, "Consent for the given MPxN not found.", Meaning.METER, "consent"),
        (
            403,
            "No update frequency is set for this reading type.",
            Meaning.METER,
            "other than NEVER",
        ),
        (403, "The moon is full.", Meaning.METER, "The moon is full."),
        (404, "No property could be found.", Meaning.METER, "404"),
        (400, "Invalid parameters.", Meaning.METER, "400"),
        (429, "Quota.", Meaning.WAIT, "429"),
        (500, "Sorry.", Meaning.RETRY, "500"),
    ],
)
async def test_failures_have_their_meaning(status: str, said: str, meaning: Meaning, word: str) -> None:
    bodies: tuple[Any, ...] = ({"errors": [{"code": 403, "message": said}]}, {"message": said})
    for body in bodies:
        for before in ((), (TYPES,)):
            found = await failure(*before, answers(body, status))
            assert (found.meaning, word in found.message) == (meaning, True)
            assert found.retry_after is None


async def test_a_403_without_a_word_is_about_the_key() -> None:
    assert (await failure(answers(b"<html>", 403))).meaning is Meaning.FEED


@pytest.mark.parametrize(
    "wrong",
    [
        answers({}),
        answers([]),
        answers(3),
        answer("x"),
        answer([3]),
        answer([{"primaryValue": 1}]),
        answer([{"primaryValue": 1, "timestamp": 1335517200}]),
        answer([{"primaryValue": 1, "timestamp": "2012-04-27 09:15"}]),
        answer([{"primaryValue": 1, "timestamp": "2012-04-27 24:30"}]),
        answer([{"primaryValue": 1, "timestamp": "2012-04-31 09:00"}]),
        answer([{"primaryValue": 1, "timestamp": "2012-04-27"}]),
        answer([{"primaryValue": [1], "timestamp": "2012-04-27 09:00"}]),
        answer(values(1), granularity="day"),
        answer(devices={"deviceId": 1}),
    ],
)
async def test_answers_of_another_shape_are_asked_for_again(wrong: Answer) -> None:
    found = await failure(TYPES, wrong)
    assert (found.meaning, "cannot be read" in found.message) == (Meaning.RETRY, True)


@pytest.mark.parametrize(
    "fault",
    [
        says(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 15\r\n\r\n<html>Hi</html>"),
        floods(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b"[" * 65536 + b"\r\n"
        ),
        closes,
        answers(b"", 503),
    ],
    ids=["html", "endless", "cut", "503"],
)
async def test_faults_of_the_network_and_the_server_are_asked_for_again(fault: Answer) -> None:
    assert (await failure(TYPES, fault)).meaning is Meaning.RETRY


@pytest.mark.parametrize(
    ("entries", "asked"),
    [
        (["consumption", "production"], ["consumption", "production"]),
        (["Import", "export"], ["import", "export"]),
        (["tariff"], ["consumption"]),
        ([3, None, {"name": "x"}], ["consumption"]),
    ],
)
async def test_every_channel_of_a_meter_is_asked_for(entries: Any, asked: list[str]) -> None:
    async with answering(N3RGY, answers({"entries": entries}), answer(values(1))) as place:
        found = await place.source({}, KEY).fetch(METER, MORNING)
        paths = [request.line.split()[1].split("?")[0] for request in place.requests[1:]]
    assert [path.rpartition("/")[2] for path in paths] == asked
    assert len(found.readings) == len(asked)


async def test_the_list_is_read_to_its_end_and_never_for_ever() -> None:
    page = {"total": 10**9, "entries": ["1234567891000", "3938424403", "12", 7, None, "12345678910٠٠"]}
    async with answering(N3RGY, answers(page), answers(page | {"entries": []})) as place:
        meters = await place.source({}, KEY).discover()
        assert len(place.requests) == 2
    assert [(meter.number, meter.type) for meter in meters] == [
        ("1234567891000", MeterType.ELECTRICITY), ("3938424403", MeterType.GAS),
    ]  # fmt: skip
    async with answering(N3RGY, answers(page | {"entries": ["1234567891000"] * 100})) as place:
        assert len(await place.source({}, KEY).discover()) == 1
        assert len(place.requests) == 10
    async with answering(N3RGY, answers({"entries": ["1234567891000"]})) as place:
        assert len(await place.source({}, KEY).discover()) == 1


async def test_a_key_that_is_refused_for_the_list_is_the_feeds_affair() -> None:
    for status in (401, 403):
        async with answering(N3RGY, answers({"message": "No consent for this key"}, status)) as place:
            assert (await fails(place.source({}, KEY).discover())).meaning is Meaning.FEED
