"""The machine under the benchmark: which core takes the server, which the client, and what a run says of it."""

import os
import platform
import sys
from collections.abc import Sequence

SERVER_CORE = 0
CLIENT_CORE = 1
OPEN_FILES = 65536


class BenchError(Exception):
    """Stops a benchmark with a sentence for the person who runs it."""


def cores() -> list[int]:
    """The cores this process may use; empty where the system has no affinity (macOS)."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


class Cores:
    """Keeps servers and clients apart: one core for the server, one for the client (and the database)."""

    def __init__(self) -> None:
        self.usable = usable = cores()
        self.apart = len(usable) >= 2
        self.server = usable[SERVER_CORE] if self.apart else None
        self.client = usable[CLIENT_CORE] if self.apart else None

    def pin_client(self, pid: int = 0) -> None:
        """Bind a process (0: this one) to the client's core; its children inherit that."""
        if self.client is not None:
            os.sched_setaffinity(pid, {self.client})

    def pin_server(self, pid: int) -> None:
        """Bind a process that has just been started, before it starts threads, to the server's core."""
        if self.server is not None:
            os.sched_setaffinity(pid, {self.server})

    def unpin(self, pid: int) -> None:
        """Let a process that has just been started run on any core."""
        if self.apart:
            os.sched_setaffinity(pid, self.usable)

    def sentence(self) -> str:
        if self.apart:
            return "the server on one core, the client (and PostgreSQL) on another"
        return "NOT pinned: fewer than two cores to choose from, so server and client disturb each other"


def describe(apart: Cores) -> dict[str, object]:
    """Cores, Python and system, and never a path or a host name."""
    return {
        "cores": os.cpu_count() or 1,
        "usable_cores": len(cores()) or (os.cpu_count() or 1),
        "pinned": apart.apart,
        "placement": apart.sentence(),
        "python": platform.python_version(),
        "implementation": sys.implementation.name,
        "system": f"{platform.system()} {platform.machine()}",
    }


def raise_open_files(wanted: int = OPEN_FILES) -> int:
    """Raise RLIMIT_NOFILE to `wanted`, or as far as the system allows; answers what holds now."""
    import resource  # not on Windows

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for target in ((wanted, max(hard, wanted)), (hard, hard)):
        if soft >= wanted:
            break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, target)
        except (ValueError, OSError):
            continue
        break
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def resident_kib(pids: Sequence[int]) -> int:
    """Resident memory of the processes in KiB; 0 where the system does not show it."""
    total = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as status:
                total += next((int(line.split()[1]) for line in status if line.startswith("VmRSS:")), 0)
        except OSError:
            return 0
    return total


def cpu_seconds(pids: Sequence[int]) -> float:
    """CPU seconds of the processes so far, with the kernel's for them; 0 where the system does not show them."""
    ticks = 0
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
                # The command's name, in parentheses, may hold spaces.
                ticks += sum(map(int, stat.read().rpartition(")")[2].split()[11:13]))
        except OSError:
            return 0.0
    return ticks / os.sysconf("SC_CLK_TCK")
