"""The demo as it is started from a shell, and the parts that judge the arrivals."""

import asyncio
import contextlib
import re
import signal
import socket
import sys
import time
from asyncio.subprocess import PIPE, STDOUT, Process
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
from playwright.async_api import Browser
from standardwebhooks import Webhook

from app.cli.demo.board import Board, Way
from app.cli.demo.consumers import Consumers, ReceivedMail, ReceivedWebhook, why_not_signed
from app.cli.demo.story import STORIES
from app.delivery.destinations.webhook.signing import new_secret
from app.events.catalogue import event_names
from tests.services.patience import PATIENCE
from tests.system.deployment import clean_environment

MANY = r"(?:\d+ in )?\d+ ms"
ROW = re.compile(rf"│ (\S+) +│ +{MANY} │ +✓ {MANY} │ +{MANY} │")


@contextlib.asynccontextmanager
async def demo(folder: Path, *arguments: str) -> AsyncIterator[Process]:
    """The demo without a terminal, its temporary files in the folder; it is ended with the block."""
    # What a developer has set for a server of their own must not reach the demo's.
    environment = clean_environment() | {
        "TMPDIR": str(folder),
        "VOLTWIRE_DATABASE_URL": "postgresql://nowhere",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli.demo", *arguments, env=environment, stdout=PIPE, stderr=STDOUT
    )  # fmt: skip
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.communicate()


async def printed_until(process: Process, text: str) -> str:
    """All output up to the line that holds the text, or to the end."""
    assert process.stdout is not None
    lines = ""
    while line := (await process.stdout.readline()).decode():
        lines += line
        if text in line:
            break
    return lines


def found(pattern: str, printed: str) -> str:
    """The text that the pattern's group matches, or a failure with everything printed."""
    match = re.search(pattern, printed)
    assert match, printed
    return match[1]


async def test_once_ends_well_when_all_arrived_by_all_three_ways(tmp_path: Path) -> None:
    async with demo(tmp_path, "--once", "--port", "0") as process:
        printed = await printed_until(process, "never printed")
        code = await process.wait()
    assert code == 0, printed
    assert ROW.findall(printed) == list(STORIES)
    assert printed.count(" 13 in ") == 3
    assert set(STORIES) <= set(event_names())
    assert list(tmp_path.iterdir()) == []


async def test_stays_up_and_takes_everything_down_when_told_to_end(tmp_path: Path) -> None:
    async with demo(tmp_path, "--port", "0") as process:
        printed = await printed_until(process, "Ctrl-C")
        base = found(r"Start page +(\S+)/ ", printed)
        inbox = found(r"Inbox +(\S+) ", printed)
        key = found(r"(vw_live_[\w-]+)", printed)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            question = {"query": "{ events(last: 1) { nodes { name } } }"}
            asked = await http.post(f"{base}/graphql", json=question, headers={"x-api-key": key})
            assert asked.json()["data"]["events"]["nodes"] == [{"name": "hosted_consent.revoked"}]
            page = await http.get(inbox)
            # Seven events, thirteen of the feed, and two mails that ask for a confirmation: of the subscription, and of
            # the new user's address.
            while "<h2>22 mails</h2>" not in page.text:
                page = await http.get(inbox)
            assert page.text.count("✓ signed") == 20
            number = found(r'href="/mails/(\d+)">Consent of Maya Thompson revoked', page.text)
            mail = await http.get(f"{inbox}mails/{number}")
            assert "Maya Thompson" in mail.text
            assert "sandbox" in mail.headers["content-security-policy"]
            assert (await http.get(f"{inbox}mails/23")).status_code == 404
            process.send_signal(signal.SIGTERM)
            await printed_until(process, "never printed")
            assert await process.wait() == 0
            for gone in (base, inbox):
                with pytest.raises(httpx.ConnectError):
                    await http.get(gone)
    assert list(tmp_path.iterdir()) == []


