"""The README's commands and examples, tried to the letter."""

import asyncio
import contextlib
import json
import os
import re
import sqlite3
from asyncio.subprocess import PIPE
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
import websockets
from playwright.async_api import Page

from app.events.catalogue import catalogue
from tests.operators import fresh_key
from tests.services.postgres import find_bin
from tests.services.receiver import Receiver
from tests.system.clients import Api
from tests.system.deployment import Deployment
from tests.system.node import node_script
from tests.system.readme.newcomer import Newcomer
from tests.system.readme.text import BLOCKS, README, commands, script

METER = "2499999999991"


async def test_first_steps(first: Newcomer, tmp_path: Path) -> None:
    """Each builds on those before it."""
    await first_query(first)
    await first_meter_and_readings(first, tmp_path)
    await importing_files(first, tmp_path)


async def first_query(newcomer: Newcomer) -> None:
    made = await newcomer.answer(newcomer.command("First query", 0))
    assert made["createCustomer"]["customer"]["name"] == "Ann Example"
    assert made["createCustomer"]["userErrors"] == []
    listed = await newcomer.answer(newcomer.command("First query", 1))
    assert [(event["sequence"], event["name"]) for event in listed["events"]["nodes"]] == [
        (1, "user.created"),
        (2, "customer.created"),
    ]


async def first_meter_and_readings(newcomer: Newcomer, tmp_path: Path) -> None:
    heading = "First meter and readings"
    assert len(commands(heading)) == 8
    async with Api(newcomer.url, newcomer.key) as api:
        found = await api.data('{ customers(filter: {emails: ["ann@example.test"]}) { nodes { id } } }')
    (customer,) = [one["id"] for one in found["customers"]["nodes"]]
    assert newcomer.command(heading, 0).startswith("export CUSTOMER=cus_… ")
    asked = await newcomer.answer(newcomer.command(heading, 1), CUSTOMER=customer)
    consent = asked["createHostedConsent"]["hostedConsent"]
    newcomer.deployment.secrets.append(consent["link"].rpartition("/")[2])
    assert consent["status"] == "PENDING"
    assert newcomer.command(heading, 2).startswith("export CONSENT=hc_… ")
    letter = str(tmp_path / "letter.pdf")
    written = await asyncio.create_subprocess_shell(newcomer.command(heading, 3, **{"letter.pdf": letter}))
    assert await written.wait() == 0
    upload = newcomer.command(heading, 4, **{"letter.pdf": letter})
    kept = await newcomer.output(upload, CONSENT=consent["id"])
    assert (kept["hostedConsentId"], kept["contentType"]) == (consent["id"], "application/pdf")
    made = await newcomer.answer(newcomer.command(heading, 5), CUSTOMER=customer)
    assert made["createMeter"]["meter"]["status"] == "ACTIVE"
    recorded = await newcomer.output(newcomer.command(heading, 6))
    assert recorded == {"accepted": 3, "changed": 3, "meters": 1}
    charted = await newcomer.answer(newcomer.command(heading, 7))
    (meter,) = charted["meters"]["nodes"]
    assert (meter["number"], meter["customer"]) == ("9999999999999", {"name": "Ann Example"})
    data = meter["intervalData"]
    assert (data["unit"], data["total"], data["missingCount"]) == ("KWH", "0.566", 93)
    assert [(one["consumption"], one["missingCount"]) for one in data["intervals"]] == [
        ("0.352", 46),
        ("0.214", 47),
    ]


async def importing_files(newcomer: Newcomer, tmp_path: Path) -> None:
    heading = "Importing files"
    assert len(commands(heading)) == 4
    file = {"november.csv": str(tmp_path / "november.csv")}
    written = await asyncio.create_subprocess_shell(newcomer.command(heading, 0, **file))
    assert await written.wait() == 0
    for number, status, changed in ((1, "PREVIEW", 0), (2, "COMPLETED", 1)):
        command = f"{newcomer.command(heading, number, **file)} --url {newcomer.url}"
        async with newcomer.running(command) as process:
            output, _ = await process.communicate()
        assert process.returncode == 0, output
        assert [status, "1", "1", str(changed), "0"] == output.decode().splitlines()[1].split()[2:]
    command = newcomer.command(heading, 3).replace("@november.csv", f"@{tmp_path / 'november.csv'}")
    assert list(await newcomer.output(command)) == ["fileImportId"]


