"""Conversion of half-hours by columns, beside the conversion of each by itself."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.decimals import format_micro, to_micro
from app.readings.columns import days_of, micro_amounts
from app.readings.packing import SLOTS, Day


@given(st.lists(st.integers(0, 10**15 - 1), min_size=1))
def test_amounts_are_exact(micros: list[int]) -> None:
    assert micro_amounts([format_micro(micro) for micro in micros]) == micros


@given(st.text("0123456789.,-+eE_ x\u0661", max_size=12))
def test_an_amount_is_that_of_the_text_or_refused(text: str) -> None:
    try:
        amounts = micro_amounts(["1", text, "2"])
    except ValueError:
        return
    assert amounts == [1_000_000, to_micro(text), 2_000_000]


@pytest.mark.parametrize("first", [-48, 0, 19_700 * 48])
def test_half_hours_are_grouped_by_their_days(first: int) -> None:
    starts = [first + 47, first + 48, first, first + 96]
    days = dict(days_of(starts, [1, 2, 3, 4], [True, False, False, True]))
    day = first // 48
    assert {at: (one.present, one.estimated) for at, one in days.items()} == {
        day: (1 << 47 | 1, 1 << 47),
        day + 1: (1, 0),
        day + 2: (1, 1),
    }
    assert [days[day].amounts[slot] for slot in (0, 1, 47)] == [3, 0, 1]


@given(st.dictionaries(st.integers(-200, 200), st.tuples(st.integers(0, 9), st.booleans())), st.randoms())
def test_days_are_those_of_a_plain_dictionary(readings: dict[int, tuple[int, bool]], random: Random) -> None:
    starts = list(readings)
    random.shuffle(starts)
    days = days_of(starts, [readings[start][0] for start in starts], [readings[start][1] for start in starts])
    model: dict[int, Day] = {}
    for start in sorted(starts):
        amount, is_estimated = readings[start]
        day, slot = divmod(start, SLOTS)
        known = model.get(day, Day(0, 0, [0] * SLOTS))
        amounts = [amount if at == slot else one for at, one in enumerate(known.amounts)]
        model[day] = Day(known.present | 1 << slot, known.estimated | is_estimated << slot, amounts)
    assert list(days) == list(model.items())


def test_a_half_hour_that_is_given_twice_is_refused() -> None:
    for starts in ([5, 5], [5, 6, 5]):
        with pytest.raises(ValueError, match="given twice"):
            days_of(starts, [1] * len(starts), [False] * len(starts))
