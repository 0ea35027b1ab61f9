"""The demo's consumers: a webhook receiver and a mailbox on this machine, and a page that shows what arrived."""

import asyncio
import email
import email.policy
import hmac
import json
import re
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from email.message import EmailMessage
from html import escape
from typing import Any, Final

import uvicorn
from aiosmtpd.smtp import SMTP, Envelope, Session
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route

from app.delivery.destinations.webhook import signing
from app.web.render import render

HOST: Final = "127.0.0.1"
TOLERANCE: Final = 300
KEPT: Final = 500
EVENT_ID: Final = re.compile(r"^Event (evt_[0-9a-z]+) ", re.MULTILINE)
CONFIRM_LINK: Final = re.compile(r"https?://\S+/email-subscriptions/confirm/\S+")
# A mail is shown as its HTML, but nothing in it may run, load or leave its frame.
MAIL_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
PAGE_POLICY: Final = "default-src 'none'; style-src 'unsafe-inline'"


@dataclass(frozen=True)
class ReceivedWebhook:
    """A webhook that arrived; `wrong` is the reason why its signature does not count, None where it does."""

    event_id: str
    name: str
    body: dict[str, Any]
    wrong: str | None
    at: datetime

    @property
    def shown_body(self) -> str:
        return json.dumps(self.body, indent=2, ensure_ascii=False)


@dataclass(frozen=True)
class ReceivedMail:
    """A mail that arrived; `event_id` is None where it is not about an event."""

    recipient: str
    subject: str
    text: str
    html: str
    event_id: str | None
    at: datetime


@dataclass
class Consumers:
    """The receiver and the mailbox, with all that arrived; `on_hook` and `on_mail` are called for each arrival."""

    secret: str = ""
    on_hook: Callable[[ReceivedWebhook], None] = lambda _: None
    on_mail: Callable[[ReceivedMail], None] = lambda _: None
    hooks: list[ReceivedWebhook] = field(default_factory=list)
    mails: list[ReceivedMail] = field(default_factory=list)
    web_port: int = 0
    smtp_port: int = 0
    _confirm: asyncio.Queue[str] = field(default_factory=asyncio.Queue)

    @property
    def url(self) -> str:
        """The page that shows what arrived."""
        return f"http://{HOST}:{self.web_port}/"

    @property
    def webhook_url(self) -> str:
        return f"{self.url}webhooks"

    @property
    def smtp_url(self) -> str:
        return f"smtp://{HOST}:{self.smtp_port}"

    async def confirmation_link(self) -> str:
        """The link in the next mail that asks for a confirmation."""
        return await self._confirm.get()

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Consumers"]:
        """Listen on free ports until the block ends."""
        application = Starlette(
            routes=[
                Route("/webhooks", self._webhook, methods=["POST"]),
                Route("/", self._page),
                Route("/mails/{number:int}", self._mail),
            ]
        )
        config = uvicorn.Config(application, log_config=None, access_log=False, lifespan="off")
        web, listener = _Guest(config), socket.create_server((HOST, 0))
        serving = asyncio.create_task(web.serve([listener]), name="consumers")
        loop = asyncio.get_running_loop()
        smtp = await loop.create_server(
            lambda: SMTP(self, hostname="mailbox.example", enable_SMTPUTF8=True, loop=loop), HOST, 0
        )
        try:
            self.web_port = listener.getsockname()[1]
            self.smtp_port = smtp.sockets[0].getsockname()[1]
            yield self
        finally:
            smtp.close()
            web.should_exit = True
            await serving

    async def _webhook(self, request: Request) -> Response:
        body, at = await request.body(), datetime.now().astimezone()
        wrong = why_not_signed(self.secret, request.headers, body)
        if wrong is not None:
            hook = ReceivedWebhook(request.headers.get("webhook-id", ""), "", {}, wrong, at)
        else:
            content = json.loads(body)
            hook = ReceivedWebhook(content["id"], content["type"], content, None, at)
        _keep(self.hooks, hook)
        self.on_hook(hook)
        return Response(status_code=204 if wrong is None else 401)

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        """The mail server calls this for each mail."""
        content = envelope.content if isinstance(envelope.content, bytes) else str(envelope.content).encode()
        message = email.message_from_bytes(content, policy=email.policy.default)
        text = _part(message, "plain")
        about = EVENT_ID.search(text)
        mail = ReceivedMail(
            recipient=", ".join(envelope.rcpt_tos),
            subject=str(message["subject"]),
            text=text,
            html=_part(message, "html"),
            event_id=about[1] if about else None,
            at=datetime.now().astimezone(),
        )
        _keep(self.mails, mail)
        link = CONFIRM_LINK.search(text)
        if link is not None:
            self._confirm.put_nowait(link[0])
        self.on_mail(mail)
        return "250 OK"

    async def _page(self, _request: Request) -> Response:
        return _html(render("demo_inbox.html", hooks=self.hooks, mails=self.mails), PAGE_POLICY)

    async def _mail(self, request: Request) -> Response:
        number = request.path_params["number"]
        if not 0 < number <= len(self.mails):
            raise HTTPException(404, "There is no such mail.")
        mail = self.mails[number - 1]
        return _html(mail.html or f"<pre>{escape(mail.text)}</pre>", MAIL_POLICY)


class _Guest(uvicorn.Server):
    """A server that leaves the signals to its process."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def why_not_signed(secret: str, headers: Mapping[str, str], body: bytes) -> str | None:
    """The reason why a body does not count as signed within five minutes by Standard Webhooks; None where it does."""
    try:
        identifier, timestamp = headers["webhook-id"], headers["webhook-timestamp"]
        signatures = headers["webhook-signature"].split(" ")
    except KeyError as missing:
        return f"the header {missing.args[0]} is missing"
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > TOLERANCE:
        return "its timestamp is not of now"
    expected = signing.sign([secret], identifier, int(timestamp), body)
    if any(hmac.compare_digest(expected.encode(), one.encode()) for one in signatures):
        return None
    return "no signature matches"


def _keep(kept: list[Any], one: Any) -> None:
    """Keep one more, up to the limit: numbers of mails are links, so the first ones stay."""
    if len(kept) < KEPT:
        kept.append(one)


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    return "" if part is None else str(part.get_content()).replace("\r\n", "\n")


def _html(content: str, policy: str) -> Response:
    return HTMLResponse(content, headers={"Content-Security-Policy": policy, "Cache-Control": "no-store"})