async def make_meter(newcomer: Newcomer, email: str) -> dict[str, Any]:
    async with Api(newcomer.url, newcomer.key) as api:
        customer = await api.mutate("createCustomer", "customer { id }", name="Bea", email=email)
        made = await api.mutate(
            "createMeter", "meter { id }", customerId=customer["customer"]["id"], number=METER
        )
    meter: dict[str, Any] = made["meter"]
    return meter


async def test_first_subscription(newcomer: Newcomer) -> None:
    async with newcomer.running(newcomer.command("First subscription", 0)) as curl:
        assert curl.stdout is not None
        # The first line says that the stream has begun.
        assert await curl.stdout.readline() == b":\n"
        await make_meter(newcomer, "bea@example.test")
        events: list[dict[str, Any]] = []
        while len(events) < 2:
            line = (await curl.stdout.readline()).decode()
            if line.startswith("data: {"):
                events.append(json.loads(line.removeprefix("data: "))["data"]["events"])
    assert [event["name"] for event in events] == ["customer.created", "meter.created"]
    assert events[1]["meter"] == {"number": METER}
    assert events[1]["cursor"]


async def test_first_subscription_in_a_browser(newcomer: Newcomer, tmp_path: Path) -> None:
    program = script("First subscription", 0)
    seen = "variables.after = data.events.cursor;"
    assert program.count(seen) == 1
    program = (
        program.replace(seen, f"{seen} console.log(data.events.sequence);")
        .replace("ws://127.0.0.1:8000", newcomer.deployment.apis[0].socket_url.removesuffix("/graphql"))
        .replace("await lastCursor()", "process.argv[3]")
        .replace("await freshToken()", "process.argv[2]")
    )
    async with Api(newcomer.url, newcomer.key) as api:
        made = await api.mutate("createStreamToken", "token")
        after, last = await api.latest_cursor(), await api.last_sequence()
        newcomer.deployment.secrets.append(made["token"])
        async with node_script(program, tmp_path, made["token"], after) as node:
            await api.mutate("createCustomer", "customer { id }", name="Cy", email="cy@example.test")
            assert node.stdout is not None
            assert int(await node.stdout.readline()) == last + 1


async def test_first_subscription_with_a_browsers_own_event_source(newcomer: Newcomer, page: Page) -> None:
    async with Api(newcomer.url, newcomer.key) as api:
        made = await api.mutate("createStreamToken", "token")
        newcomer.deployment.secrets.append(made["token"])
        last, after = await api.last_sequence(), await api.latest_cursor()
        await api.mutate("createCustomer", "customer { id }", name="Di", email="di@example.test")
        await page.goto(newcomer.url)
        shown = await page.evaluate(
            f"([query, token]) => new Promise((show) => {{ {script('First subscription', 1)} }})",
            [f'subscription {{ events(after: "{after}") {{ sequence }} }}', made["token"]],
        )
    assert shown == {"data": {"events": {"sequence": last + 1}}}


async def test_a_stream_token(newcomer: Newcomer) -> None:
    async with Api(newcomer.url, newcomer.key) as api:
        made = await api.mutate("createCustomer", "customer { id }", name="Ed", email="ed@example.test")
    customer = made["customer"]["id"]
    made = await newcomer.answer(newcomer.command("First subscription", 1), CUSTOMER=customer)
    token = made["createStreamToken"]["token"]
    newcomer.deployment.secrets.append(token)
    async with Api(newcomer.url, token) as bound:
        seen = await bound.data("{ customers { nodes { id } } }")
    assert seen["customers"]["nodes"] == [{"id": customer}]


