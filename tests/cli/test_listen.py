"""`voltwire listen`, against real servers that come and go."""

import asyncio
import contextlib
import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from app.cli.client import Address, Api, ClientError
from app.cli.features import whole_catalogue
from app.cli.listen import as_line, facts
from app.cli.stream import ResumingStream, StreamEvent, chosen_types
from tests.operators import fresh_key, run, start
from tests.services.forked import Piped
from tests.services.patience import PATIENCE
from tests.services.receiver import Receiver
from tests.system.deployment import Deployment, deployed

NAMES = [event.type for event in whole_catalogue()]


@pytest.fixture(scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Deployment]:
    async with deployed(["serve"], tmp_path_factory.mktemp("listen")) as running:
        yield running


@pytest.fixture
async def api(served: Deployment) -> AsyncIterator[Api]:
    """A client with the key of a new account."""
    async with Api(Address.parse(served.apis[0].url), await fresh_key(served)) as client:
        yield client


async def add_customers(api: Api, *names: str) -> None:
    for name in names:
        await api.change("createCustomer", "customer { id }", name=name, email=f"{name}@example.com")


@contextlib.asynccontextmanager
async def listening(served: Deployment, api: Api, *arguments: str) -> AsyncIterator[Piped]:
    """`voltwire listen` that is connected; it is ended with the block."""
    process = await start(served, "listen", "--url", served.apis[0].url, *arguments, key=api.key)
    try:
        async for line in process.stderr:
            if line.startswith(b"Listening at"):
                break
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def lines(process: Piped, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE):
        return [(await process.stdout.readline()).decode().rstrip("\n") for _ in range(count)]


async def test_a_server_that_is_killed_and_comes_back_leaves_no_gap_and_no_repeat(tmp_path: Path) -> None:
    async with (
        deployed(["serve"], tmp_path) as served,
        Api(Address.parse(served.apis[0].url), await fresh_key(served)) as api,
    ):
        async with listening(served, api, "--json") as process:
            await add_customers(api, "a", "b")
            events = await lines(process, 2)
            served.apis[0].kill()
            await asyncio.to_thread(served.apis[0].start)
            await add_customers(api, "c", "d", "e")
            events += await lines(process, 3)
            # In order this time: the server tells its sockets before it goes.
            await served.apis[0].terminate()
            await asyncio.to_thread(served.apis[0].start)
            await add_customers(api, "f")
            events += await lines(process, 1)
            shown = [json.loads(one) for one in events]
            assert [one["sequence"] for one in shown] == [2, 3, 4, 5, 6, 7]
            assert [one["data"]["name"] for one in shown] == ["a", "b", "c", "d", "e", "f"]
            process.send_signal(signal.SIGINT)
            async with asyncio.timeout(PATIENCE):
                rest, told = await process.communicate()
            assert (process.returncode, rest) == (130, b"")
            assert told.decode().endswith(f"To go on from here: --after {shown[-1]['cursor']}\n")
            assert told.count(b"Connection lost") >= 2
        async with listening(served, api, "--json", "--after", shown[2]["cursor"]) as process:
            assert [json.loads(one)["sequence"] for one in await lines(process, 3)] == [5, 6, 7]


async def test_only_the_wanted_types_are_shown_each_on_one_line(served: Deployment, api: Api) -> None:
    async with listening(served, api, "--types", "user.*,meter.*") as process:
        await add_customers(api, "unwanted")
        await api.change("createUser", "user { id }", name="Robin\nExample", email="robin@example.com")
        (line,) = await lines(process, 1)
        assert line[8:] == f"  {'user.created':<24}{'#3':>7}  Robin Example, robin@example.com"


async def test_forwarded_events_are_signed_as_webhooks(
    served: Deployment, api: Api, receiver: Receiver
) -> None:
    secret = "whsec_" + "A" * 43 + "="
    receiver.plan(500)
    async with listening(
        served, api, "--json", "--forward-to", receiver.url("/hooks"), "--secret", secret
    ) as process:
        await add_customers(api, "a", "b")
        events = [json.loads(one) for one in await lines(process, 2)]
        first, second = await receiver.wait_for(2)
        assert "HTTP 500 in" in (await process.stderr.readline()).decode()
    for event, request in ((events[0], first), (events[1], second)):
        Webhook(secret).verify(request.body, request.headers)
        assert request.headers["webhook-id"] == event["id"]
        assert request.headers["voltwire-attempt"] == "1"
        assert request.json() == {
            "type": "customer.created",
            "timestamp": event["occurredAt"],
            "id": event["id"],
            "sequence": event["sequence"],
            "data": event["data"],
        }


