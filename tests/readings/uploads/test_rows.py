"""Parsing of bulk uploads: the forms of a row, and every fault with its line.

Every upload is parsed column by column, where it can be, and row by row as well, with the same result.
"""

from datetime import UTC, datetime
from typing import Any, NamedTuple

import orjson
import pytest

from app.core.clock import format_utc, from_ms, to_ms
from app.readings.enums import ReadingChannel
from app.readings.packing import SLOTS, slots, unpack
from app.readings.rows import MAX_ROWS, Key, Upload
from tests.readings.uploads.parsing import HEADER, NDJSON, ROW, faults, from_csv, from_ndjson, problems

IMPORT = ReadingChannel.IMPORT
START = to_ms(datetime(2024, 5, 1, tzinfo=UTC))
MISSING = "meter_id or meter_number is missing, start_at is missing, consumption is missing"


HALF_HOUR = 1_800_000


class Reading(NamedTuple):
    start_ms: int
    micro_kwh: int
    is_estimated: bool


def readings(upload: Upload) -> dict[Key, list[Reading]]:
    return {
        key: [
            Reading(
                (day * SLOTS + slot) * HALF_HOUR,
                half_hours.amounts[slot],
                bool(half_hours.estimated >> slot & 1),
            )
            for day, packed in sorted(days.items())
            for half_hours in [unpack(packed)]
            for slot in slots(half_hours.present)
        ]
        for key, days in upload.days.items()
    }


def test_columns_come_in_any_order_and_the_quality_may_be_missing() -> None:
    upload = from_csv(
        "consumption, start_at ,meter_number\r\n"
        "1.5,2024-05-01T00:00:00Z,2499999999991\r\n"
        "\r\n"
        '"0",2024-05-01T00:30Z,00 111 222 2499999999991\r\n'
    )
    assert readings(upload) == {
        ("number", "2499999999991", IMPORT): [
            Reading(START, 1_500_000, False),
            Reading(START + HALF_HOUR, 0, False),
        ]
    }
    assert (upload.lines, upload.count) == ({("number", "2499999999991", IMPORT): 2}, 2)


def test_a_byte_order_mark_and_no_last_line_end_are_fine() -> None:
    upload = from_csv(b"\xef\xbb\xbf" + HEADER.encode() + b"mtr_1,2024-05-01T00:00:00Z,1,ESTIMATED")
    assert readings(upload) == {("id", "mtr_1", IMPORT): [Reading(START, 1_000_000, True)]}


def test_both_meter_columns_may_be_there_with_one_of_them_filled() -> None:
    upload = from_csv(
        "meter_id,meter_number,start_at,consumption\n"
        "mtr_1,,2024-05-01T00:00:00Z,1\n,3938424403,2024-05-01T00:00:00Z,2\n"
    )
    assert list(upload.days) == [("id", "mtr_1", IMPORT), ("number", "3938424403", IMPORT)]
    assert upload.lines == {("id", "mtr_1", IMPORT): 2, ("number", "3938424403", IMPORT): 3}


def test_ndjson_keeps_the_digits_of_numbers() -> None:
    upload = from_ndjson(
        '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": 123456789012.123456}',
        "",
        {**ROW, "start_at": "2024-05-01T00:30:00Z", "consumption": 7, "quality": None, "meter_number": None},
        {**ROW, "start_at": "2024-05-01T01:00:00Z", "quality": "ESTIMATED"},
    )
    assert readings(upload)["id", "mtr_1", IMPORT] == [
        Reading(START, 123_456_789_012_123_456, False),
        Reading(START + HALF_HOUR, 7_000_000, False),
        Reading(START + 2 * HALF_HOUR, 1_500_000, True),
    ]


