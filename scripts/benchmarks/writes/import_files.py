"""Files of readings for the import, and one import of them."""

import asyncio
import time
from collections.abc import Iterable, Iterator
from datetime import date, timedelta

from scripts.benchmarks.harness.api import Api, half_hour
from scripts.benchmarks.harness.machine import BenchError, resident_kib
from scripts.benchmarks.harness.servers import Voltwire

SLOTS = 48
LABELS = ",".join(f"{at // 2:02}:{at % 2 * 30:02}" for at in range(SLOTS))


async def imported(
    api: Api, product: Voltwire, content: bytes, query: str, expected: int
) -> tuple[float, float]:
    """Half-hours a second of one import, and the most memory of the server meanwhile."""
    pids, most = [one.pid for one in product.servers], 0.0
    started = time.perf_counter()
    sent = await api.client.post(
        f"/imports?{query}", content=content, headers={"content-type": "text/csv"}, timeout=600
    )
    if sent.status_code != 202:
        raise BenchError(f"POST /imports answered {sent.status_code}: {sent.text[:500]}")
    while True:
        report = (await api.client.get(sent.headers["location"])).json()
        most = max(most, resident_kib(pids))
        if report["status"] != "RUNNING":
            break
        await asyncio.sleep(0.2)
    seconds = time.perf_counter() - started
    if report["readingsChanged"] != expected:
        raise BenchError(f"the import ended so: {report}")
    return expected / seconds, most


def wide(meters: list[str], half_hours: int, first_day: int = 0) -> Iterator[str]:
    """A row per day, the days of each meter together; `first_day` counts from 2022-01-01."""
    yield f"meter_id,date,{LABELS}"
    days = half_hours // SLOTS // len(meters)
    for number, meter in enumerate(meters):
        for day in range(first_day, first_day + days):
            at = date(2022, 1, 1) + timedelta(days=day)
            values = ",".join([f"0.{(number * 7 + day * 13 + slot * 31) % 1000:03}" for slot in range(SLOTS)])
            yield f"{meter},{at:%d/%m/%Y},{values}"


def rows(meters: list[str], half_hours: int, first: int = 0) -> Iterator[str]:
    """A row per half-hour, the half-hours of each meter together; `first` counts half-hours from 2001."""
    yield "meter_id,start_at,consumption"
    each = half_hours // len(meters)
    for number, meter in enumerate(meters):
        for at in range(first, first + each):
            yield f"{meter},{half_hour(at)},0.{(number * 7 + at * 31) % 1000:03}"


def content_of(lines: Iterable[str]) -> bytes:
    return "\n".join(lines).encode() + b"\n"