async def test_a_consumer_that_is_not_there_does_not_end_it(
    served: Deployment, api: Api, receiver: Receiver
) -> None:
    receiver.stop()
    async with listening(served, api, "--json", "--forward-to", receiver.url("/hooks")) as process:
        await add_customers(api, "a", "b")
        assert [json.loads(one)["sequence"] for one in await lines(process, 2)] == [2, 3]
        assert ": failed, " in (await process.stderr.readline()).decode()


async def test_the_secret_that_is_made_up_is_printed(
    served: Deployment, api: Api, receiver: Receiver
) -> None:
    process = await start(
        served, "listen", "--url", served.apis[0].url, "--forward-to", receiver.url("/hooks"), key=api.key
    )
    try:
        line = (await process.stderr.readline()).decode()
    finally:
        process.kill()
        await process.communicate()
    assert line.startswith(f"Forwarding to {receiver.url('/hooks')}, signed with whsec_")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--key", "vw_live_wrong"], "The server refuses this key: give a live one with --key or VOLTWIRE_API_KEY."),
        (["--key", "schlüssel"], "The server refuses this key: give a live one with --key or VOLTWIRE_API_KEY."),
        ([], "Give an API key with --key or in VOLTWIRE_API_KEY."),
        (
            ["--key", "x", "--types", "meter.made"],
            f'There is no event "meter.made": there are {", ".join(NAMES)}, and wildcards such as "meter.*".',
        ),
        (
            ["--key", "x", "--types", "meter.created,METER_CREATED"],
            'There is no event "METER_CREATED": write meter.created.',
        ),
        (["--key", "x", "--forward-to", "hooks"],
         "hooks cannot be forwarded to: write it as http://127.0.0.1:3000/webhooks."),
        (["--key", "x", "--forward-to", "http://localhost:1", "--secret", "mine"],
         "A signing secret starts with whsec_."),
    ],
)  # fmt: skip
async def test_what_is_wrong_is_said_in_one_sentence(
    served: Deployment, arguments: list[str], sentence: str
) -> None:
    code, output, errors = await run(served, "listen", "--url", served.apis[0].url, *arguments)
    assert (code, output, errors) == (1, "", f"{sentence}\n")


async def test_a_server_that_is_not_there_is_told(served: Deployment, receiver: Receiver) -> None:
    receiver.stop()
    code, _, errors = await run(served, "listen", "--url", receiver.url(""), key="vw_live_any")
    assert code == 1
    assert errors.startswith(f"Nothing answers at {receiver.url('')} (")
    assert errors.endswith("start the server with ./scripts/serve, or say where it is with --url.\n")


async def test_another_server_is_told(receiver: Receiver) -> None:
    async with Api(Address.parse(receiver.url()), "vw_live_any") as api:
        with pytest.raises(ClientError, match=r"is not Voltwire \(HTTP 204\)"):
            await api.latest_cursor()


async def test_a_cursor_of_another_account_ends_it(served: Deployment, api: Api) -> None:
    async with Api(api.address, await fresh_key(served)) as other:
        stream = ResumingStream(api, after=await other.latest_cursor())
    with pytest.raises(ClientError, match="cursor"):
        await anext(stream.events())


async def test_a_key_that_is_revoked_meanwhile_ends_it(served: Deployment, api: Api) -> None:
    made = await api.change("createApiKey", "apiKey { id } secret", name="Short-lived", scopes=["READ"])
    served.secrets.append(made["secret"])
    connected = asyncio.Event()
    async with Api(api.address, made["secret"]) as reader:
        stream = ResumingStream(reader, notice=lambda _: connected.set())
        waiting = asyncio.ensure_future(anext(stream.events()))
        await connected.wait()
        await api.change("revokeApiKey", "apiKey { id }", apiKeyId=made["apiKey"]["id"])
        with pytest.raises(ClientError, match="refuses this key"):
            await waiting


