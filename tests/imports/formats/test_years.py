"""A random year, written in each profile, zone and variant of the clock changes, comes back exactly."""

from datetime import UTC, date

import pytest

from tests.imports.formats.reading import MPAN, Reading, Taken
from tests.imports.formats.rendering import BY_DAY, BY_ROW, UK, Half, by_day, whole, year

LONG_DAY = date(2024, 10, 27)
SEEDS = (1, 2)


def check(taken: Taken, halves: list[Half], has_flags: bool) -> None:
    assert taken.problems == []
    expected: dict[object, Reading] = {
        start: (amount, estimated and has_flags) for start, (amount, estimated) in halves
    }
    assert taken.readings == {(MPAN, "IMPORT"): expected}
    assert taken.counts.readings == len(expected)
    assert taken.total() == sum(amount for amount, _ in expected.values())


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BY_DAY)
def test_year_by_days_in_the_profiles_own_zone(name: str, seed: int) -> None:
    render, zone, has_long_day, has_flags = BY_DAY[name]
    halves = year(seed)
    if zone != "local":
        halves = whole(halves, zone)
    if not has_long_day:
        halves = [half for half in halves if half[0].astimezone(UK).date() != LONG_DAY]
    options = {"timezone": "settlement"} if name == "days" else {}
    taken = Taken(render(by_day(halves, zone)), **options)
    assert taken.file.profile == name.split(" ")[0]
    check(taken, halves, has_flags)


@pytest.mark.parametrize("name", [name for name, (_, zone, _, _) in BY_DAY.items() if zone == "local"])
def test_year_by_days_in_utc_where_the_caller_says_so(name: str) -> None:
    render, _, _, has_flags = BY_DAY[name]
    halves = whole(year(3), "utc")
    check(Taken(render(by_day(halves, "utc")), timezone="utc"), halves, has_flags)


@pytest.mark.parametrize("name", ["british-gas", "npower"])
def test_year_by_numbered_half_hours_by_the_clock(name: str) -> None:
    render, _, _, has_flags = BY_DAY[name]
    halves = [half for half in year(4) if half[0].astimezone(UK).date() not in (LONG_DAY, date(2024, 3, 31))]
    check(Taken(render(by_day(halves, "local")), timezone="london"), halves, has_flags)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", BY_ROW)
def test_year_by_rows(name: str, seed: int) -> None:
    render, has_flags = BY_ROW[name]
    zone = name.removeprefix("rows ") if name.startswith("rows ") else None
    halves = year(seed)
    taken = Taken(render(halves), timezone=zone, file_name=f"usage {MPAN}.csv")
    assert taken.file.profile == name.split(" ")[0]
    check(taken, halves, has_flags)


def test_year_by_rows_newest_first() -> None:
    halves = year(5)
    for name in ("voltwire", "octopus", "rows london"):
        render, has_flags = BY_ROW[name]
        taken = Taken(render(halves[::-1]), timezone="london" if name == "rows london" else None, meter=MPAN)
        check(taken, halves, has_flags)


def test_year_starts_and_ends_at_uk_midnight() -> None:
    halves = year(1)
    assert halves[0][0].astimezone(UK).date() == date(2023, 11, 1)
    assert len(halves) == 366 * 48
    assert all(start.tzinfo is UTC for start, _ in halves)
