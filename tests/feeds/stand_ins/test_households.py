"""Generated households: a pure function of number, seed and half-hour, in the shape of British homes."""

from datetime import UTC, date, datetime

from app.core import clock
from app.core.decimals import MICRO
from app.feeds.source import Window
from app.feeds.stand_ins.households import _CHANGES, SLOTS, Household, half_hour, instant_of
from app.meters.enums import MeterType
from app.readings.columns import Columns
from app.readings.enums import ReadingChannel

YEAR = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))
FIRST, AFTER = half_hour(YEAR.start), half_hour(YEAR.end)


def test_any_part_of_a_window_is_the_same_as_in_the_whole() -> None:
    home = Household("9999999999999")
    whole = home.amounts(FIRST, AFTER)
    assert len(whole) == 365 * SLOTS
    for first, after in ((0, 1), (47, 49), (4_000, 4_200), (14_000, 14_400), (17_519, 17_520)):
        assert home.amounts(FIRST + first, FIRST + after) == whole[first:after]
    assert home.amounts(FIRST, FIRST) == []
    assert Household("9999999999999").amounts(FIRST, AFTER) == whole


def test_number_and_seed_make_households_different() -> None:
    one = Household("9999999999999").amounts(FIRST, FIRST + SLOTS)
    assert one != Household("9999999999998").amounts(FIRST, FIRST + SLOTS)
    assert one != Household("9999999999999", seed=2).amounts(FIRST, FIRST + SLOTS)


def test_values_have_the_decimals_of_the_source() -> None:
    for decimals in (1, 3, 6):
        amounts = Household("9999999999999", decimals=decimals).amounts(FIRST, FIRST + 1_000)
        assert {amount % 10 ** (6 - decimals) for amount in amounts} == {0}


def test_a_year_is_that_of_a_home() -> None:
    home = Household("9999999999999", channels=(ReadingChannel.IMPORT, ReadingChannel.EXPORT))
    used = home.amounts(FIRST, AFTER)
    assert 2_000 * MICRO < sum(used) < 8_000 * MICRO
    nights = sum(used[at + 4] for at in range(0, len(used), SLOTS))
    evenings = sum(used[at + 36] for at in range(0, len(used), SLOTS))
    assert evenings > 3 * nights
    sun = home.amounts(FIRST, AFTER, ReadingChannel.EXPORT)
    assert sum(sun[180 * SLOTS : 190 * SLOTS]) > 4 * sum(sun[: 10 * SLOTS])
    assert 0.3 < sun.count(0) / len(sun) < 0.7
    gas = Household("3938424403", MeterType.GAS).amounts(FIRST, AFTER)
    assert sum(gas[: 30 * SLOTS]) > 5 * sum(gas[180 * SLOTS : 210 * SLOTS])


def test_mornings_follow_the_clocks_of_the_country() -> None:
    home = Household("9999999999999")

    def morning(day: date) -> int:
        start = half_hour(clock.start_of_uk_day(day))
        amounts = [sum(home.amounts(start + at, start + at + 2)) for at in range(8, 22)]
        return amounts.index(max(amounts))

    # Before and after the clocks went forward; the list begins at 04:00 of local time.
    for day in (date(2025, 3, 26), date(2025, 4, 2)):
        assert 2 <= morning(day) <= 10


def test_clocks_change_when_those_of_the_country_do() -> None:
    for at in _CHANGES:
        assert (
            instant_of(at).astimezone(clock.UK).utcoffset()
            != instant_of(at - 1).astimezone(clock.UK).utcoffset()
        )


def test_gas_in_cubic_metres_is_converted_exactly() -> None:
    home = Household("3938424403", MeterType.GAS, unit="m3")
    # 1.02264 * 39.5 / 3.6 = 11.2206333..., rounded half up.
    assert home.in_kwh([0, 1_000, 1_000_000, 123_000]) == [0, 11_221, 11_220_633, 1_380_138]


def test_the_truth_of_a_window_is_in_millionths_of_a_kwh() -> None:
    home = Household("9999999999999")
    window = Window(YEAR.start, datetime(2025, 1, 1, 1, 30, tzinfo=UTC))
    amounts = home.amounts(FIRST, FIRST + 3)
    assert home.truth(window) == Columns([FIRST, FIRST + 1, FIRST + 2], amounts, [False] * 3)