async def test_leaves_nothing_when_it_is_killed(tmp_path: Path) -> None:
    async with demo(tmp_path, "--port", "0") as process:
        printed = await printed_until(process, "Serving at")
        base = found(r"(http://[\d.:]+\d)", printed)
        process.kill()
        await process.wait()
        async with asyncio.timeout(PATIENCE):
            # The folder goes after the server, and nothing of ours is left to tell us.
            while list(tmp_path.iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(base)


async def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        async with demo(tmp_path, "--port", str(port)) as process:
            printed = await printed_until(process, "never printed")
            assert await process.wait() == 1
    assert printed == f"Port {port} is taken: choose another --port, or leave it out for a free one.\n"


def test_the_board_says_what_is_missing() -> None:
    board = Board({"meter.created": "", "user.created": ""})
    board.sending("meter.created", "user.created")
    assert board.arrived(Way.SOCKET, "evt_1", "meter.created")
    assert board.arrived(Way.WEBHOOK, "evt_1", "meter.created")
    assert board.arrived(Way.WEBHOOK, "evt_2", "user.created")
    assert board.arrived(Way.EMAIL, "evt_2")
    assert board.missing() == ["meter.created by email", "user.created by WebSocket"]


async def test_the_board_takes_a_mail_that_overtook_the_others() -> None:
    board = Board({"meter.created": ""})
    board.sending("meter.created")
    assert not board.arrived(Way.EMAIL, "evt_1")
    board.arrived(Way.SOCKET, "evt_1", "meter.created")
    board.arrived(Way.WEBHOOK, "evt_1", "meter.created")
    assert await board.wait_for(["meter.created"], 0)
    row = board.rows[0]
    at = {way: row.arrivals[way]["evt_1"] for way in Way}
    assert at[Way.EMAIL] < at[Way.SOCKET] < at[Way.WEBHOOK]


def test_the_board_waits_for_all_of_several_events() -> None:
    board = Board({"meter_data.received": ""}, {"meter_data.received": 2})
    board.sending("meter_data.received")
    for event_id in ("evt_1", "evt_1", "evt_2", "evt_3"):
        for way in Way:
            assert board.rows[0].is_complete() == (event_id == "evt_3")
            board.arrived(way, event_id, "meter_data.received")
    assert board.rows[0].event_ids == {"evt_1", "evt_2"}
    assert board.missing() == []


async def test_the_board_takes_no_other_event_of_the_same_name() -> None:
    board = Board({"meter.created": ""})
    assert not board.arrived(Way.SOCKET, "evt_0", "meter.created")
    board.sending("meter.created")
    assert board.arrived(Way.SOCKET, "evt_1", "meter.created")
    assert not board.arrived(Way.WEBHOOK, "evt_2", "meter.created")
    assert not await board.wait_for(["meter.created"], 0)


def test_signatures_count_as_the_standard_library_makes_them() -> None:
    secret, body = new_secret(), b'{"type":"meter.created"}'
    now = datetime.now(UTC)
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": "v1,AAAA " + Webhook(secret).sign("evt_1", now, body.decode()),
    }
    assert why_not_signed(secret, headers, body) is None
    assert why_not_signed(new_secret(), headers, body) == "no signature matches"
    assert why_not_signed(secret, headers, body + b" ") == "no signature matches"
    assert why_not_signed(secret, headers | {"webhook-id": "evt_2"}, body) == "no signature matches"
    old = headers | {"webhook-timestamp": str(int(time.time()) - 400)}
    assert why_not_signed(secret, old, body) == "its timestamp is not of now"
    assert why_not_signed(secret, {"webhook-id": "evt_1"}, body) == "the header webhook-timestamp is missing"


# The ratio of WCAG 2 between the colour of each text and the page's ground.
CONTRASTS = """() => {
    const luminance = colour => {
        const [r, g, b] = colour.match(/[\\d.]+/g).slice(0, 3).map(one => one / 255)
            .map(one => one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
    };
    const ground = luminance(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll("h1, p, a, b, small, pre")].map(one => {
        const style = getComputedStyle(one), ink = luminance(style.color);
        const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
        return [one.tagName, ratio >= 4.5 && style.opacity === "1"];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_the_inbox_can_be_read_in_light_and_dark(browser: Browser, scheme: Any) -> None:
    consumers = Consumers()
    at = datetime.now(UTC)
    consumers.hooks.append(ReceivedWebhook("evt_1", "meter.created", {"id": "evt_1"}, None, at))
    consumers.mails.append(ReceivedMail("ada@example.com", "New meter", "", "", None, at))
    async with consumers.running():
        context = await browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
        page = await context.new_page()
        await page.goto(consumers.url)
        read = await page.evaluate(CONTRASTS)
        assert [tag for tag, is_legible in read if not is_legible] == []
        assert {tag for tag, _ in read} == {"H1", "P", "A", "B", "SMALL", "PRE"}
        assert await page.evaluate("document.documentElement.scrollWidth") == 360
        await context.close()
