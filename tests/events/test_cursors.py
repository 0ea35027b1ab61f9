"""Cursors: each belongs to one account, stands for one position, and cannot be forged."""

import base64
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.crypto import Keyring
from app.core.errors import BadUserInput, CursorExpired
from app.events import cursors
from app.events.models import Stream

KEYRING = Keyring(["a secret key of the cursors' tests"])
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
sequences = st.integers(0, 2**63 - 2)


def stream(first: int = 1, last: int = 2**63 - 1, account: str = "acc_1", epoch: str = "abcd1234") -> Stream:
    at = datetime(2026, 11, 24, tzinfo=UTC)
    return Stream(
        account_id=account, epoch=epoch, first_sequence=first, last_sequence=last, last_occurred_at=at
    )


def encode(sequence: int, account: str = "acc_1", epoch: str = "abcd1234") -> str:
    return cursors.encode(KEYRING, account, epoch, sequence)


@given(sequences)
def test_a_cursor_stands_for_its_position(sequence: int) -> None:
    cursor = encode(sequence)
    assert cursors.decode(KEYRING, stream(), cursor) == sequence
    assert set(cursor) <= set(ALPHABET)
    assert encode(sequence) == cursor


@given(sequences)
def test_an_unlinkable_cursor_differs_each_time_and_stands_for_its_position(sequence: int) -> None:
    first, second = (
        cursors.encode(KEYRING, "acc_1", "abcd1234", sequence, is_unlinkable=True) for _ in range(2)
    )
    assert len({first, second, encode(sequence)}) == 3
    assert [cursors.decode(KEYRING, stream(), one) for one in (first, second)] == [sequence] * 2
    with pytest.raises(CursorExpired):
        cursors.decode(KEYRING, stream(epoch="wxyz9876"), first)


def signed(sequence: int, keyring: Keyring = KEYRING, account: str = "acc_1", epoch: str = "abcd1234") -> str:
    """A cursor as it was given out before cursors were sealed."""
    position = struct.pack(">Q", sequence) + epoch.encode()
    signature = keyring.sign("cursor", account.encode() + position, 16)
    return base64.urlsafe_b64encode(position + signature).decode().rstrip("=")


@given(sequences)
def test_a_cursor_shows_nothing_of_its_position(sequence: int) -> None:
    cursor, next_one = (base64.urlsafe_b64decode(encode(one) + "=") for one in (sequence, sequence + 1))
    assert struct.pack(">Q", sequence) not in cursor
    assert b"abcd1234" not in cursor
    # Neither is what two of them have in common.
    assert all(cursor[at : at + 8] != next_one[at : at + 8] for at in range(len(cursor) - 7))


@given(sequences)
def test_cursors_given_out_before_they_were_sealed_stay_valid(sequence: int) -> None:
    assert cursors.decode(KEYRING, stream(), signed(sequence)) == sequence
    rotated = Keyring(["another secret key of the tests", "a secret key of the cursors' tests"])
    assert cursors.decode(rotated, stream(), signed(sequence)) == sequence
    for cursor in (signed(sequence, account="acc_2"), signed(sequence, Keyring(["yet another of our keys"]))):
        with pytest.raises(BadUserInput):
            cursors.decode(KEYRING, stream(), cursor)
    with pytest.raises(CursorExpired):
        cursors.decode(KEYRING, stream(epoch="wxyz9876"), signed(sequence))


@given(sequences)
def test_another_accounts_cursor_is_refused(sequence: int) -> None:
    with pytest.raises(BadUserInput, match="not a cursor of this account") as caught:
        cursors.decode(KEYRING, stream(account="acc_2"), encode(sequence))
    assert caught.value.extensions == {"code": "BAD_USER_INPUT", "field": ["after"]}


@given(sequences)
def test_a_cursor_made_with_another_key_is_refused_until_the_key_is_known(sequence: int) -> None:
    other = Keyring(["another secret key of the tests"])
    cursor = cursors.encode(other, "acc_1", "abcd1234", sequence)
    with pytest.raises(BadUserInput):
        cursors.decode(KEYRING, stream(), cursor)
    both = Keyring(["a secret key of the cursors' tests", "another secret key of the tests"])
    assert cursors.decode(both, stream(), cursor) == sequence


@given(st.data(), sequences)
def test_a_changed_cursor_is_refused(data: st.DataObject, sequence: int) -> None:
    cursor = encode(sequence)
    place = data.draw(st.integers(0, len(cursor) - 2))
    letter = data.draw(st.sampled_from(ALPHABET.replace(cursor[place], "")))
    with pytest.raises(BadUserInput):
        cursors.decode(KEYRING, stream(), cursor[:place] + letter + cursor[place + 1 :])
    with pytest.raises(BadUserInput):
        cursors.decode(KEYRING, stream(), cursor[:place])


@given(st.one_of(st.text(), st.text(ALPHABET), st.binary().map(lambda raw: raw.hex())))
def test_nothing_made_up_is_a_cursor(text: str) -> None:
    with pytest.raises(BadUserInput, match="use one from an event, a page or eventStream") as caught:
        cursors.decode(KEYRING, stream(), text, "through")
    assert caught.value.extensions["field"] == ["through"]


def test_only_what_the_log_still_reaches_can_be_gone_on_from() -> None:
    log = stream(first=101, last=200)
    # Just before the first kept event nothing is missing yet.
    reachable = [n for n in range(95, 206) if is_reached(log, n)]
    assert reachable == list(range(100, 201))


def is_reached(log: Stream, sequence: int) -> bool:
    try:
        return cursors.decode(KEYRING, log, encode(sequence)) == sequence
    except CursorExpired:
        return False


@pytest.mark.parametrize(
    ("sequence", "epoch", "cause"),
    [
        (99, "abcd1234", "The events after this cursor are past retention and gone: "),
        (201, "abcd1234", "This cursor is ahead of the log, which was restored to an earlier state: "),
        (150, "wxyz9876", "This cursor is of an earlier log, which another one has replaced: "),
        (201, "wxyz9876", "This cursor is of an earlier log, which another one has replaced: "),
    ],
)
def test_an_expired_cursor_is_told_why(sequence: int, epoch: str, cause: str) -> None:
    log = stream(first=101, last=200)
    with pytest.raises(CursorExpired) as caught:
        cursors.decode(KEYRING, log, encode(sequence, epoch=epoch))
    assert caught.value.message == cause + (
        "go on from oldestCursor, or read the state anew and subscribe after eventStream's latestCursor."
    )
    assert caught.value.extensions == {"code": "CURSOR_EXPIRED", "oldestCursor": cursors.oldest(KEYRING, log)}


def test_a_cursor_of_another_epoch_is_expired() -> None:
    log = stream(last=5, epoch="wxyz9876")
    with pytest.raises(CursorExpired) as caught:
        cursors.decode(KEYRING, log, encode(3))
    oldest = caught.value.extensions["oldestCursor"]
    assert caught.value.extensions == {"code": "CURSOR_EXPIRED", "oldestCursor": cursors.oldest(KEYRING, log)}
    assert cursors.decode(KEYRING, log, oldest) == 0


def test_oldest_and_latest_are_the_ends_of_the_log() -> None:
    log = stream(first=4, last=9)
    assert cursors.decode(KEYRING, log, cursors.oldest(KEYRING, log)) == 3
    assert cursors.decode(KEYRING, log, cursors.latest(KEYRING, log)) == 9
    empty = stream(first=10, last=9)
    assert cursors.oldest(KEYRING, empty) == cursors.latest(KEYRING, empty)
