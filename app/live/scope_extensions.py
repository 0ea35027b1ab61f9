"""Extensions of the ASGI scope by which live streams reach the server's own transport.

The protocols in `app.server` offer them; under another server streams go through ASGI's `send` alone.
"""

from asyncio import WriteTransport
from collections.abc import Callable
from typing import Final, Protocol

TRANSPORT: Final = "voltwire.transport"
"""Of an HTTP request: `{"transport": asyncio.Transport}`, which shows how much the peer has taken."""

FRAMES: Final = "voltwire.frames"
"""Of a WebSocket connection: `{"protocol": FrameWriter}`."""


class FrameWriter(Protocol):
    """A WebSocket connection that takes ready-made frames.

    `on_blocked` is called when frames can no longer be sent, `on_writable` when they can again; both are called when
    the connection is lost.
    """

    on_writable: Callable[[], None] | None
    on_blocked: Callable[[], None] | None

    @property
    def transport(self) -> WriteTransport: ...

    @property
    def is_open(self) -> bool:
        """Whether frames can be sent now."""

    @property
    def is_over(self) -> bool:
        """Whether a close was sent, as an answer or by us, or the connection is lost."""

    @property
    def close_sent(self) -> bool:
        """Whether the server sent a close, after which nothing may follow."""

    @property
    def buffered(self) -> int:
        """Bytes in the transport that the kernel has not taken."""

    @property
    def taken(self) -> int:
        """Changes when the peer takes something."""

    def write_frame(self, frame: bytes) -> bool:
        """Sends a whole frame; False where it would have to wait. A closed connection drops it."""

    def close_with(self, code: int, reason: str) -> None:
        """Closes, whether or not the peer takes anything now."""
