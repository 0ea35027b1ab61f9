"""Mail servers on real sockets: aiosmtpd, and one that answers as it is told to."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiosmtpd.smtp import SMTP as SmtpProtocol
from aiosmtpd.smtp import Envelope, Session

from tests.services.records import Records


@dataclass
class Inbox:
    """The mails that an aiosmtpd server took. RCPT TO one of `stuck` hangs until `let_go` is set."""

    envelopes: Records[Envelope] = field(default_factory=Records)
    sessions: list[Session] = field(default_factory=list)
    stuck: set[str] = field(default_factory=set)
    hung: Records[str] = field(default_factory=Records)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle_RCPT(
        self, server: SmtpProtocol, session: Session, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        if address in self.stuck:
            self.hung.add(address)
            await self.let_go.wait()
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SmtpProtocol, session: Session, envelope: Envelope) -> str:
        self.envelopes.add(envelope)
        self.sessions.append(session)
        return "250 2.0.0 Kept as 17"


@asynccontextmanager
async def good_server(tls: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[tuple[int, Inbox]]:
    """An aiosmtpd server on 127.0.0.1; `tls` from the first byte."""
    inbox = Inbox()
    protocols: list[SmtpProtocol] = []

    def protocol() -> SmtpProtocol:
        protocols.append(
            SmtpProtocol(inbox, hostname="mail.example", loop=asyncio.get_running_loop(), **options)
        )
        return protocols[-1]

    server = await asyncio.get_running_loop().create_server(protocol, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1], inbox
    finally:
        server.close()
        for one in protocols:
            if isinstance(one.transport, asyncio.WriteTransport):
                one.transport.abort()
        await server.wait_closed()


@dataclass
class Scripted:
    """A server that answers as written: by command, `None` hangs, `""` drops the connection.

    Lists are used up from the front, their last entry stays. `BANNER` greets, `.` ends the data.
    """

    replies: dict[str, list[str | None]]
    port: int = 0
    connections: int = 0
    commands: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    """Mails that came whole, whatever was answered."""

    def reply(self, command: str) -> str | None:
        found = self.replies.get(command, ["250 OK"])
        return found.pop(0) if len(found) > 1 else found[0]


@asynccontextmanager
async def scripted(**replies: str | list[str | None] | None) -> AsyncIterator[Scripted]:
    script = Scripted({"BANNER": ["220 hello"], "DATA": ["354 go on"], "QUIT": ["221 bye"]})
    for name, value in replies.items():
        script.replies["." if name == "END" else name] = value if isinstance(value, list) else [value]
    tasks: set[asyncio.Task[None]] = set()

    async def say(writer: asyncio.StreamWriter, reply: str | None) -> None:
        if reply is None:
            await asyncio.Event().wait()
        if not reply:
            raise ConnectionError
        writer.write(reply.encode() + b"\r\n")
        await writer.drain()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        script.connections += 1
        try:
            await say(writer, script.reply("BANNER"))
            while line := await reader.readline():
                command = line.decode().split(" ")[0].strip().upper()
                script.commands.append(command)
                reply = script.reply(command)
                await say(writer, reply)
                if command == "DATA" and reply is not None and reply.startswith("354"):
                    script.messages.append(await reader.readuntil(b"\r\n.\r\n"))
                    script.commands.append(".")
                    await say(writer, script.reply("."))
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    script.port = server.sockets[0].getsockname()[1]
    try:
        yield script
    finally:
        server.close()
        for task in list(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()
