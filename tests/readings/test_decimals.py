import re
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core import json_decimals
from app.core.decimals import MICRO, format_micro, to_micro

LARGEST = 999_999_999_999_999_999
MICROS = st.integers(-LARGEST, LARGEST)
TOO_LARGE = "at most 12 digits before the point"
TOO_FINE = "at most 6 digits after the point; it is never rounded"
NOT_PLAIN = "Write a decimal in plain digits"
LOST = "A float has lost digits on the way: send a string."


@pytest.mark.parametrize(
    ("value", "micro"),
    [
        ("295005.6", 295_005_600_000),
        ("0", 0),
        ("-0", 0),
        ("-0.000001", -1),
        ("0.000001", 1),
        ("1.500000", 1_500_000),
        ("007", 7_000_000),
        ("-12.5", -12_500_000),
        ("999999999999.999999", LARGEST),
        ("-999999999999.999999", -LARGEST),
        (3, 3_000_000),
        (-3, -3_000_000),
        (999_999_999_999, 999_999_999_999_000_000),
        (Decimal("295005.6"), 295_005_600_000),
        (Decimal("1E+3"), 1_000_000_000),
        (Decimal("0E+3"), 0),
        (Decimal("-999999999999.999999"), -LARGEST),
    ],
)
def test_to_micro(value: object, micro: int) -> None:
    assert to_micro(value) == micro


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ("1000000000000", TOO_LARGE),
        ("0000000000001", TOO_LARGE),
        ("-1000000000000.5", TOO_LARGE),
        ("9" * 5000, TOO_LARGE),
        ("0.0000001", TOO_FINE),
        ("0.5000000", TOO_FINE),
        ("0." + "0" * 5000, TOO_FINE),
        (10**12, TOO_LARGE),
        (-(10**12), TOO_LARGE),
        (10**4000, TOO_LARGE),
        (30411275102.207999, LOST),
        (0.1, LOST),
        (3.0, LOST),
        (1e300, LOST),
        (Decimal("1E+12"), TOO_LARGE),
        (Decimal("1E+999999"), TOO_LARGE),
        (Decimal("0E+999999"), TOO_LARGE),
        (Decimal("1E-7"), TOO_FINE),
        (Decimal("0.5000000"), TOO_FINE),
        (Decimal("1E-999999"), TOO_FINE),
        (float("nan"), LOST),
        (float("inf"), LOST),
        (Decimal("NaN"), "must be a finite number"),
        (Decimal("sNaN"), "must be a finite number"),
        (Decimal("-Infinity"), "must be a finite number"),
        (True, "not true or false"),
        (False, "not true or false"),
        (None, "A decimal is a number or a string"),
        ([1], "A decimal is a number or a string"),
        ({}, "A decimal is a number or a string"),
        (b"1", "A decimal is a number or a string"),
        ("", NOT_PLAIN),
        ("-", NOT_PLAIN),
        (".", NOT_PLAIN),
        (".5", NOT_PLAIN),
        ("5.", NOT_PLAIN),
        ("+5", NOT_PLAIN),
        ("--5", NOT_PLAIN),
        ("1e3", NOT_PLAIN),
        ("1,5", NOT_PLAIN),
        ("1_000", NOT_PLAIN),
        ("1.2.3", NOT_PLAIN),
        (" 1", NOT_PLAIN),
        ("1\n", NOT_PLAIN),
        ("0x10", NOT_PLAIN),
        ("NaN", NOT_PLAIN),
        ("Infinity", NOT_PLAIN),
        ("١", NOT_PLAIN),
        ("\uff15", NOT_PLAIN),
        ("1.²", NOT_PLAIN),
    ],
)
def test_to_micro_refuses_with_a_sentence(value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)):
        to_micro(value)


@pytest.mark.parametrize(
    ("micro", "text"),
    [
        (295_005_600_000, "295005.6"),
        (0, "0"),
        (1, "0.000001"),
        (-1, "-0.000001"),
        (100_000, "0.1"),
        (1_000_000, "1"),
        (100_000_000, "100"),
        (-12_500_000, "-12.5"),
        (10_000_010, "10.00001"),
        (LARGEST, "999999999999.999999"),
        (17_568 * LARGEST, "17567999999999999.982432"),
    ],
)
def test_format_micro(micro: int, text: str) -> None:
    assert format_micro(micro) == text


@given(MICROS)
def test_what_is_formatted_reads_back(micro: int) -> None:
    text = format_micro(micro)
    assert to_micro(text) == micro
    assert to_micro(Decimal(text)) == micro
    assert "E" not in text
    assert not ("." in text and text.endswith("0"))


@given(MICROS)
def test_a_json_number_is_taken_exactly(micro: int) -> None:
    assert to_micro(json_decimals.loads(format_micro(micro))) == micro


@given(st.from_regex(r"-?(0|[1-9][0-9]{0,14})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,30})?", fullmatch=True))
def test_any_json_number_is_taken_exactly_or_refused(number: str) -> None:
    try:
        taken = to_micro(json_decimals.loads(number))
    except ValueError:
        return
    assert Fraction(taken, MICRO) == Fraction(Decimal(number))


@given(st.lists(MICROS))
def test_sums_are_exact(micros: list[int]) -> None:
    assert sum(to_micro(format_micro(micro)) for micro in micros) == sum(micros)
