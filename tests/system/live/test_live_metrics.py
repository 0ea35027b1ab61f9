"""Prometheus metrics of a process's live streams, number by number."""

import contextlib
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.system.clients import Api, event_stream, eventually, socket
from tests.system.deployment import deployed

NAMES = "subscription ($after: String) { events(after: $after) { sequence name } }"


async def told(api: Api) -> dict[str, float]:
    """The process's numbers of `voltwire_live_…` and the like; those with a label have it in their name."""
    text = (await api.http.get("/metrics")).text
    return {
        "".join(
            [sample.name.removeprefix("voltwire_"), *(f" {value}" for value in sample.labels.values())]
        ): (sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith(("_bucket", "_sum", "_created"))
    }


async def test_sockets_subscriptions_events_frames_and_closes_are_counted(tmp_path: Path) -> None:
    async with deployed(["api"], tmp_path) as deployment, contextlib.AsyncExitStack() as stack:
        (process,) = deployment.processes
        account = await deployment.account()
        api = await stack.enter_async_context(Api(process.url, account.key))
        start = await api.latest_cursor()

        async def shows(**expected: float) -> bool:
            return expected.items() <= (await told(api)).items()

        idle = await told(api)
        live = {
            name: idle[name]
            for name in idle
            if name.startswith(("live_", "streams", "subscription", "socket_", "broadcaster_"))
        }
        assert live == {
            "streams websocket": 0,
            "streams sse": 0,
            "subscriptions": 0,
            "subscription_groups": 0,
            "live_events_total": 0,
            "live_executions_total": 0,
            "live_deliveries_total": 0,
            "live_catch_ups_total": 0,
            "live_pages_total": 0,
            "live_lag_seconds_count": 0,
            "broadcaster_up": 1,
        }

        # Three sockets with five equal subscriptions and one other, a stream with one more, a socket with none.
        clients = [await stack.enter_async_context(socket(process.socket_url, account.key)) for _ in range(3)]
        for client in clients:
            await client.subscribe("1")
        await clients[0].subscribe("2")
        await clients[1].subscribe("2")
        await clients[2].subscribe("2", NAMES)
        stream = await stack.enter_async_context(event_stream(api))
        silent = await stack.enter_async_context(socket(process.socket_url, account.key))
        open_now = {"streams websocket": 4, "streams sse": 1, "subscriptions": 7, "subscription_groups": 2}
        await eventually(lambda: shows(**open_now))

        for number in range(4):
            await api.mutate(
                "createCustomer", "customer { id }", name="Ada", email=f"ada{number}@example.com"
            )
        for client in clients:
            await client.events.wait_for(8)
        await stream.events.wait_for(4)
        happened = {
            "live_events_total": 4,
            "live_executions_total": 8,
            "live_deliveries_total": 28,
            "live_catch_ups_total": 0,
            "live_pages_total": 0,
            "live_lag_seconds_count": 4,
        }
        await eventually(lambda: shows(**open_now, **happened))

        # One that resumes reads a page of the log, once for itself.
        await silent.subscribe("late", NAMES, after=start)
        await silent.events.wait_for(4)
        resumed = {
            "subscriptions": 8,
            "live_events_total": 4,
            "live_executions_total": 12,
            "live_deliveries_total": 32,
            "live_catch_ups_total": 1,
            "live_pages_total": 1,
            "live_lag_seconds_count": 4,
        }
        await eventually(lambda: shows(**resumed))

        # Closes are counted by their codes, and those by the clients together, whatever theirs are.
        await clients[0].say(type="connection_init")
        assert (await clients[0].closed())[0] == 4429
        await clients[1].say(type="nonsense")
        assert (await clients[1].closed())[0] == 4400
        clients[2].abort()
        for code in (1000, 1013, 4403):
            async with socket(process.socket_url, account.key) as other:
                await other.close(code)
        await eventually(
            lambda: shows(
                **{
                    "streams websocket": 1,
                    "streams sse": 1,
                    "subscriptions": 2,
                    "subscription_groups": 2,
                    "socket_closes_total 4429": 1,
                    "socket_closes_total 4400": 1,
                    "socket_closes_total peer": 4,
                }
            )
        )