APOLLO = """
import WebSocket from "ws";
import { ApolloClient, InMemoryCache, gql } from "@apollo/client";
import { GraphQLWsLink } from "@apollo/client/link/subscriptions";
import { createClient } from "graphql-ws";
CACHE
const [, , url, apiKey, first] = process.argv;
const sockets = [];
class Noted extends WebSocket {
  constructor(...values) { super(...values); sockets.push(this); }
}
const client = createClient({ url, webSocketImpl: Noted, retryAttempts: 0, connectionParams: { apiKey } });
const apollo = new ApolloClient({ link: new GraphQLWsLink(client), cache });
const query = gql`subscription ($after: String) { events(after: $after) { sequence cursor } }`;
FOLLOW
follow(first);
process.stdin.on("data", () => sockets.at(-1).terminate());
"""


async def test_apollo_resumes_after_a_lost_connection(newcomer: Newcomer, tmp_path: Path) -> None:
    cache, follow = script("Apollo and urql", 1), script("Apollo and urql", 0)
    seen = "if (data) after = data.events.cursor;"
    assert follow.count(seen) == 1
    follow = follow.replace(seen, f"{seen} if (data) console.log(data.events.sequence);")
    program = APOLLO.replace("CACHE", cache).replace("FOLLOW", follow)
    async with Api(newcomer.url, newcomer.key) as api:
        after, last = await api.latest_cursor(), await api.last_sequence()
        url = newcomer.deployment.apis[0].socket_url
        arguments = (url, newcomer.key, after)
        async with node_script(program, tmp_path, *arguments, package="@apollo/client") as node:
            assert node.stdout is not None
            assert node.stdin is not None
            for number in range(3):
                email = f"apollo{number}@example.test"
                await api.mutate("createCustomer", "customer { id }", name="Flo", email=email)
                assert int(await node.stdout.readline()) == last + number + 1
                node.stdin.write(b"lose the connection\n")


async def test_events_are_forwarded_to_a_consumer_under_development(
    newcomer: Newcomer, receiver: Receiver
) -> None:
    forward = newcomer.command(
        "First webhook", 1, **{"http://127.0.0.1:3000/webhooks": receiver.url("/webhooks")}
    )
    for command in (forward, newcomer.command("First webhook", 2)):
        assert command.startswith("VOLTWIRE_API_KEY=$KEY ")
    async with newcomer.running(forward.replace("listen ", "listen --json ")):
        # Whether it listens yet shows only in what it forwards.
        while not receiver.requests:
            async with newcomer.running(newcomer.command("First webhook", 2)) as trigger:
                await trigger.communicate()
    assert receiver.requests[0].json()["type"] in ("customer.created", "meter.created")


async def test_a_backup_of_sqlite_has_everything(newcomer: Newcomer, tmp_path: Path) -> None:
    data = newcomer.deployment.environment["VOLTWIRE_DATA_DIR"]
    (Path(data) / "secret.key").touch()
    for number in (0, 1):
        command = newcomer.command("Backup and upgrade", number).replace(".voltwire/", f"{data}/")
        made = await asyncio.create_subprocess_shell(command, cwd=tmp_path)
        assert await made.wait() == 0
    assert (tmp_path / "voltwire.backup.key").exists()
    with contextlib.closing(sqlite3.connect(tmp_path / "voltwire.backup.db")) as backup:
        assert backup.execute("SELECT COUNT(*) > 0 FROM events").fetchall() == [(1,)]


async def test_a_backup_of_postgresql_has_everything(migrated_postgres_url: str, tmp_path: Path) -> None:
    (command,) = commands("Backup and upgrade")[2:]
    bin_ = find_bin()
    for line in (
        command.replace("pg_dump", f"{bin_ / 'pg_dump'}", 1),
        f"{bin_ / 'pg_restore'} --list *.dump",
    ):
        environment = os.environ | {"VOLTWIRE_DATABASE_URL": migrated_postgres_url}
        ran = await asyncio.create_subprocess_shell(line, cwd=tmp_path, env=environment, stdout=PIPE)
        listed, _ = await ran.communicate()
        assert ran.returncode == 0
    assert b"TABLE DATA public events " in listed


