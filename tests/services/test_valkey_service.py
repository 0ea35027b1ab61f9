"""The tests' Valkey: publishes, stores, comes back on the same port."""

import psutil
import pytest
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.services.patience import PATIENCE
from tests.services.valkey import Valkey

pytestmark = pytest.mark.long


async def test_publish_reaches_a_subscriber(valkey: Valkey):
    async with Redis.from_url(valkey.url) as client, client.pubsub() as listener:
        await listener.subscribe("bell")
        assert (await listener.get_message(timeout=PATIENCE))["type"] == "subscribe"
        assert await client.publish("bell", b"42") == 1
        assert (await listener.get_message(timeout=PATIENCE))["data"] == b"42"


async def test_stop_kill_and_start_on_the_same_port():
    server = Valkey()
    try:
        server.start()
        url = server.url
        async with Redis.from_url(url) as client:
            await client.set("k", "v")
        for end in (server.stop, server.kill):
            pid = server.pid
            end()
            assert not psutil.pid_exists(pid)
            async with Redis.from_url(url, retry=None) as client:
                with pytest.raises(RedisConnectionError):
                    await client.ping()
            server.start()
            assert server.url == url
            async with Redis.from_url(url) as client:
                assert await client.get("k") is None
        pid = server.pid
    finally:
        server.close()
    assert not psutil.pid_exists(pid)
    assert not server.folder.exists()
