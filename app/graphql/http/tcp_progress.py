"""The progress of a connection's peer by the kernel's counts, to the byte; a transport sees only large steps."""

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from asyncio import BaseTransport, WriteTransport
from typing import Final, NamedTuple

UNSENT_IN_KERNEL: Final = 64 * 1024
"""Unsent bytes that the kernel buffers at most."""

# `tcpi_bytes_acked` and `tcpi_bytes_received` in Linux's `struct tcp_info`.
_COUNTS: Final = struct.Struct("=120xQQ")
_QUEUED: Final = struct.Struct("=i")


class TcpProgress(NamedTuple):
    """Counts of bytes."""

    # The peer's system has acknowledged them.
    acked: int
    # The peer has sent them, whether or not they were read here.
    received: int
    # They were written and are not acknowledged yet.
    unacked: int

    def differs_from(self, before: "TcpProgress") -> bool:
        """Whether the peer has acknowledged or sent anything since then."""
        return self[:2] != before[:2]


class StallTimer:
    """Runs out when a peer that is behind has acknowledged nothing for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._acked: int | None = None
        self._moved_at = 0.0

    def reset(self) -> None:
        """The peer keeps up."""
        self._acked = None

    def is_over(self, now: float, acked: int) -> bool:
        """Notes the progress of a peer that is behind."""
        if acked != self._acked:
            self._acked, self._moved_at = acked, now
        return now - self._moved_at >= self._seconds


def limit_unsent(transport: BaseTransport) -> None:
    """Bounds the kernel's buffer: it would hold megabytes for a slow peer, and delay everything behind them."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connection = transport.get_extra_info("socket")
        # The socket may be closed already.
        with contextlib.suppress(OSError, ValueError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


def tcp_progress(transport: WriteTransport) -> TcpProgress:
    buffered = transport.get_write_buffer_size()
    counts = _counts(transport.get_extra_info("socket"))
    if counts is None:
        return TcpProgress(-buffered, 0, buffered)
    acked, received, queued = counts
    return TcpProgress(acked, received, buffered + queued)


def _counts(connection: socket.socket) -> tuple[int, int, int] | None:
    """Acknowledged, received and queued; None where the kernel has no counts, or the connection is closed."""
    if sys.platform != "linux":
        return None
    try:
        acked, received = _COUNTS.unpack(
            connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS.size)
        )
        (queued,) = _QUEUED.unpack(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size)))
    except (OSError, ValueError, struct.error):
        return None
    return acked, received, queued
