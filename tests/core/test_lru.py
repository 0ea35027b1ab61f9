"""A bounded memory."""

import sys

import pytest

from app.core.lru import WeightedLru, memoized


def test_of_more_than_it_keeps_those_go_that_were_used_longest_ago() -> None:
    kept: WeightedLru[str, int] = WeightedLru(2, 100)
    kept.put("a", 1, 1)
    kept.put("b", 2, 1)
    assert kept.get("a") == 1
    kept.put("c", 3, 1)
    assert [kept.get(one) for one in "abc"] == [1, None, 3]
    kept.put("a", 4, 1)
    kept.put("d", 5, 1)
    assert list(kept) == [4, 5]
    assert len(kept) == 2


def test_what_it_keeps_weighs_no_more_than_it_may() -> None:
    kept: WeightedLru[str, int] = WeightedLru(100, 10)
    kept.put("a", 1, 4)
    kept.put("b", 2, 4)
    assert (list(kept), kept.weight) == ([1, 2], 8)
    # What takes another's place weighs in its stead.
    kept.put("a", 3, 6)
    assert (list(kept), kept.weight) == ([2, 3], 10)
    kept.put("c", 4, 1)
    assert (list(kept), kept.weight) == ([3, 4], 7)
    kept.put("d", 5, 10)
    assert (list(kept), kept.weight) == ([5], 10)


def test_what_is_too_heavy_takes_nobodys_place() -> None:
    kept: WeightedLru[str, int] = WeightedLru(100, 10)
    kept.put("a", 1, 4)
    kept.put("b", 2, 11)
    assert (list(kept), kept.weight) == ([1], 4)
    kept.put("a", 3, 11)
    assert (list(kept), kept.weight) == ([], 0)


def test_a_key_must_be_hashable() -> None:
    kept: WeightedLru[tuple[list[int]], int] = WeightedLru(1, 1)
    with pytest.raises(TypeError):
        kept.get(([],))


def test_a_function_remembers_answers_up_to_so_many_bytes() -> None:
    asked = []
    each = 100 + 3 * sys.getsizeof("a")

    @memoized(2 * each, 100)
    def upper(text: str) -> str:
        asked.append(text)
        return text.upper()

    assert [upper(one) for one in "abab"] == ["A", "B", "A", "B"]
    assert asked == ["a", "b"]
    assert upper("c") == "C"
    # That took the place of what was used longest ago.
    assert [upper(one) for one in "bca"] == ["B", "C", "A"]
    assert asked == ["a", "b", "c", "a"]


def test_an_answer_that_is_too_long_is_not_remembered() -> None:
    asked = []

    @memoized(1000, 100)
    def length(text: str) -> int:
        asked.append(text)
        return len(text)

    assert [length("x" * 500), length("x" * 500)] == [500, 500]
    assert len(asked) == 2


def test_a_function_that_refuses_remembers_nothing() -> None:
    asked = []

    @memoized(1000, 100)
    def refuse(text: str) -> str:
        asked.append(text)
        raise ValueError(text)

    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            refuse("no")
    assert len(asked) == 2
