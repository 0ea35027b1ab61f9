"""SIGTERM with everything in flight: the process ends well within its 20 s, and the next one finishes the work."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import websockets

from tests.services.receiver import Answer, Receiver
from tests.system.clients import Api, event_stream, eventually, socket
from tests.system.deployment import Process, deployed

HALF_A_REQUEST = (
    b"POST /graphql HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: 500\r\n\r\n{"
)
DELIVERIES = """
query ($filter: DeliveryFilter) {
  deliveries(filter: $filter) { nodes { status event { id } attempts { number outcome } } }
}
"""


@contextlib.asynccontextmanager
async def stuck(process: Process, *starts: bytes) -> AsyncIterator[None]:
    """Connections that have sent this much and then nothing more."""
    writers = []
    for start in starts:
        _, writer = await asyncio.open_connection("127.0.0.1", process.port)
        writer.write(start)
        await writer.drain()
        writers.append(writer)
    yield
    for writer in writers:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_a_process_ends_in_time_and_loses_nothing(tmp_path: Path, receiver: Receiver) -> None:
    receiver.plan(Answer(hold=True))
    async with deployed(["serve"], tmp_path) as deployment:
        account = await deployment.account()
        (process,) = deployment.processes
        async with contextlib.AsyncExitStack() as stack:
            api = await stack.enter_async_context(Api(process.url, account.key))
            client = await stack.enter_async_context(socket(process.socket_url, account.key))
            after = await api.latest_cursor()
            await client.subscribe(after=after)
            stream = await stack.enter_async_context(event_stream(api, after=after))
            silent = await stack.enter_async_context(
                websockets.connect(
                    process.socket_url,
                    subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
                    proxy=None,
                )
            )
            await stack.enter_async_context(stuck(process, HALF_A_REQUEST, b"GET /graphql HT"))
            made = await api.mutate(
                "createWebhookEndpoint", "webhookEndpoint { id }", url=receiver.url("/events")
            )
            endpoint_id = made["webhookEndpoint"]["id"]
            await api.mutate("createCustomer", "customer { id }", name="Ada", email="ada@example.com")
            (held,) = await receiver.wait_for(1)
            await client.events.wait_for(1)
            await stream.events.wait_for(1)

            # Which also fails when the process is still there after 20 s.
            assert await process.terminate() == 0
            assert await client.closed() == (1012, "The server is restarting")
            assert [event["sequence"] for event in client.events] == [2]
            await silent.wait_closed()
            assert silent.close_code == 1012
            # No `complete`: the client is to come back, and not to think that there is no more.
            await stream.ended()
            assert not stream.completed

        await asyncio.to_thread(process.start)
        again = (await receiver.wait_for(2))[1]
        assert again.headers["webhook-id"] == held.headers["webhook-id"]
        assert again.headers["voltwire-delivery-id"] == held.headers["voltwire-delivery-id"]
        assert again.body == held.body
        async with Api(process.url, account.key) as api:

            async def look() -> list[dict[str, Any]] | None:
                found = await api.data(DELIVERIES, filter={"webhookEndpointId": endpoint_id})
                nodes: list[dict[str, Any]] = found["deliveries"]["nodes"]
                return nodes if all(one["status"] == "SUCCEEDED" for one in nodes) else None

            (delivery,) = await eventually(look)
        assert delivery["event"] == {"id": held.headers["webhook-id"]}
        assert delivery["attempts"][-1]["outcome"] == "SUCCEEDED"
        assert len(receiver.requests) == 2
