"""The demo from start to end: it starts the parts, plays the story, prints the arrivals, and takes all down again."""

import asyncio
import os
import random
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import httpx
from rich.console import Console
from rich.live import Live
from rich.text import Text

from app.cli.client import Address, Api
from app.cli.demo import server, story
from app.cli.demo.board import Board, Way
from app.cli.demo.consumers import Consumers, ReceivedMail, ReceivedWebhook
from app.cli.demo.server import DemoError
from app.cli.listen import facts
from app.cli.stream import ResumingStream, StreamEvent
from app.cli.trigger import meter_number
from app.feeds.octopus.stand_in import OctopusStandIn
from app.feeds.stand_ins.server import serving

# For all events together; a missing one does not keep the next from being played.
ARRIVE_WITHIN: Final = 60.0
STEP_WITHIN: Final = 20.0
CONFIRM_WITHIN: Final = 30.0
# On a terminal each change gets a moment, so that eyes can follow.
BEAT: Final = 0.4


class Tour:
    """A run of the demo. `is_over` is set when the play has ended, well or not."""

    def __init__(self, console: Console, port: int | None) -> None:
        self.is_over = False
        self._console = console
        self._port = server.choose_port(port)
        self._board = Board(story.all_events(), story.COUNTS)
        self._consumers = Consumers(on_hook=self._on_hook, on_mail=self._on_mail)
        self._log = Path()
        self._key = ""

    async def run(self, *, once: bool) -> int:
        """Play; returns the exit code. Without `once` it stays up until it is cancelled or the server ends.

        Raises DemoError and ClientError.
        """
        async with AsyncExitStack() as stack:
            folder = Path(
                stack.enter_context(
                    tempfile.TemporaryDirectory(prefix="voltwire-demo-", ignore_cleanup_errors=True)
                )
            )
            await stack.enter_async_context(self._consumers.running())
            process, at = await self._start(stack, folder)
            api = await stack.enter_async_context(Api(at, self._key))
            await self._subscribe(api)
            stream = ResumingStream(api)
            await stream.begin()
            listening = await stack.enter_async_context(_in_background(self._listen(stream)))
            source = await stack.enter_async_context(_home_source())
            async with self._shown() as show:
                await story.play(api, self._board, source, show)
                await self._board.wait_for(story.STORIES, self._left())
            self._conclude()
            if once:
                return 1 if self._board.missing() else 0
            self._invite(at.base)
            await self._stay(process, listening)
            return 1

    async def _start(self, stack: AsyncExitStack, folder: Path) -> tuple[asyncio.subprocess.Process, Address]:
        environment = server.settings(folder, self._consumers.smtp_url)
        self._log = folder / "server.log"
        self._say("Starting Voltwire: SQLite and memory, nothing else beside it …")
        process, at = await stack.enter_async_context(server.running(environment, folder, self._port))
        self._key = await server.create_account(folder, story.ACCOUNT, story.OWNER)
        self._say(f"Serving at {at.base}, for the account {story.ACCOUNT}.")
        return process, at

    async def _subscribe(self, api: Api) -> None:
        """Create an endpoint and an email subscription, and confirm that by the mailed link, as its owner would."""
        made = await api.change(
            "createWebhookEndpoint", "webhookEndpoint { id } secret", url=self._consumers.webhook_url
        )
        self._consumers.secret = made["secret"]
        await api.change("createEmailSubscription", "emailSubscription { id }", email=story.MAILBOX)
        try:
            async with asyncio.timeout(CONFIRM_WITHIN):
                link = await self._consumers.confirmation_link()
        except TimeoutError:
            raise DemoError(
                f"The mail that confirms {story.MAILBOX} did not arrive within {CONFIRM_WITHIN:.0f} s; "
                f"the server's log ends:\n{server.last_words(self._log)}"
            ) from None
        async with httpx.AsyncClient(trust_env=False) as http:
            response = await http.post(link)
        if not response.is_success:
            raise DemoError(f"The link in the mail could not be confirmed: HTTP {response.status_code}.")
        self._say(f"A webhook endpoint is there, and {story.MAILBOX} wants mails.")
        self._say("")

    async def _listen(self, stream: ResumingStream) -> None:
        async for event in stream.events():
            self._on_event(event)

    @asynccontextmanager
    async def _shown(self) -> AsyncIterator[story.Wait]:
        """Show the board, moving on a terminal and once at the end elsewhere; yields the wait for one step."""
        self._deadline = asyncio.get_running_loop().time() + ARRIVE_WITHIN
        if not self._console.is_terminal:
            yield self._arrived
            self.is_over = True
            self._console.print(self._board.table(self._console.width, live=False))
            return

        async def arrived(names: list[str]) -> None:
            await self._arrived(names)
            await asyncio.sleep(BEAT)

        def draw() -> object:
            return self._board.table(self._console.width, live=not self.is_over)

        with Live(get_renderable=draw, console=self._console, refresh_per_second=20) as live:  # type: ignore[arg-type]
            yield arrived
            self.is_over = True
            live.refresh()

    async def _arrived(self, names: list[str]) -> None:
        await self._board.wait_for(names, min(STEP_WITHIN, self._left()))

    def _left(self) -> float:
        return max(0.0, self._deadline - asyncio.get_running_loop().time())

    def _on_event(self, event: StreamEvent) -> None:
        if not self._board.arrived(Way.SOCKET, event.id, event.name) and self.is_over:
            self._later(Way.SOCKET, event.name, facts(event.name, event.data))

    def _on_hook(self, hook: ReceivedWebhook) -> None:
        if hook.wrong is not None:
            self._later(Way.WEBHOOK, hook.event_id, f"refused: {hook.wrong}")
        elif not self._board.arrived(Way.WEBHOOK, hook.event_id, hook.name) and self.is_over:
            self._later(Way.WEBHOOK, hook.name, f"✓ signed, #{hook.body['sequence']}")

    def _on_mail(self, mail: ReceivedMail) -> None:
        known = mail.event_id is not None and self._board.arrived(Way.EMAIL, mail.event_id)
        if not known and self.is_over:
            self._later(Way.EMAIL, mail.subject)

    def _later(self, way: Way, what: str, more: str = "") -> None:
        line = Text(f"{datetime.now().astimezone():%H:%M:%S}  ", "dim")
        line.append(f"{way.value:<11}", "cyan").append(f"{what:<25} ", "bold").append(more)
        self._console.print(line, soft_wrap=True)

    def _conclude(self) -> None:
        missing = self._board.missing()
        self._say("")
        if not missing:
            text = "Every event arrived by WebSocket, by webhook (each signature verified) and by email."
            self._say(Text(text, "bold green"))
            return
        self._say(
            Text(
                f"Missing {ARRIVE_WITHIN:.0f} s after the start of the play: {', '.join(missing)}.",
                "bold red",
            )
        )
        self._say(f"The server's log ends:\n{server.last_words(self._log)}")

    def _invite(self, base: str) -> None:
        query = (
            "{ meters(first: 5) { nodes { number status customer { name } intervalData { total unit } } } }"
        )
        command = _short(server.VOLTWIRE)
        rows = [
            ("Start page", f"{base}/", "explorer, live events, catalogue"),
            ("GraphQL", f"{base}/graphql", "HTTP, WebSocket and SSE"),
            ("Inbox", self._consumers.url, "the webhooks and mails received here"),
            ("API key", self._key, ""),
        ]
        self._say("")
        for label, value, hint in rows:
            line = Text(f"  {label:<11}", "dim").append(value, "bold cyan")
            self._say(line.append(f"  {hint}", "dim") if hint else line)
        self._say("\nTry next, in another terminal:\n")
        curl = f"curl -s {base}/graphql -H 'x-api-key: {self._key}' -H 'content-type: application/json'"
        for command_line in (
            f"{command} listen --url {base} --key {self._key}",
            f"{command} trigger meter_data.received --url {base} --key {self._key}",
            f"""{curl} -d '{{"query": "{query}"}}'""",
        ):
            self._say(f"  {command_line}\n")
        self._say(Text("What arrives is shown below. Ctrl-C ends the demo and removes its data.", "dim"))

    async def _stay(self, process: asyncio.subprocess.Process, listening: "asyncio.Task[None]") -> None:
        """Stay up until cancelled. Raises DemoError or ClientError when the server or the stream ends before that."""
        gone = asyncio.create_task(process.wait())
        try:
            await asyncio.wait({gone, listening}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
        if listening.done():
            listening.result()
        raise DemoError(f"The server has ended; its log ends:\n{server.last_words(self._log)}")

    def _say(self, text: str | Text) -> None:
        # Wrapped by the terminal alone, so that a command can be copied as one line.
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)


@asynccontextmanager
async def _home_source() -> AsyncIterator[story.HomeSource]:
    """A stand-in of Octopus Energy that has a home's meter."""
    number = meter_number()
    stand_in = OctopusStandIn(seed=random.randrange(2**31), numbers=(number,))  # noqa: S311 - chance, not a secret
    async with serving(stand_in) as url:
        yield story.HomeSource(stand_in, url, number)


@asynccontextmanager
async def _in_background(work: Coroutine[Any, Any, None]) -> AsyncIterator["asyncio.Task[None]"]:
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _short(path: Path) -> str:
    """The path as a person would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
