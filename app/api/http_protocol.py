"""uvicorn's own HTTP protocol, with an end to its patience for the head of a request, and a view of its transport.

Give it to uvicorn as `http`. It would wait for the head's end for ever, and keep it at any length. The body is bounded
where it is read (see `body`), and between two requests uvicorn closes by itself.
"""

import asyncio
from typing import Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION: Final = "voltwire.transport"
"""The key in the scope's extensions; its value is `{"transport": Transport}`, to see what the peer has taken."""

HEAD_SECONDS: Final = 10.0
"""From the connection, or the first byte of a later request, to the end of its headers."""

MAX_HEAD: Final = 64 * 1024
"""Bytes of a request's line and headers."""


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    head_seconds = HEAD_SECONDS
    # A new connection owes a request at once.
    _in_head = True
    _in_message = False
    _head_size = 0
    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        if self._is_between_requests():
            self._in_head, self._head_size = True, 0
        if self._in_head:
            self._head_size += len(data)
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        self._in_head = False
        self._watch()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self) -> None:
        super().handle_websocket_upgrade()
        # Nobody tells it of the connection's end any more; the two would keep each other until garbage is looked for.
        self.parser = None  # type: ignore[assignment]

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {EXTENSION: {"transport": self.transport}}
        self._in_head = self._in_message = True

    def on_headers_complete(self) -> None:
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._in_message = False
        super().on_message_complete()

    def _is_between_requests(self) -> bool:
        return not self._in_head and not self._in_message and self.cycle.response_complete

    def _watch(self) -> None:
        """Most heads come in one piece, so a timer is set only for those that did not."""
        if not self._in_head:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None
        elif self._head_size > MAX_HEAD:
            self._refuse(b"431 Request Header Fields Too Large")
        elif self._patience is None:
            self._patience = self.loop.call_later(self.head_seconds, self._give_up)

    def _give_up(self) -> None:
        if self._head_size:
            self._refuse(b"408 Request Timeout")
        else:
            self.transport.close()

    def _refuse(self, status: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
