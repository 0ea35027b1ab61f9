"""`voltwire listen`: an account's events in the terminal, and on to a local URL while a consumer is developed."""

import json
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx
import orjson

from app import __version__
from app.cli.client import Address, Api, ClientError
from app.cli.stream import ResumingStream, StreamEvent, chosen_types
from app.core import clock
from app.core.ids import new_id
from app.delivery.destinations.webhook import signing

FORWARD_WITHIN: Final = 15.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class ListenOptions:
    """The options of the command; `types` is a comma list, `secret` a `whsec_…` to forward with."""

    types: str | None = None
    after: str | None = None
    as_json: bool = False
    forward_to: str | None = None
    secret: str | None = None


async def listen(address: Address, key: str | None, options: ListenOptions, *, out: Say, notice: Say) -> None:
    """Print events until cancelled: `out` gets one line for each, `notice` everything else.

    Raises ClientError. However it ends, it says after which cursor to go on.
    """
    types = chosen_types(options.types)
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(address, key))
        forwarder = None
        if options.forward_to is not None:
            forwarder = await stack.enter_async_context(Forwarder(options.forward_to, options.secret))
        stream = ResumingStream(api, after=options.after, types=types, notice=notice)
        await stream.begin()
        if forwarder is not None:
            notice(f"Forwarding to {forwarder.url}, signed with {forwarder.secret}")
        show = as_json if options.as_json else as_line
        try:
            async for event in stream.events():
                out(show(event))
                if forwarder is not None:
                    notice(f"  forwarded {event.id}: {await forwarder.forward(event)}")
        finally:
            notice(f"To go on from here: --after {stream.cursor}")


class Forwarder:
    """POSTs events, signed by Standard Webhooks, one after the other. It never tries again: it is for development."""

    def __init__(self, url: str, secret: str | None = None) -> None:
        """Raises ClientError for an unusable URL or signing secret."""
        try:
            parts = urlsplit(url)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ClientError(f"{url} cannot be forwarded to: write it as http://127.0.0.1:3000/webhooks.")
        try:
            self.secret = secret or signing.new_secret()
            signing.decode_secret(self.secret)
        except signing.SecretError as error:
            raise ClientError(str(error)) from None
        self.url = url
        local = Address(f"{parts.scheme}://{parts.netloc}").is_local
        self._http = httpx.AsyncClient(timeout=FORWARD_WITHIN, trust_env=not local)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def forward(self, event: StreamEvent) -> str:
        """Send one event; returns a few words about the answer."""
        body = webhook_body(event)
        timestamp = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": f"Voltwire/{__version__}",
            "webhook-id": event.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signing.sign([self.secret], event.id, timestamp, body),
            "voltwire-delivery-id": new_id("dlv"),
            "voltwire-attempt": "1",
        }
        began = time.perf_counter()
        try:
            response = await self._http.post(self.url, content=body, headers=headers)
        except httpx.TimeoutException:
            return f"no answer within {FORWARD_WITHIN:.0f} s"
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            return f"failed, {str(error) or type(error).__name__}"
        return f"HTTP {response.status_code} in {(time.perf_counter() - began) * 1000:.0f} ms"


def webhook_body(event: StreamEvent) -> bytes:
    """The body of a webhook without a selection."""
    at = clock.format_utc(event.occurred_at)
    return orjson.dumps(
        {"type": event.name, "timestamp": at, "id": event.id, "sequence": event.sequence, "data": event.data}
    )


def as_json(event: StreamEvent) -> str:
    """The event on one line of JSON, with the cursor that --after takes."""
    content = {
        "id": event.id,
        "name": event.name,
        "sequence": event.sequence,
        "cursor": event.cursor,
        "occurredAt": clock.format_utc(event.occurred_at),
        "data": event.data,
    }
    return json.dumps(content, ensure_ascii=False)


def as_line(event: StreamEvent) -> str:
    """The event for people: its time, name and number, and the facts in short."""
    number = "" if event.sequence is None else f"#{event.sequence}"
    return f"{event.occurred_at.astimezone():%H:%M:%S}  {event.name:<24}{number:>7}  {facts(event.name, event.data)}"


def facts(name: str, data: dict[str, Any]) -> str:
    """The data of an event in a few words on one line; as JSON for an event without words of its own here."""
    match name:
        case "meter_data.received":
            text = f"{data['intervalCount']} half-hours of {data['meterId']}, {_period(data['from'], data['to'])}"
        case "meter_data.overdue":
            text = f"{data['channel'].lower()} of {data['meterId']}, none after {data['latestAt'] or 'its beginning'}"
        case "meter.created":
            text = f"{data['type'].lower()} {data['number']} of {data['customer']['name']}"
        case "customer.created" | "user.created":
            text = f"{data['name']}, {data['email']}"
        case "hosted_consent.approved":
            text = (
                f"by {data['consenteeFullName'] or 'a document'}, for {_meters(data)}, until {data['expiry']}"
            )
        case "hosted_consent.revoked":
            text = f"{data['revocationReason'] or 'no reason given'}, for {_meters(data)}"
        case "hosted_consent.declined":
            text = f"by {data['customerId']}, asked for until {data['expiry']}"
        case "hosted_consent.expired":
            text = f"after {data['expiry']}, for {_meters(data)}"
        case "backfill.completed":
            text = f"{data['readingsChanged']} half-hours of {data['meterId']}, {data['missing']} missing"
        case "feed.attention_needed":
            text = f"{data['feedId']}: {data['attention']}"
        case "webhook_endpoint.disabled":
            text = f"{data['webhookEndpointId']}: {data['reason']}"
        case "api_keys.rotated":
            text = f"{data['previousPrefix']}… is now {data['prefix']}…"
        case _:
            text = json.dumps(data, ensure_ascii=False)
    # A name must not move the cursor or colour the reader's terminal.
    return "".join(one if one.isprintable() else " " for one in text)


def _meters(data: dict[str, Any]) -> str:
    numbers = data["meterNumbers"]
    return f"meter {numbers[0]}" if len(numbers) == 1 else f"{len(numbers)} meters"


def _period(start: str, end: str) -> str:
    return f"{start[:16].replace('T', ' ')} to {end[:16].replace('T', ' ')} UTC"
