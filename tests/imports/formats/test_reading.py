"""Lines, cells, values and times: any bytes in any pieces, beside their plain meaning."""

from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.imports.formats.dates import DateReader, date_of, time_of_day
from app.imports.formats.tables import MalformedLine, Table
from app.imports.formats.text import lines
from app.imports.formats.uk_days import UkDays
from app.imports.formats.values import ODD, Amounts, read_odd
from tests.imports.formats.rendering import UK

ENDS = ("\n", "\r\n", "\r")


@given(st.lists(st.tuples(st.text("aé€1,", max_size=5), st.sampled_from(ENDS)), max_size=8), st.data())
def test_lines_are_the_same_in_any_pieces(written: list[tuple[str, str]], data: st.DataObject) -> None:
    text = "".join(line + end for line, end in written)
    expected = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        content = text.encode(encoding)
        # The mark is in the first piece, as it is in a file's first quarter of a megabyte.
        cuts = sorted(data.draw(st.lists(st.integers(min(3, len(content)), len(content)), max_size=5)))
        pieces = [content[at:to] for at, to in zip([0, *cuts], [*cuts, len(content)], strict=True)]
        found = dict(lines(pieces))
        assert [found.get(number, "") for number in range(1, len(expected) + 1)] == expected


def test_bytes_that_are_not_utf_8_are_windows_1252() -> None:
    assert list(lines([b"m\xb3,\xe2\x82", b"\xac\n\x80"])) == [(1, "m³,€"), (2, "€")]


@given(st.decimals(0, 10**11, allow_nan=False, allow_infinity=False, places=6))
def test_plain_values_are_exact(value: Decimal) -> None:
    for text in (f"{value:f}", f" {value:f} ", f"{value:f}".rstrip("0")):
        assert Amounts()[text] == int(value * 1_000_000)


@given(st.floats(0, 1e9))
def test_floats_of_spreadsheets_are_rounded_to_six_decimals(value: float) -> None:
    expected = int(Decimal(repr(value)).quantize(Decimal("0.000001"), ROUND_HALF_EVEN) * 1_000_000)
    known = Amounts()[repr(value)]
    assert (read_odd(repr(value)) if known == ODD else known) == expected


@pytest.mark.parametrize(
    "text", ["1_000", "0x10", "inf", "1,23", "12,34,567", "1e", "e5", "--1", "٣", "1 2", "9" * 61]
)
def test_other_texts_are_no_values(text: str) -> None:
    assert Amounts()[text] == ODD
    with pytest.raises(ValueError):
        read_odd(text)


def test_quoted_cells_may_go_on_in_the_next_line_but_a_stray_quote_costs_one_line() -> None:
    header = [(1, '"Estimated'), (2, 'cost",b'), (3, '"x, ""y""",2')]
    assert list(Table(header)) == [(1, ["Estimated\ncost", "b"]), (3, ['x, "y"', "2"])]
    stray = [(number, f"{number},b,c") for number in range(1, 60)]
    stray[39] = (40, '40,"b,c')
    stray[42] = (43, '43,"b,c')
    found = list(Table(stray))
    assert [number for number, cells in found if isinstance(cells, MalformedLine)] == [40, 43]
    assert [number for number, _ in found] == list(range(1, 60))


@given(st.dates(date(1900, 1, 1), date(2099, 12, 31)))
def test_dates_are_the_same_in_every_format(day: date) -> None:
    reader = DateReader()
    for format in (
        "%d/%m/%Y",
        "%Y-%m-%d",
        "%d-%m-%Y",
        "%Y%m%d",
        "%d-%b-%Y",
        "%d %b %Y",
        "%Y-%m-%d 00:00:00",
        "%d.%m.%Y",
    ):
        assert date_of(reader.day(day.strftime(format))) == day
    assert date_of(DateReader(("%m/%d/%Y",)).day(f"{day:%m/%d/%Y}")) == day
    if day.year >= 2000:
        assert date_of(reader.day(f"{day:%d/%m/%y}")) == day


@given(st.integers(48 * 700, 48 * 25_000) | st.sampled_from((951_026, 951_027, 961_106, 961_107)))
def test_labels_of_uk_clocks_are_their_instants(half_hour: int) -> None:
    uk = UkDays()
    local = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(minutes=30 * half_hour)
    instants = uk.instants(half_hour)
    for instant in instants:
        shown = datetime.fromtimestamp(instant * 1800, UK)
        assert shown.replace(tzinfo=UTC) == local
        assert date_of(uk.day_of(instant)) == local.date()
    first, count = uk.bounds(half_hour // 48)
    assert len(instants) == 1 or count != 48
    assert uk.bounds(half_hour // 48 + 1)[0] == first + count


@pytest.mark.parametrize(
    ("text", "half_hours", "offset"),
    [
        ("00:00", 0, None), ("0:30", 1, None), ("24:00", 48, None), ("0030", 1, None), ("12:00AM", 0, None),
        ("11:30 pm", 47, None), ("12:30:00.000PM", 25, None), ("10:00Z", 20, 0), ("10:00+01:00", 20, 2),
        ("10:00-0330", 20, -7), ("10:00 BST", 20, 2), ("10:00:00 UTC", 20, 0),
    ],
)  # fmt: skip
def test_times_of_day(text: str, half_hours: int, offset: int | None) -> None:
    assert time_of_day(text) == (half_hours, offset)


@pytest.mark.parametrize(
    "text", ["", "7", "24:30", "10:15", "10:00:01", "13:00 PM", "25:00", "10:00+00:10", "1:2:3"]
)
def test_other_texts_are_no_times(text: str) -> None:
    with pytest.raises(ValueError):
        time_of_day(text)
