"""Cursors of the event log: sealed, bound to the account and the log's epoch.

A cursor is a position and the epoch, sealed for the account, in base64url. Clients cannot read the position, which
would show a viewer bound to one customer how much else the account records. Equal positions have equal cursors, except
unlinkable ones: a bound viewer gets these for positions that other customers' events move.
A cursor of another account, or a forged one, is refused. A cursor of another epoch, from before the log's beginning or
past its end is expired, and the client gets an error instead of an incomplete log.
"""

import base64
import binascii
import secrets
import struct
from typing import Final

from app.core.crypto import Keyring
from app.core.errors import BadUserInput, CursorExpired
from app.events.models import Stream, StreamBounds

PAST_RETENTION: Final = "The events after this cursor are past retention and gone"
OF_ANOTHER_LOG: Final = "This cursor is of an earlier log, which another one has replaced"
AHEAD: Final = "This cursor is ahead of the log, which was restored to an earlier state"

_PURPOSE: Final = "sealed cursor"
# For cursors from before they were sealed: the position in clear, and a signature over it.
_SIGNED: Final = "cursor"
_SIGNATURE: Final = 16
_SALT: Final = 8


def encode(
    keyring: Keyring, account_id: str, epoch: str, sequence: int, *, is_unlinkable: bool = False
) -> str:
    """The cursor of a position; 0 is just before the first event. An unlinkable cursor differs each time."""
    position = struct.pack(">Q", sequence) + epoch.encode()
    if is_unlinkable:
        position += b"\0" + secrets.token_bytes(_SALT)
    sealed = keyring.seal(_PURPOSE, position, account_id.encode())
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def decode(keyring: Keyring, stream: Stream | StreamBounds, cursor: str, argument: str = "after") -> int:
    """The sequence of a cursor. Raises BadUserInput, or CursorExpired with the oldest valid cursor."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = _position(keyring, stream.account_id.encode(), raw)
        (sequence,) = struct.unpack_from(">Q", position)
    except (binascii.Error, ValueError, struct.error):
        raise _bad(argument) from None
    epoch, _, _ = position[8:].partition(b"\0")
    if cause := _cause(stream, epoch.decode(), sequence):
        raise expired(keyring, stream, cause)
    return int(sequence)


def _position(keyring: Keyring, account: bytes, raw: bytes) -> bytes:
    """Sequence, epoch and salt. Raises ValueError unless this is a cursor of the account."""
    try:
        return keyring.unseal(_PURPOSE, raw, account)
    except ValueError:
        position, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        if keyring.verifies(_SIGNED, account + position, signature):
            return position
        raise


def expired(keyring: Keyring, stream: Stream | StreamBounds, cause: str) -> CursorExpired:
    """The error for a position at which the log cannot be resumed; `cause` is a sentence without its end."""
    return CursorExpired(
        f"{cause}: go on from oldestCursor, or read the state anew and subscribe after eventStream's latestCursor.",
        oldestCursor=oldest(keyring, stream),
    )


def _cause(stream: Stream | StreamBounds, epoch: str, sequence: int) -> str | None:
    """The reason why the log cannot be resumed after this position; None where it can."""
    if epoch != stream.epoch:
        return OF_ANOTHER_LOG
    if sequence > stream.last_sequence:
        return AHEAD
    # Just before the first kept event a reader still resumes without a gap.
    return PAST_RETENTION if sequence < stream.first_sequence - 1 else None


def oldest(keyring: Keyring, stream: Stream | StreamBounds, *, is_unlinkable: bool = False) -> str:
    """The cursor just before the first kept event."""
    before = stream.first_sequence - 1
    return encode(keyring, stream.account_id, stream.epoch, before, is_unlinkable=is_unlinkable)


def latest(keyring: Keyring, stream: Stream | StreamBounds, *, is_unlinkable: bool = False) -> str:
    """The cursor of the last event."""
    last = stream.last_sequence
    return encode(keyring, stream.account_id, stream.epoch, last, is_unlinkable=is_unlinkable)


def _bad(argument: str) -> BadUserInput:
    return BadUserInput(
        "This is not a cursor of this account's event log: use one from an event, a page or eventStream.",
        field=[argument],
    )