@pytest.mark.parametrize(
    ("given", "base"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        (" https://events.example.com/graphql/ ", "https://events.example.com"),
        ("wss://events.example.com/voltwire/graphql", "https://events.example.com/voltwire"),
        ("http://[::1]:8000/", "http://[::1]:8000"),
    ],
)
def test_addresses_are_taken_as_people_write_them(given: str, base: str) -> None:
    assert Address.parse(given).base == base


def test_an_address_has_its_socket_beside_it() -> None:
    assert Address.parse("https://events.example.com").socket == "wss://events.example.com/graphql"


@pytest.mark.parametrize(
    "given",
    ["", "ftp://example.com", "http://", "http://me:secret@example.com", "http://example.com?a=b", "http://[::1",
     "http://example.com:port", "http://example.com:0"],
)  # fmt: skip
def test_what_is_no_address_is_told(given: str) -> None:
    with pytest.raises(ClientError, match="is not an address"):
        Address.parse(given)


def test_types_are_names_and_wildcards() -> None:
    assert chosen_types(None) is None
    assert chosen_types("hosted_consent.*, user.created") == [
        "USER_CREATED",
        "HOSTED_CONSENT_APPROVED",
        "HOSTED_CONSENT_REVOKED",
        "HOSTED_CONSENT_DECLINED",
        "HOSTED_CONSENT_EXPIRED",
    ]
    with pytest.raises(ClientError, match='There is no event ""'):
        chosen_types("")


@pytest.mark.parametrize(
    ("name", "data", "text"),
    [
        ("meter.created", {"type": "GAS", "number": "123456", "customer": {"name": "Ann\x1b[31m"}},
         "gas 123456 of Ann [31m"),
        ("hosted_consent.revoked", {"revocationReason": None, "meterNumbers": []},
         "no reason given, for 0 meters"),
        ("hosted_consent.approved",
         {"consenteeFullName": None, "meterNumbers": ["1", "2"], "expiry": "2027-11-24"},
         "by a document, for 2 meters, until 2027-11-24"),
        ("hosted_consent.declined", {"customerId": "cus_1", "expiry": "2027-11-24"},
         "by cus_1, asked for until 2027-11-24"),
        ("hosted_consent.expired", {"expiry": "2027-11-24", "meterNumbers": ["1"]},
         "after 2027-11-24, for meter 1"),
        ("backfill.completed", {"meterId": "mtr_1", "readingsChanged": 19010, "missing": 48},
         "19010 half-hours of mtr_1, 48 missing"),
        ("feed.attention_needed", {"feedId": "fed_1", "attention": "Send valid credentials."},
         "fed_1: Send valid credentials."),
        ("webhook_endpoint.disabled", {"webhookEndpointId": "whe_1", "reason": "The receiver answered 410."},
         "whe_1: The receiver answered 410."),
        ("api_keys.rotated", {"previousPrefix": "vw_live_a", "prefix": "vw_live_b"},
         "vw_live_a… is now vw_live_b…"),
        ("meter_data.received",
         {"meterId": "mtr_1", "from": "2026-11-23T00:00:00.000Z", "to": "2026-11-24T00:00:00.000Z",
          "intervalCount": 48},
         "48 half-hours of mtr_1, 2026-11-23 00:00 to 2026-11-24 00:00 UTC"),
        ("meter_data.overdue", {"meterId": "mtr_1", "channel": "EXPORT", "latestAt": "2026-11-23T23:30:00.000Z"},
         "export of mtr_1, none after 2026-11-23T23:30:00.000Z"),
        ("later.added", {"a": 1}, '{"a": 1}'),
    ],
)  # fmt: skip
def test_facts_are_short_and_harmless(name: str, data: dict[str, Any], text: str) -> None:
    assert facts(name, data) == text


def test_a_viewer_bound_to_one_customer_sees_no_number() -> None:
    event = StreamEvent(
        "evt_1", "customer.created", None, "c", datetime.now(UTC), {"name": "Ann", "email": "a@b.example"}
    )
    assert "#" not in as_line(event)