@pytest.mark.parametrize(
    ("header", "fault"),
    [
        ("", 'there is no column "mtr_1", "2024-05-01T00:00:00Z", "1", ' + MISSING),
        ("\n", MISSING),
        ("meter_id,start_at\n", "consumption is missing"),
        ("start_at,consumption\n", "meter_id or meter_number is missing"),
        ("meter_id,start_at,consumption,color\n", 'there is no column "color"'),
        ("meter_id,start_at,consumption,consumption\n", '"consumption" is there twice'),
        ("meter_id;start_at;consumption\n", 'there is no column "meter_id;start_at;consumption", ' + MISSING),
        ("meter_id,startAt,consumption\n", 'there is no column "startAt", start_at is missing'),
        ("meter_id,start_at,consumption,\n", 'there is no column ""'),
        (
            "meter_id,start_at,consumption,a,b,c,d,e,f\n",
            'there is no column "a", "b", "c", "d", "e" …',
        ),
        (f"meter_id,start_at,consumption,{'x' * 1000}\n", f'there is no column "{"x" * 60}"'),
    ],
)
def test_a_wrong_header_is_told_by_the_names_in_it(header: str, fault: str) -> None:
    (problem,) = problems(header + "mtr_1,2024-05-01T00:00:00Z,1\n")
    assert (problem.line, problem.code) == (1, "INVALID")
    assert problem.message == (
        "The first line must name the columns meter_id or meter_number, start_at, consumption, and quality and "
        f"channel if you have them: {fault}."
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"meter": "mtr_1"}', ': there is no key "meter".'),
        ("[]", "."),
        ("{", "."),
    ],
)
def test_a_wrong_object_is_told_by_the_names_in_it(line: str, message: str) -> None:
    known = "meter_id, meter_number, start_at, consumption, quality, channel"
    assert [one.message for one in problems(line, NDJSON)] == [
        f"Each line must be a JSON object with the keys {known}{message}"
    ]


def test_an_endless_integer_is_told() -> None:
    line = '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": ' + "9" * 5000 + "}"
    assert [one.message for one in problems(line, NDJSON)] == ["This line has a number that is out of range."]


def test_an_upload_without_rows_is_refused() -> None:
    assert faults(HEADER) == [(1, "REQUIRED")]
    assert faults(b"", NDJSON) == [(1, "REQUIRED")]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("mtr_1,2024-05-01T00:00:00Z,1", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00Z,1,ACTUAL,more", "INVALID"),
        (",2024-05-01T00:00:00Z,1,ACTUAL", "REQUIRED"),
        ("mtr_1,,1,ACTUAL", "REQUIRED"),
        ("mtr_1,2024-05-01T00:00:00Z,,ACTUAL", "REQUIRED"),
        ("mtr_1,2024-05-01T00:15:00Z,1,ACTUAL", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00,1,ACTUAL", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00+01:00,1,ACTUAL", "INVALID"),
        ("mtr_1,yesterday,1,ACTUAL", "INVALID"),
        ("mtr_1,2026-11-24T12:30:00Z,1,ACTUAL", "OUT_OF_RANGE"),
        ("mtr_1,2024-05-01T00:00:00Z,-1,ACTUAL", "OUT_OF_RANGE"),
        ("mtr_1,2024-05-01T00:00:00Z,1e3,ACTUAL", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00Z,'1.0000001',ACTUAL", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00Z,1000000000000,ACTUAL", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00Z,1,actual", "INVALID"),
        ("mtr_1,2024-05-01T00:00:00Z,1,E", "INVALID"),
    ],
)
def test_a_wrong_row_is_told_with_its_line(row: str, code: str) -> None:
    good = "mtr_1,2024-04-30T00:00:00Z,1,ACTUAL\n"
    assert faults(HEADER + good + row + "\n") == [(3, code)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "1312345678907,2024-05-01,1,",
            "start_at: Write an instant as ISO 8601 in UTC, such as 2026-11-24T22:29:55.123Z.",
        ),
        (
            "1312345678907,2024-05-01T00:00:00Z,1e3,",
            'consumption: Write a decimal in plain digits, such as "295005.6", without exponent or separators.',
        ),
        (
            "1312345678901,2024-05-01T00:00:00Z,1,",
            "meter_number: The check digit of this electricity number is wrong: compare it with the bill.",
        ),
        ("1312345678907,2024-05-01T00:00:00Z,1,E", "quality must be ACTUAL or ESTIMATED."),
    ],
)
def test_a_wrong_cell_is_told_with_its_column(row: str, message: str) -> None:
    found = problems(f"meter_number,start_at,consumption,quality\n{row}\n")
    assert [one.message for one in found] == [message]


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ("[]", "INVALID"),
        ("{", "INVALID"),
        ('"text"', "INVALID"),
        ("[" * 100_000, "INVALID"),
        ({**ROW, "colour": "red"}, "INVALID"),
        ({"start_at": ROW["start_at"], "consumption": 1}, "REQUIRED"),
        ({**ROW, "meter_number": "2499999999991"}, "REQUIRED"),
        ({**ROW, "meter_id": 7}, "INVALID"),
        ({**ROW, "meter_id": ["mtr_1"]}, "INVALID"),
        ({**ROW, "start_at": 1714521600}, "INVALID"),
        ({**ROW, "start_at": None}, "REQUIRED"),
        ({**ROW, "consumption": True}, "INVALID"),
        ({**ROW, "consumption": {}}, "INVALID"),
        ('{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": NaN}', "INVALID"),
        ('{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": 1e999999999}', "INVALID"),
        ({**ROW, "quality": []}, "INVALID"),
        ({**ROW, "quality": ""}, "INVALID"),
        ({**ROW, "quality": 0}, "INVALID"),
        ({"meter_number": "2499999999990", **{k: ROW[k] for k in ("start_at", "consumption")}}, "INVALID_METER_NUMBER"),
    ],
)  # fmt: skip
def test_a_wrong_line_of_ndjson_is_told(row: Any, code: str) -> None:
    good = orjson.dumps({**ROW, "start_at": "2024-04-30T00:00:00Z"}).decode()
    line = row if isinstance(row, str) else orjson.dumps(row).decode()
    assert faults(f"{good}\n\n{line}\n", NDJSON) == [(3, code)]


