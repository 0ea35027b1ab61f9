"""Signed POSTs the idiomatic way: the stock httpx client, a coroutine per concurrent request, nothing recorded.

`python -m scripts.benchmarks.baselines.httpx_posts URL COUNT CONCURRENCY BODY_BYTES` prints the seconds that took and
those that it computed.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import secrets
import sys
import time

import httpx

SECRET = secrets.token_bytes(32)


def sign(message_id: str, timestamp: int, body: bytes) -> str:
    digest = hmac.new(SECRET, f"{message_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def body_of(number: int, size: int) -> bytes:
    data = {
        "type": "meter_data.received",
        "id": f"evt_{secrets.token_hex(13)}",
        "sequence": number,
        "data": {"pad": ""},
    }
    data["data"] = {"pad": "x" * max(0, size - len(json.dumps(data)))}
    return json.dumps(data).encode()


async def post_all(url: str, count: int, concurrency: int, size: int) -> tuple[float, float]:
    numbers = iter(range(count))

    async def work(client: httpx.AsyncClient) -> None:
        for number in numbers:
            body, timestamp = body_of(number, size), int(time.time())
            message_id = f"evt_{secrets.token_hex(13)}"
            response = await client.post(
                url,
                content=body,
                headers={
                    "content-type": "application/json",
                    "webhook-id": message_id,
                    "webhook-timestamp": str(timestamp),
                    "webhook-signature": sign(message_id, timestamp, body),
                },
            )
            response.raise_for_status()

    async with httpx.AsyncClient() as client:
        started, computed = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work(client) for _ in range(concurrency)))
        return time.perf_counter() - started, time.process_time() - computed


def main() -> None:
    url, count, concurrency, size = sys.argv[1], *map(int, sys.argv[2:5])
    print(*asyncio.run(post_all(url, count, concurrency, size)))


if __name__ == "__main__":
    main()