async def test_a_first_message_with_a_key_or_a_token(newcomer: Newcomer) -> None:
    async with Api(newcomer.url, newcomer.key) as api:
        token = (await api.mutate("createStreamToken", "token"))["token"]
    newcomer.deployment.secrets.append(token)
    (messages,) = [text for language, text in BLOCKS["First subscription"] if language == "json"]
    with_key, with_token = messages.splitlines()
    for message in (with_key.replace("vw_live_…", newcomer.key), with_token.replace("vw_stream_…", token)):
        async with websockets.connect(
            newcomer.deployment.apis[0].socket_url,
            subprotocols=[websockets.Subprotocol("graphql-transport-ws")],
            proxy=None,
        ) as connection:
            await connection.send(message)
            assert json.loads(await connection.recv()) == {"type": "connection_ack"}


async def test_paging(served: Deployment) -> None:
    (first, following) = [text for language, text in BLOCKS["Paging"] if language == "graphql"]
    (empty,) = [text for language, text in BLOCKS["Paging"] if language == "json"]
    async with Api(served.apis[0].url, await fresh_key(served)) as api:
        assert await api.data(first) == json.loads(empty)
        for name in "abc":
            await api.mutate("createCustomer", "customer { id }", name=name, email=f"{name}@example.test")
        page = (await api.data(first))["customers"]
        names = [one["name"] for one in page["nodes"]]
        assert page["pageInfo"]["hasNextPage"]
        after = page["pageInfo"]["endCursor"]
        page = (await api.data(following, after=after))["customers"]
        assert [*names, *(one["name"] for one in page["nodes"])] == ["a", "b", "c"]
        assert not page["pageInfo"]["hasNextPage"]
        assert await api.data(following, after=page["pageInfo"]["endCursor"]) == json.loads(empty)


async def test_first_webhook(newcomer: Newcomer, receiver: Receiver) -> None:
    url = "https://hooks.acme.example/voltwire"
    made = await newcomer.answer(newcomer.command("First webhook", 0, **{url: receiver.url("/voltwire")}))
    assert made["createWebhookEndpoint"]["userErrors"] == []
    secret = made["createWebhookEndpoint"]["secret"]
    newcomer.deployment.secrets.append(secret)
    meter = await make_meter(newcomer, "dee@example.test")
    (request,) = await receiver.wait_for(1)
    assert (request.json()["type"], request.json()["data"]["id"]) == ("meter.created", meter["id"])

    (code,) = [text for language, text in BLOCKS["First webhook"] if language == "python"]
    names: dict[str, Any] = {}
    exec(compile(code, "README.md", "exec"), names)
    verify = names["verify"]
    verify(secret, request.headers, request.body)
    stale = request.headers | {"webhook-timestamp": "1600000000"}
    for headers, body in ((request.headers, request.body + b" "), (stale, request.body)):
        with pytest.raises(ValueError):
            verify(secret, headers, body)


async def test_first_mail(newcomer: Newcomer) -> None:
    made = await newcomer.answer(newcomer.command("First mail", 0))
    payload = made["createEmailSubscription"]
    assert (payload["emailSubscription"]["status"], payload["userErrors"]) == ("PENDING", [])
    folder = Path(newcomer.deployment.environment["VOLTWIRE_DATA_DIR"], "mail")
    written: list[EmailMessage] = []
    while not written:
        # The folder may not be there yet: its first mail makes it.
        found = [message_from_bytes(one.read_bytes(), policy=policy.default) for one in folder.glob("*.eml")]
        written = [one for one in found if one["To"] == "grace@acme.example"]
        await asyncio.sleep(0)
    (mail,) = written
    assert mail["Subject"] == "Confirm: mails about events of Acme Energy"
    page = f"{newcomer.url}/email-subscriptions/confirm/"
    (link,) = [
        line for one in folder.glob("*.eml") for line in one.read_text().splitlines() if line.startswith(page)
    ]
    text = mail.get_body(("plain",))
    assert text is not None
    assert link in text.get_content().splitlines()


async def test_catalogue_and_probes_need_no_key(served: Deployment) -> None:
    (query,) = re.findall(r"`(\{ eventTypes .+?\})`", README)
    async with Api(served.apis[0].url) as stranger:
        found = (await stranger.data(query))["eventTypes"]
        assert [one["name"] for one in found] == [kind.type for kind in catalogue()]
        for path in ("/healthz", "/readyz", "/metrics"):
            assert f"`{path}`" in README
            assert (await stranger.http.get(path)).status_code == 200
