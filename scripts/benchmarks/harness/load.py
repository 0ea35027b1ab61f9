"""A load client: C keep-alive connections, each with one request in flight, as fast as the server answers."""

import asyncio
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import orjson

from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.posting import Target, is_refusal, whole_response
from scripts.benchmarks.harness.report import Figure
from scripts.benchmarks.harness.run import Run, interleaved

# Few and many: servers differ in which suits them, by a factor of two and more.
CONNECTIONS = (8, 50)


@dataclass(frozen=True)
class Load:
    """The answers of a server in a stretch of time."""

    requests: int
    seconds: float
    body_bytes: int

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


class Tally:
    """Shared by the connections of one run: what has been answered, and until when to ask."""

    def __init__(self, until: float) -> None:
        self.until = until
        self.requests = 0
        self.last = 0.0
        self.open = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def fail(self, reason: str) -> None:
        if not self.over.done():
            self.over.set_exception(BenchError(reason))

    def leave(self) -> None:
        self.open -= 1
        if not self.open and not self.over.done():
            self.over.set_result(None)


class Asker(asyncio.Protocol):
    """A connection that asks again as soon as it is answered, and checks status and length."""

    def __init__(self, tally: Tally, next_request: Callable[[], bytes], answer_size: int) -> None:
        self.tally = tally
        self.next_request = next_request
        self.answer_size = answer_size
        self.buffer = b""
        self.left = False
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by inheritance
        self.tally.open += 1

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.left:
            self.tally.fail(f"the server closed a connection under load ({exc or 'no reason given'})")

    def ask(self) -> None:
        self.transport.write(self.next_request())

    def data_received(self, data: bytes) -> None:
        self.buffer = self.buffer + data if self.buffer else data
        answer = whole_response(self.buffer)
        if answer is None:
            return
        self.buffer = b""
        body_size = len(answer) - answer.index(b"\r\n\r\n") - 4
        if not answer.startswith(b"HTTP/1.1 200") or body_size != self.answer_size:
            self.tally.fail(f"an answer differs from the first one: {answer[:300].decode(errors='replace')}")
        self.tally.requests += 1
        self.tally.last = time.perf_counter()
        if self.tally.last < self.tally.until:
            self.ask()
        else:
            self.left = True
            self.transport.close()
            self.tally.leave()


async def first_answer(target: Target, request: bytes) -> bytes:
    """The body of one answer, asked alone. Chunked bodies come with their chunk marks."""
    reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
    writer.write(request)
    buffer = b""
    while whole_response(buffer) is None:
        more = await asyncio.wait_for(reader.read(1 << 20), 60)
        if not more:
            raise BenchError("the server closed the connection before its first answer")
        buffer += more
    writer.close()
    head, _, body = buffer.partition(b"\r\n\r\n")
    if is_refusal(buffer):
        raise BenchError(f"the request failed: {(body or head)[:200].decode(errors='replace')}")
    return body


def request_of(target: Target, body: bytes) -> bytes:
    return (
        f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1:{target.port}\r\nContent-Type: application/json\r\n"
        f"Accept: application/json\r\n{target.header_lines()}Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


async def load(target: Target, body: bytes, seconds: float, concurrency: int) -> Load:
    """Ask the same for `seconds` on `concurrency` connections. Raises BenchError when answers differ in length."""
    request = request_of(target, body)
    return await load_each(target, lambda: request, seconds, concurrency)


async def load_each(
    target: Target, next_request: Callable[[], bytes], seconds: float, concurrency: int
) -> Load:
    """The same with requests that differ, and whose answers are equally long."""
    answer = await first_answer(target, next_request())
    loop = asyncio.get_running_loop()
    tally = Tally(until=float("inf"))
    askers: list[Asker] = []
    for _ in range(concurrency):
        _, asker = await loop.create_connection(
            lambda: Asker(tally, next_request, len(answer)), "127.0.0.1", target.port
        )
        askers.append(asker)
    gc.collect()
    gc.disable()
    try:
        started = time.perf_counter()
        tally.until = started + seconds
        for asker in askers:
            asker.ask()
        await asyncio.wait_for(tally.over, seconds + 60)
    except TimeoutError:
        raise BenchError("answers stopped coming under load") from None
    finally:
        gc.enable()
        for asker in askers:
            asker.left = True
            asker.transport.close()
    return Load(tally.requests, tally.last - started, len(answer))


async def side_by_side(
    run: Run,
    database: str,
    ours: Target,
    our_query: str,
    beside: str,
    theirs: Target,
    their_query: str,
    *,
    what: str = "requests a second",
    counts: Sequence[int] = CONNECTIONS,
) -> None:
    """Figures of the benchmark "reads": requests a second of both servers, in interleaved rounds."""
    for connections in counts:

        async def once(target: Target, query: str, connections: int = connections) -> Load:
            return await load(target, orjson.dumps({"query": query}), run.sizes.load_seconds, connections)

        rounds = await interleaved(
            run.sizes.rounds, lambda: once(ours, our_query), lambda: once(theirs, their_query)
        )
        values = [[one.per_second for one in side] for side in rounds]
        note = "answers of " + " and ".join(f"{side[0].body_bytes:,} bytes" for side in rounds)
        name = f"{what}, {database}, {connections} connections"
        run.report.add(Figure("reads", name, "", "higher", values[0], beside, values[1], note))
