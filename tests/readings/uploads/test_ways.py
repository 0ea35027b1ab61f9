"""Any upload has the same result column by column and row by row."""

import csv
import io
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.readings.enums import ReadingChannel
from app.readings.rows import parse_rows
from app.readings.uploads import UNUSUAL, parse_columns
from tests.readings.uploads.parsing import (
    CSV,
    HEADER,
    NDJSON,
    NOW,
    ROW,
    faults,
    finished,
    from_csv,
    from_ndjson,
    parsed,
)

IMPORT = ReadingChannel.IMPORT

STARTS = st.integers(-60, 60).map(
    lambda number: datetime(2024, 5, 1, tzinfo=UTC) + number * timedelta(minutes=30)
)
START_TEXTS = st.builds(
    lambda start, form: start.strftime(form),
    STARTS,
    st.sampled_from(
        ["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%dT%H:%MZ", "%Y-%m-%dT%H:%M:%S.000Z", "%Y-%m-%dT%H:%M:%S+00:00"]
    ),
)
AMOUNTS = st.decimals(0, 10**9 - 1, places=6).map(lambda amount: f"{amount:f}") | st.sampled_from(
    ["0", "1.5", "0.25", "12", "007.10", "999999999.999999", "1000000000", "0.000001"]
)
METERS = st.sampled_from(["mtr_1", "mtr_2"])
NUMBERS = st.sampled_from(["2499999999991", "00 111 222 2499999999991", "3938424403"])
USUAL = {
    "meter_id": METERS,
    "start_at": START_TEXTS,
    "consumption": AMOUNTS,
    "quality": st.sampled_from(["ACTUAL", "ESTIMATED"]),
    "channel": st.sampled_from(["IMPORT", "EXPORT"]),
}
ODD = st.sampled_from(
    ["", " ", " 1.5 ", "x", "-1", "-0", "+1", "1.", ".5", "1e3", "1,5", "1_000", "1.0000000", "1" * 13, "1.2.3",
     "\u0661", "nan", "inf", "2024-05-01T00:15:00Z", "2024-05-01T00:00:00.0009Z", "2024-05-01T00:00:00.001Z",
     "2024-02-30T00:00:00Z", "2024-05-01T24:00:00Z", "2027-01-01T00:00:00Z", "1899-01-01T00:00:00Z", "2024-05-01",
     "2024-05-01T00:00:00", "actual", " ACTUAL", "export", "mtr_1\n", "24\u00a099999999991", '"', "\r"]
)  # fmt: skip
ROWS = st.lists(st.fixed_dictionaries(USUAL), max_size=12)
OPTIONAL = st.sets(st.sampled_from(["quality", "channel"]))


def changed(rows: list[dict[str, Any]], changes: list[tuple[int, str, Any]]) -> list[dict[str, Any]]:
    """The rows with some cells replaced."""
    rows = [dict(row) for row in rows]
    for at, name, value in changes:
        if at < len(rows):
            rows[at][name] = value
    return rows


def changes_of(*values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[tuple[int, str, Any]]]:
    names = st.sampled_from([*USUAL, "meter_number"])
    return st.lists(st.tuples(st.integers(0, 11), names, st.one_of(*values)), max_size=3)


@given(ROWS, changes_of(ODD, NUMBERS), OPTIONAL, st.sampled_from(["\n", "\r\n", "\r", "\n\n"]), st.booleans())
def test_any_csv_has_the_same_result_by_columns_and_by_rows(
    rows: list[dict[str, Any]],
    changes: list[tuple[int, str, Any]],
    left_out: set[str],
    line_end: str,
    is_quoted: bool,
) -> None:
    names = [name for name in (*USUAL, "meter_number") if name not in left_out]
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if is_quoted else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator=line_end, quoting=quoting)
    writer.writeheader()
    writer.writerows(changed(rows, changes))
    parsed(text.getvalue())


JSON_ODD = (
    st.none() | st.booleans() | st.integers(-3, 10**13) | st.floats() | st.just([]) | st.just({"a": []})
)


