"""Bodies up to the limit, beyond it, and of clients that disconnect."""

from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.types import Message

from app.graphql.http.body import DISCARDED, BodyCutOff, BodyTooLarge, read_body

MEBIBYTE = b"x" * 1024 * 1024


class Sender:
    """A client that sends these chunks, and then ends its request or disconnects."""

    def __init__(self, *chunks: bytes, ends: bool = True, headers: dict[str, str] | None = None) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._ends = ends
        self.taken = 0
        raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
        self.request = Request({"type": "http", "method": "POST", "headers": raw}, self._receive)

    async def _receive(self) -> Message:
        for chunk in self._chunks:
            self.taken += len(chunk)
            return {"type": "http.request", "body": chunk, "more_body": True}
        if not self._ends:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": b"", "more_body": False}


async def test_a_body_of_just_the_limit_is_read() -> None:
    assert await read_body(Sender(b"ab", b"c", headers={"content-length": "3"}).request, 3) == b"abc"


@pytest.mark.parametrize("headers", [{}, {"content-length": "4"}])
async def test_one_that_is_too_long_is_read_to_its_end_so_that_its_client_hears_the_answer(
    headers: dict[str, str],
) -> None:
    sender = Sender(b"abc", b"d", headers=headers)
    with pytest.raises(BodyTooLarge):
        await read_body(sender.request, 3)
    assert sender.taken == 4


async def test_one_without_end_is_not() -> None:
    sender = Sender(*[MEBIBYTE] * 100)
    with pytest.raises(BodyTooLarge):
        await read_body(sender.request, 3)
    assert sender.taken == DISCARDED + len(MEBIBYTE)


@pytest.mark.parametrize(
    "headers", [{"content-length": "9" * 5000}, {"content-length": "4", "expect": "100-continue"}]
)
async def test_one_that_says_so_before_it_sends_is_not_even_begun(headers: dict[str, str]) -> None:
    sender = Sender(b"abcd", headers=headers)
    with pytest.raises(BodyTooLarge):
        await read_body(sender.request, 3)
    assert sender.taken == 0


async def test_one_whose_client_goes_away_before_its_end_is_cut_off() -> None:
    with pytest.raises(BodyCutOff, match="too early"):
        await read_body(Sender(b"ab", ends=False).request, 3)
