"""The place in an account's log up to which this process has handed out events."""

from app.core.crypto import Keyring
from app.events import cursors
from app.events.models import Stream, StreamBounds


class LogHead:
    """`sequence` is the number of the last event that was handed out, or skipped."""

    def __init__(self, keyring: Keyring, account_id: str) -> None:
        self.account_id = account_id
        self.sequence = 0
        self.epoch = ""
        self._keyring = keyring
        # The cursor that was made last: subscriptions of one account mostly ask for the same one.
        self._cursor = (0, "")

    def unlinkable_cursor(self, sequence: int) -> str:
        """The cursor of a position, different each time."""
        return cursors.encode(self._keyring, self.account_id, self.epoch, sequence, is_unlinkable=True)

    def cursor(self, sequence: int) -> str:
        """The cursor of a position."""
        at, cursor = self._cursor
        if at != sequence or not cursor:
            cursor = cursors.encode(self._keyring, self.account_id, self.epoch, sequence)
            self._cursor = (sequence, cursor)
        return cursor

    def restart(self, stream: StreamBounds) -> None:
        """Go on at the end of another log."""
        self.epoch, self.sequence = stream.epoch, stream.last_sequence
        self._cursor = (0, "")

    def require_kept(self, stream: Stream, after: int) -> None:
        """Raises CursorExpired where the log no longer has every event after this sequence."""
        if stream.epoch != self.epoch:
            raise cursors.expired(self._keyring, stream, cursors.OF_ANOTHER_LOG)
        if after < stream.first_sequence - 1:
            raise cursors.expired(self._keyring, stream, cursors.PAST_RETENTION)
