"""Cursors of the event log: sealed, bound to the account and the log's epoch.

A cursor is a position and the epoch, sealed for the account, in base64url. Equal positions have equal cursors, and
nobody reads a position in one: to a viewer bound to one customer it would tell how much the account records beside.
Another account's, or one that was made up, is refused.
One of another epoch, from before the log's beginning or past its end is expired, which is told and never passed over
in silence.
"""

import base64
import binascii
import struct
from typing import Final

from app.core.crypto import Keyring
from app.core.errors import BadUserInput, CursorExpired
from app.events.models import Stream

PAST_RETENTION: Final = "The events after this cursor are past retention and gone"
OF_ANOTHER_LOG: Final = "This cursor is of an earlier log, which another one has replaced"
AHEAD: Final = "This cursor is ahead of the log, which was restored to an earlier state"

_PURPOSE: Final = "sealed cursor"
# Of cursors given out before they were sealed: the position in clear, and a signature over it.
_SIGNED: Final = "cursor"
_SIGNATURE: Final = 16


def encode(keyring: Keyring, account_id: str, epoch: str, sequence: int) -> str:
    """The cursor of a position; 0 is just before the first event."""
    position = struct.pack(">Q", sequence) + epoch.encode()
    sealed = keyring.seal(_PURPOSE, position, account_id.encode())
    return base64.urlsafe_b64encode(sealed).decode().rstrip("=")


def decode(keyring: Keyring, stream: Stream, cursor: str, argument: str = "after") -> int:
    """The sequence a cursor stands for. Raises BadUserInput, or CursorExpired with the oldest cursor there is."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        position = _position(keyring, stream.account_id.encode(), raw)
        (sequence,) = struct.unpack_from(">Q", position)
    except (binascii.Error, ValueError, struct.error):
        raise _bad(argument) from None
    if cause := _cause(stream, position[8:].decode(), sequence):
        raise expired(keyring, stream, cause)
    return int(sequence)


def _position(keyring: Keyring, account: bytes, raw: bytes) -> bytes:
    """Sequence and epoch. Raises ValueError for what is no cursor of the account."""
    try:
        return keyring.unseal(_PURPOSE, raw, account)
    except ValueError:
        position, signature = raw[:-_SIGNATURE], raw[-_SIGNATURE:]
        if keyring.verifies(_SIGNED, account + position, signature):
            return position
        raise


def expired(keyring: Keyring, stream: Stream, cause: str) -> CursorExpired:
    """The error of a position that cannot be gone on from; `cause` is a sentence without its end."""
    return CursorExpired(
        f"{cause}: go on from oldestCursor, or read the state anew and subscribe after eventStream's latestCursor.",
        oldestCursor=oldest(keyring, stream),
    )


def _cause(stream: Stream, epoch: str, sequence: int) -> str | None:
    """The reason why the log cannot be gone on with after this position; None where it can."""
    if epoch != stream.epoch:
        return OF_ANOTHER_LOG
    if sequence > stream.last_sequence:
        return AHEAD
    # One before the first kept event still lets a reader go on without a gap.
    return PAST_RETENTION if sequence < stream.first_sequence - 1 else None


def oldest(keyring: Keyring, stream: Stream) -> str:
    """The cursor just before the first event there is."""
    return encode(keyring, stream.account_id, stream.epoch, stream.first_sequence - 1)


def latest(keyring: Keyring, stream: Stream) -> str:
    return encode(keyring, stream.account_id, stream.epoch, stream.last_sequence)


def _bad(argument: str) -> BadUserInput:
    return BadUserInput(
        "This is not a cursor of this account's event log: use one from an event, a page or eventStream.",
        field=[argument],
    )