def test_all_faults_are_told_up_to_a_hundred() -> None:
    rows = "mtr_1,2024-05-01T00:00:00Z,-1,ACTUAL\nmtr_1,2024-05-01T00:30:00Z,1,ACTUAL\n"
    assert faults(HEADER + rows * 2) == [(2, "OUT_OF_RANGE"), (4, "OUT_OF_RANGE"), (5, "INVALID")]
    assert faults(HEADER + "mtr_1,x,1,ACTUAL\n" * 101) == [(line, "INVALID") for line in range(2, 102)]


def test_a_half_hour_of_a_meter_comes_once() -> None:
    row = "mtr_1,2024-05-01T00:00:00Z,1,ACTUAL\n"
    assert faults(HEADER + row + row) == [(3, "INVALID")]
    same = "meter_number,start_at,consumption\n2499999999991,2024-05-01T00:00Z,1\n"
    assert faults(same + "001112222499999999991,2024-05-01T00:00:00.000Z,1\n") == [(3, "INVALID")]


def test_what_is_not_text_is_told_with_its_line() -> None:
    assert faults(HEADER.encode() + b"mtr_1,2024-05-01T00:00:00Z,1,ACTUAL\n\xff\n") == [(3, "INVALID")]
    assert faults(b"\xef\xbb\xbf" + HEADER.encode() + b"\xff\n") == [(2, "INVALID")]
    assert faults(HEADER + '"mtr_1,2024-05-01T00:00:00Z\n') == [(2, "INVALID")]
    assert faults(HEADER + "m" * 200_000 + ",2024-05-01T00:00:00Z,1,ACTUAL\n") == [(2, "INVALID")]


def test_a_line_end_inside_quotes_counts() -> None:
    rows = 'mtr_1,2024-05-01T00:00:00Z,1,"ACTUAL\n"\nmtr_1,x,1,ACTUAL\n'
    assert faults(HEADER + rows) == [(4, "INVALID")]


def test_at_most_a_hundred_thousand_rows() -> None:
    row = "mtr_1,x,1,ACTUAL\n"
    starts = [format_utc(from_ms(START + n * HALF_HOUR)) for n in range(MAX_ROWS // 100)]
    many = HEADER + "".join(f"mtr_{meter},{start},1,\n" for meter in range(100) for start in starts)
    assert from_csv(many).count == MAX_ROWS
    assert faults(many + row) == [(MAX_ROWS + 2, "LIMIT_REACHED")]


def test_a_channel_has_readings_of_its_own() -> None:
    upload = from_csv(
        "meter_id,start_at,consumption,channel\nmtr_1,2024-05-01T00:00:00Z,1,EXPORT\nmtr_1,2024-05-01T00:00:00Z,2,\n"
    )
    assert {key: found[0].micro_kwh for key, found in readings(upload).items()} == {
        ("id", "mtr_1", ReadingChannel.EXPORT): 1_000_000,
        ("id", "mtr_1", IMPORT): 2_000_000,
    }
    twice = "meter_id,start_at,consumption,channel\n" + "mtr_1,2024-05-01T00:00:00Z,1,GENERATION\n" * 2
    assert faults(twice) == [(3, "INVALID")]
    assert faults("meter_id,start_at,consumption,channel\nmtr_1,2024-05-01T00:00:00Z,1,export\n") == [
        (2, "INVALID")
    ]