@given(
    ROWS,
    changes_of(ODD, NUMBERS, JSON_ODD, st.decimals(0, 99)),
    OPTIONAL,
    st.sampled_from(["\n", "\r\n", "\n\n"]),
)
def test_any_ndjson_has_the_same_result_by_columns_and_by_rows(
    rows: list[dict[str, Any]], changes: list[tuple[int, str, Any]], left_out: set[str], line_end: str
) -> None:
    kept = [{name: one for name, one in row.items() if name not in left_out} for row in rows]
    lines = (json.dumps(row, default=Digits) for row in changed(kept, changes))
    parsed("".join(line + line_end for line in lines), NDJSON)


class Digits(float):
    """A decimal that JSON shows with its digits."""

    def __init__(self, value: Decimal) -> None:
        self._text = f"{value:f}"

    def __repr__(self) -> str:
        return self._text


@pytest.mark.parametrize(
    "text",
    [
        "meter_id,start_at,consumption\nmtr_1,2024-05-01T00:00:00Z,1.5\n",
        "meter_id,start_at,consumption,quality,channel\r\nmtr_1,2024-05-01T00:00:00.000Z,1.5,,EXPORT\r\n\r\n",
        (
            '"channel","quality","consumption","start_at","meter_number"\n'
            '"IMPORT","ESTIMATED","0","2024-05-01T00:30+00:00","2499999999991"\n'
            '"","ACTUAL","1.000001","2024-05-01T00:00Z","00111222 2499999999991"'
        ),
    ],
)
def test_usual_csv_is_parsed_by_columns(text: str) -> None:
    assert finished(parse_columns(text.encode(), CSV, NOW)) == from_csv(text)


@pytest.mark.parametrize(
    "text",
    [
        (
            '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": 1}, '
            '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:30:00Z", "consumption": 1}\n'
        ),
        '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z"\n"consumption": 1}\n',
        '{"meter_id": [{"meter_id": "mtr_1"}\n{"meter_id": "mtr_1"}]}\n{}, {}\n',
        '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": "1\n"}\n',
        '{"meter_id": 1.5, "start_at": "2024-05-01T00:00:00Z", "consumption": 1}\n',
        '{"meter_id": "mtr_1", "start_at": "2024-05-01T00:00:00Z", "consumption": 1, "quality": ""}\n',
    ],
)
def test_lines_that_are_objects_only_together_are_refused(text: str) -> None:
    assert {code for _, code in faults(text, NDJSON)} <= {"INVALID", "REQUIRED"}


@pytest.mark.parametrize("consumption", ["1.5", 2, Decimal("0.25")])
def test_usual_ndjson_is_parsed_by_columns(consumption: Any) -> None:
    text = json.dumps({**ROW, "consumption": consumption}, default=Digits)
    assert finished(parse_columns(text.encode(), NDJSON, NOW)) == from_ndjson(text)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_lines_are_told_behind_thousands_of_others(line_end: str) -> None:
    rows = [f"mtr_{at // 4000},{2000 + at % 4000}-05-01T00:00:00Z,{at}.5," for at in range(0, 12_000, 2)]
    text = line_end.join([HEADER.rstrip(), *rows, ""])
    upload = finished(parse_columns(text.encode(), CSV, datetime(9999, 1, 1, tzinfo=UTC)))
    assert upload == finished(parse_rows(text.encode(), CSV, datetime(9999, 1, 1, tzinfo=UTC)))
    assert upload.lines == {("id", f"mtr_{at}", IMPORT): 2 + 2000 * at for at in range(3)}


def test_rows_in_any_order_are_parsed_by_columns() -> None:
    text = HEADER + "".join(
        f"mtr_{at % 3},2024-05-0{at % 4 + 1}T0{at % 7}:00:00Z,{at},{'ESTIMATED' if at % 5 else ''}\n"
        for at in range(84)
    )
    assert finished(parse_columns(text.encode(), CSV, NOW)) == from_csv(text)


@pytest.mark.parametrize(
    "row",
    [
        "mtr_1,2024-05-01T00:00:00Z,1000000000,",
        "mtr_1, 2024-05-01T00:00:00Z,1,",
        "mtr_1,2024-05-01T00:00:00Z,-0,",
        'mtr_1,2024-05-01T00:00:00Z,1,"ACTUAL\n"',
    ],
)
def test_unusual_rows_are_accepted_row_by_row(row: str) -> None:
    with pytest.raises(UNUSUAL):
        finished(parse_columns(f"{HEADER}{row}\n".encode(), CSV, NOW))
    assert from_csv(f"{HEADER}{row}\n").count == 1
