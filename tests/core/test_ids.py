"""Ids are prefixed, sort by creation time and are unique."""

import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

from hypothesis import given
from hypothesis import strategies as st

from app.core.ids import is_id, new_id

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"


def milliseconds(identifier: str) -> int:
    """The creation time of an id, in milliseconds since 1970."""
    value = 0
    for character in identifier.partition("_")[2]:
        value = value * 32 + ALPHABET.index(character)
    return value >> 80


def make(count: int) -> list[str]:
    return [new_id("evt") for _ in range(count)]


def test_an_id_is_its_prefix_and_26_characters_that_begin_with_the_time() -> None:
    before = time.time_ns() // 1_000_000
    identifier = new_id("cus")
    after = time.time_ns() // 1_000_000
    assert re.fullmatch(f"cus_[{ALPHABET}]{{26}}", identifier)
    # Ids of one millisecond count up, and may so run into the next.
    assert before <= milliseconds(identifier) <= after + 1


def test_ids_of_one_process_sort_in_the_order_they_were_made() -> None:
    made = make(50_000)
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_ids_keep_their_order_across_milliseconds() -> None:
    made = []
    for _ in range(200):
        made.append(new_id("mtr"))
        time.sleep(0.0003)
    assert made == sorted(set(made))


def test_threads_make_different_ids_each_in_its_order() -> None:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            made = list(pool.map(make, [10_000] * 4))
    finally:
        sys.setswitchinterval(interval)
    assert all(one == sorted(one) for one in made)
    assert len({identifier for one in made for identifier in one}) == 40_000


def test_processes_make_different_ids() -> None:
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        first, second = pool.map(make, [20_000, 20_000])
    assert not set(first) & set(second)


@given(st.sampled_from(["acc", "cus", "hc", "evt"]))
def test_a_new_id_is_an_id_of_its_prefix_only(prefix: str) -> None:
    identifier = new_id(prefix)
    assert is_id(identifier, prefix)
    assert not is_id(identifier, "whe")
    assert not is_id(identifier[:-1], prefix)
    assert not is_id(identifier + "0", prefix)
    assert not is_id(identifier.upper(), prefix)


@given(st.text())
def test_is_id_takes_any_text(text: str) -> None:
    assert is_id(text, "cus") == bool(re.fullmatch(f"cus_[{ALPHABET}]{{26}}", text))
