"""What the README says, tried: its commands, its examples, its tables."""

import asyncio
import contextlib
import json
import os
import re
import shutil
from asyncio.subprocess import PIPE
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from playwright.async_api import Page
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

from app.cli import app as cli
from app.events.catalogue import catalogue
from app.settings import Settings
from tests.services.receiver import Receiver
from tests.system.clients import Api
from tests.system.deployment import PROGRAM, Deployment
from tests.system.node import node_script

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$|^#+ ([^\n]+)$", re.MULTILINE | re.DOTALL)
METER = "2499999999991"


def blocks() -> dict[str, list[tuple[str, str]]]:
    """The fenced blocks under each heading, as (language, text)."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    heading = ""
    for language, text, title in FENCE.findall(README):
        if title:
            heading = title
        else:
            found[heading].append((language, text))
    return found


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    text = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # A pipe inside a cell is written with a backslash.
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


BLOCKS = blocks()


@dataclass(frozen=True)
class Newcomer:
    """Someone who follows the README to the letter, with the address of a server that is already running."""

    deployment: Deployment
    key: str

    @property
    def url(self) -> str:
        return self.deployment.apis[0].url

    def command(self, heading: str, number: int, **replaced: str) -> str:
        """The n-th command of the shell blocks under a heading; commands are set apart by an empty line."""
        text = "\n\n".join(text for language, text in BLOCKS[heading] if language == "sh")
        command = text.replace("http://127.0.0.1:8000", self.url).split("\n\n")[number]
        for old, new in replaced.items():
            assert command.count(old) == 1
            command = command.replace(old, new)
        return command

    @contextlib.asynccontextmanager
    async def running(self, command: str) -> AsyncIterator[asyncio.subprocess.Process]:
        environment = self.deployment.environment | {"KEY": self.key}
        process = await asyncio.create_subprocess_shell(f"exec {command}", env=environment, stdout=PIPE)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def answer(self, command: str) -> dict[str, Any]:
        """What a curl command prints, as JSON; its data, without errors."""
        async with self.running(command) as process:
            output, _ = await process.communicate()
        answer = json.loads(output)
        assert "errors" not in answer, answer
        data: dict[str, Any] = answer["data"]
        return data


@pytest.fixture(scope="module")
async def newcomer(served: Deployment) -> Newcomer:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    create = BLOCKS["Quick start"][2][1].splitlines()[0]
    assert create == '.venv/bin/voltwire accounts create "Acme Energy" --email ops@acme.example'
    process = await asyncio.create_subprocess_shell(
        create.replace(".venv/bin/voltwire", str(PROGRAM)), env=served.environment, stdout=PIPE
    )
    output, _ = await process.communicate()
    made = json.loads(output)
    assert list(made) == ["accountId", "userId", "apiKey"]
    served.secrets.append(made["apiKey"])
    return Newcomer(served, made["apiKey"])


async def test_first_query(newcomer: Newcomer) -> None:
    made = await newcomer.answer(newcomer.command("First query", 0))
    assert made["createCustomer"]["customer"]["name"] == "Ann Example"
    assert made["createCustomer"]["userErrors"] == []
    listed = await newcomer.answer(newcomer.command("First query", 1))
    assert [(event["sequence"], event["name"]) for event in listed["events"]["nodes"]] == [
        (1, "user.created"),
        (2, "customer.created"),
    ]


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
    script, _ = [text for language, text in BLOCKS["First subscription"] if language == "js"]
    seen = "variables.after = data.events.cursor;"
    assert script.count(seen) == 1
    script = (
        script.replace(seen, f"{seen} console.log(data.events.sequence);")
        .replace("ws://127.0.0.1:8000", newcomer.deployment.apis[0].socket_url.removesuffix("/graphql"))
        .replace("{ after: null }", "{ after: process.argv[3] }")
        .replace("${token}", "${process.argv[2]}")
    )
    async with Api(newcomer.url, newcomer.key) as api:
        made = await api.mutate("createStreamToken", "token")
        after, last = await api.latest_cursor(), await api.last_sequence()
        newcomer.deployment.secrets.append(made["token"])
        async with node_script(script, tmp_path, made["token"], after) as node:
            await api.mutate("createCustomer", "customer { id }", name="Cy", email="cy@example.test")
            assert node.stdout is not None
            assert int(await node.stdout.readline()) == last + 1


async def test_first_subscription_with_a_browsers_own_event_source(newcomer: Newcomer, page: Page) -> None:
    _, script = [text for language, text in BLOCKS["First subscription"] if language == "js"]
    async with Api(newcomer.url, newcomer.key) as api:
        made = await api.mutate("createStreamToken", "token")
        newcomer.deployment.secrets.append(made["token"])
        last, after = await api.last_sequence(), await api.latest_cursor()
        await api.mutate("createCustomer", "customer { id }", name="Di", email="di@example.test")
        await page.goto(newcomer.url)
        shown = await page.evaluate(
            f"([query, token]) => new Promise((show) => {{ {script} }})",
            [f'subscription {{ events(after: "{after}") {{ sequence }} }}', made["token"]],
        )
    assert shown == {"data": {"events": {"sequence": last + 1}}}


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


async def test_catalogue_and_probes_need_no_key(served: Deployment) -> None:
    (query,) = re.findall(r"`(\{ eventTypes .+?\})`", README)
    async with Api(served.apis[0].url) as stranger:
        found = (await stranger.data(query))["eventTypes"]
        assert [one["name"] for one in found] == [kind.type.value for kind in catalogue()]
        for path in ("/healthz", "/readyz", "/metrics"):
            assert f"`{path}`" in README
            assert (await stranger.http.get(path)).status_code == 200


def test_events_are_those_of_the_catalogue() -> None:
    assert {row[0].strip("`") for row in table("Events")} == {kind.type.value for kind in catalogue()}


def test_settings_are_those_of_the_program() -> None:
    rows = {name: row for row in table("Settings") for name in re.findall(r"VOLTWIRE_\w+", row[0])}
    fields = {f"VOLTWIRE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert rows.keys() == fields.keys()
    documented = {
        name: row[1].strip("`")
        for name, row in rows.items()
        if re.fullmatch(r"`[^`]+`", row[1]) and row[1] != "`http://HOST:PORT`"
    }
    assert documented == {
        name: in_words(field.default)
        for name, field in fields.items()
        if field.default not in (None, [], PydanticUndefined)
    }
    # Any other mention is of a setting that exists, too.
    assert set(re.findall(r"VOLTWIRE_[A-Z_]+", README)) <= fields.keys()


def in_words(default: Any) -> str:
    if isinstance(default, list):
        return ",".join(f"{one:g}" for one in default)
    return f"./{default}" if isinstance(default, Path) else f"{default}"


def test_commands_are_those_of_the_program() -> None:
    cells = " ".join(row[0] for row in table("Commands"))
    documented = {
        " ".join(re.findall(r"(?<= )[a-z]+(?= |$)", call)) for call in re.findall(r"`(voltwire .+?)`", cells)
    }
    assert documented == visible_commands(typer.main.get_command(cli))
    scripts = {one.name for one in (ROOT / "scripts").iterdir() if os.access(one, os.X_OK)}
    # `setup` is what the others begin with.
    assert set(re.findall(r"\./scripts/(\w+)", cells)) == scripts - {"setup"}


def visible_commands(command: Any, path: tuple[str, ...] = ()) -> set[str]:
    if not isinstance(command, TyperGroup):
        return {" ".join(path)}
    return {
        name
        for part, inner in command.commands.items()
        if not inner.hidden
        for name in visible_commands(inner, (*path, part))
    }


def test_files_it_names_are_there() -> None:
    named = re.findall(r"`((?:app|tests|scripts)/[\w./]+|[A-Z]+(?:\.md)?)`", README)
    missing = [name for name in named if "." in name and not (ROOT / name).exists()]
    assert missing == []
    assert (ROOT / "LICENSE").is_file()
