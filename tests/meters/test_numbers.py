import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.meters import numbers
from app.meters.enums import MeterType
from app.meters.numbers import InvalidMeterNumber, ParsedNumber, parse

ELECTRICITY, GAS = MeterType.ELECTRICITY, MeterType.GAS
DIGITS = "0123456789"
LINE_LOSS = st.text("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ", min_size=3, max_size=3)


@pytest.mark.parametrize(
    ("number", "core"),
    [
        ("2499999999991", "2499999999991"),
        ("1312345678907", "1312345678907"),
        ("001112221312345678907", "1312345678907"),
        ("00 111 222 13 1234 5678 907", "1312345678907"),
        ("03801A0B1312345678907", "1312345678907"),
        ("03801a0b1312345678907", "1312345678907"),
        ("24 999 9999 9991", "2499999999991"),
        ("24-9999-9999-991", "2499999999991"),
        ("24\u00a09999  9999 -  991", "2499999999991"),
        ("\t2499999999991\r\n", "2499999999991"),
    ],
)
@pytest.mark.parametrize("type", [ELECTRICITY, None])
def test_electricity_numbers(number: str, core: str, type: MeterType | None) -> None:
    assert parse(number, type) == ParsedNumber(core, ELECTRICITY, invalid=False)


@pytest.mark.parametrize(
    "number", ["9999999999999", "9999999999998", "9999999999997", "9999999999996", "9999999999995"]
)
def test_the_five_test_numbers_fail_the_check_and_are_allowed(number: str) -> None:
    assert numbers.mpan_check_digit(number[:-1]) != int(number[-1])
    assert parse(number) == parse(f"00111222{number}") == ParsedNumber(number, ELECTRICITY, invalid=False)


@pytest.mark.parametrize("last", "01234")
def test_the_neighbours_of_the_test_numbers_are_checked(last: str) -> None:
    number = f"999999999999{last}"
    if numbers.mpan_check_digit(number[:-1]) == int(last):
        assert parse(number).core == number
    else:
        with pytest.raises(InvalidMeterNumber, match="check digit"):
            parse(number)


@pytest.mark.parametrize(
    ("number", "invalid"),
    [
        ("3938424403", False),
        ("39 3842 4403", False),
        ("3938424404", True),
        ("123456", True),
        ("123408", True),
        ("123409", False),
        ("1234567", True),
        ("12345678", True),
        ("123456789", True),
    ],
)
@pytest.mark.parametrize("type", [GAS, None])
def test_gas_numbers_are_taken_and_marked(number: str, invalid: bool, type: MeterType | None) -> None:
    assert parse(number, type) == ParsedNumber(number.replace(" ", ""), GAS, invalid)


@pytest.mark.parametrize(
    ("number", "type", "sentence"),
    [
        ("2499999999990", None, "The check digit of this electricity number is wrong"),
        ("001112222499999999990", None, "The check digit of this electricity number is wrong"),
        ("249999999999", None, "13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has 12."),
        ("24999999999910", None, "13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has 14."),
        ("12345", None, "13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has 5."),
        ("12345678901", None, "13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has 11."),
        ("1" * 100_000, None, "13 digits (electricity; 21 in full) or 6 to 10 (gas), this one has 100000."),
        ("249999999999", ELECTRICITY, "An electricity number has 13 digits, or 21 in full, this one has 12."),
        ("12345678", ELECTRICITY, "this one has 8: a number of 6 to 10 digits is of type GAS."),
        ("2499999999991", GAS, "6 to 10 digits, this one has 13: a number of 13 is of type ELECTRICITY."),
        ("001112221312345678907", GAS, "this one has 21: a number of 21 is of type ELECTRICITY."),
        ("12345", GAS, "A gas number has 6 to 10 digits, this one has 5."),
        ("12345678901", GAS, "A gas number has 6 to 10 digits, this one has 11."),
        ("1234567A", None, "A gas number has no letters."),
        ("249999999999A", None, "An electricity number of 13 digits has no letters."),
        ("A01112221312345678907", None, "only its 6th to 8th may be letters instead."),
        ("0011122213123456789O7", None, "only its 6th to 8th may be letters instead."),
        ("-2499999999991", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("2499999999991-", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("24.99999999991", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("+449999999991", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("2499999\n999991", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("٢٤٩٩٩٩٩٩٩٩٩٩١", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("249999999999\uff11", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("12345\u017f", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("12345²", None, "only the digits 0 to 9, with spaces or hyphens between them."),
        ("", None, "Give the meter number"),
        ("  ", ELECTRICITY, "Give the meter number"),
    ],
)
def test_refused_with_a_sentence(number: str, type: MeterType | None, sentence: str) -> None:
    with pytest.raises(InvalidMeterNumber, match=re.escape(sentence)):
        parse(number, type)


@given(st.text(DIGITS, min_size=12, max_size=12), LINE_LOSS)
def test_of_ten_last_digits_one_is_right(first: str, line_loss: str) -> None:
    accepted = set()
    for last in DIGITS:
        try:
            accepted.add(parse(f"00801{line_loss}{first}{last}").core)
        except InvalidMeterNumber:
            continue
    assert accepted - numbers.TEST_NUMBERS == {f"{first}{numbers.mpan_check_digit(first)}"}


@given(st.text(DIGITS, min_size=4, max_size=8), st.integers(0, 99))
def test_a_gas_number_is_never_refused_and_marked_unless_its_check_is_right(leading: str, last: int) -> None:
    right = numbers.mprn_check_digits(leading)
    assert parse(leading + right) == ParsedNumber(leading + right, GAS, invalid=False)
    assert parse(f"{leading}{last:02}", GAS).invalid is (f"{last:02}" != right)


@given(st.text() | st.from_regex(r"\A\s?[\d\w][\d -]{5,21}\s?\Z"))
def test_any_text_is_either_parsed_to_ascii_digits_or_refused(number: str) -> None:
    try:
        core = parse(number).core
    except InvalidMeterNumber:
        return
    assert set(core) <= set(DIGITS)
    assert len(core) in (6, 7, 8, 9, 10, 13)
