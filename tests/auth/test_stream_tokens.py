from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.auth import stream_tokens
from app.auth.stream_tokens import StreamToken
from app.core.crypto import Keyring

OLD, NEW = "the older secret key", "the newer secret key"
RING = Keyring([OLD])
UNTIL = datetime(2026, 11, 24, 22, 29, 55, 123000, tzinfo=UTC)
BOUND = StreamToken("acc_1", "key_1", "cus_1", UNTIL)
WHOLE = StreamToken("acc_1", "key_1", None, UNTIL)


@pytest.mark.parametrize("token", [BOUND, WHOLE])
def test_a_token_holds_its_payload(token: StreamToken) -> None:
    text = stream_tokens.make(RING, token)
    assert text.startswith("vw_stream_")
    assert stream_tokens.read(RING, text) == token


def test_a_token_of_a_replaced_key_still_counts_and_of_a_dropped_one_does_not() -> None:
    text = stream_tokens.make(RING, BOUND)
    assert stream_tokens.read(Keyring([NEW, OLD]), text) == BOUND
    with pytest.raises(ValueError, match="signature"):
        stream_tokens.read(Keyring([NEW]), text)


def test_every_changed_character_counts() -> None:
    text = stream_tokens.make(RING, BOUND)
    for position, character in enumerate(text):
        changed = text[:position] + ("A" if character != "A" else "B") + text[position + 1 :]
        # The last character holds four bits that are in no byte, so one other spelling of a signature may exist.
        if position < len(text) - 1:
            with pytest.raises(ValueError):
                stream_tokens.read(RING, changed)


def test_a_signature_for_another_purpose_does_not_count() -> None:
    payload = stream_tokens.make(RING, BOUND).removeprefix("vw_stream_").partition(".")[0]
    signature = stream_tokens._encode(RING.sign("cursor", payload.encode()))
    with pytest.raises(ValueError, match="signature"):
        stream_tokens.read(RING, f"vw_stream_{payload}.{signature}")


@given(st.text() | st.from_regex(r"vw_stream_[A-Za-z0-9_-]{0,80}\.[A-Za-z0-9_-]{0,44}", fullmatch=True))
@example("vw_stream_")
@example("vw_stream_.")
@example("vw_stream_\ud800.\ud800")
@example("vw_stream_é." + "A" * 43)
@example("vw_stream_A." + "A" * 43)
@example("vw_stream_" + "A" * 100_000 + "." + "A" * 43)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        stream_tokens.read(RING, text)


def test_a_token_says_by_which_secret_it_was_made() -> None:
    marked = replace(BOUND, secret_mark=stream_tokens.mark_of("a hash"))
    assert stream_tokens.read(RING, stream_tokens.make(RING, marked)) == marked
    assert (
        stream_tokens.mark_of("a hash") == stream_tokens.mark_of("a hash") != stream_tokens.mark_of("another")
    )
    assert stream_tokens.read(RING, stream_tokens.make(RING, BOUND)).secret_mark is None
