"""A bounded memory."""

import pytest

from app.api.kept import Kept


def test_of_more_than_it_keeps_those_go_that_were_used_longest_ago() -> None:
    kept: Kept[str, int] = Kept(2)
    kept.put("a", 1)
    kept.put("b", 2)
    assert kept.get("a") == 1
    kept.put("c", 3)
    assert [kept.get(one) for one in "abc"] == [1, None, 3]
    kept.put("a", 4)
    kept.put("d", 5)
    assert list(kept) == [4, 5]
    assert len(kept) == 2


def test_a_key_must_be_hashable() -> None:
    kept: Kept[tuple[list[int]], int] = Kept(1)
    with pytest.raises(TypeError):
        kept.get(([],))
