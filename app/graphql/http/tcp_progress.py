"""How far a connection's peer has got, as the kernel knows it: to the byte, where a transport only sees great steps."""

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from asyncio import BaseTransport, WriteTransport
from typing import Final, NamedTuple

UNSENT_IN_KERNEL: Final = 64 * 1024
"""Bytes that the kernel takes beyond what is on its way to the peer."""

# `tcpi_bytes_acked` and `tcpi_bytes_received` in Linux's `struct tcp_info`.
_COUNTS: Final = struct.Struct("=120xQQ")
_QUEUED: Final = struct.Struct("=i")


class Reach(NamedTuple):
    """Bytes."""

    # That the peer's system has taken.
    taken: int
    # That it has sent, whether or not they were read here.
    given: int
    # That are still to be taken.
    waiting: int

    def moved_from(self, before: "Reach") -> bool:
        """Whether anything was taken or given since then."""
        return self[:2] != before[:2]


class Patience:
    """With a peer that is behind: it ends when nothing was taken for so many seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._taken: int | None = None
        self._moved_at = 0.0

    def renew(self) -> None:
        """The peer keeps up."""
        self._taken = None

    def is_over(self, now: float, taken: int) -> bool:
        """Look at a peer that is behind, and has taken so much."""
        if taken != self._taken:
            self._taken, self._moved_at = taken, now
        return now - self._moved_at >= self._seconds


def keep_little_unsent(transport: BaseTransport) -> None:
    """Else the kernel keeps megabytes for a slow peer: what is sent behind them comes too late."""
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        connection = transport.get_extra_info("socket")
        # It may be gone already.
        with contextlib.suppress(OSError, ValueError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_IN_KERNEL)


def reach_of(transport: WriteTransport) -> Reach:
    """Where the peer is now."""
    buffered = transport.get_write_buffer_size()
    counted = _counted(transport.get_extra_info("socket"))
    if counted is None:
        return Reach(-buffered, 0, buffered)
    taken, given, queued = counted
    return Reach(taken, given, buffered + queued)


def _counted(connection: socket.socket) -> tuple[int, int, int] | None:
    """Taken, given and queued; None where this kernel does not tell, or the connection is gone."""
    if sys.platform != "linux":
        return None
    try:
        taken, given = _COUNTS.unpack(
            connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _COUNTS.size)
        )
        (queued,) = _QUEUED.unpack(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(_QUEUED.size)))
    except (OSError, ValueError, struct.error):
        return None
    return taken, given, queued
