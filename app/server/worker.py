"""The worker turns committed events into deliveries, sends them, makes those of replays and keeps house.

Any number of workers may run over one PostgreSQL. Each learns of new events by the doorbell, and polls every second as
well. Claims are leases, so that other workers take over the deliveries of one that dies.
"""

import asyncio
import secrets
import time
from collections.abc import Collection, Mapping, Sequence
from functools import cache

import structlog

from app.consents.expiries import Expiries
from app.core import failpoints
from app.core.periodic import Loop, wait_at_most
from app.delivery.destinations.email.provider import suspend_unconfirmed
from app.delivery.destinations.worker_parts import WorkerParts
from app.delivery.metadata import METADATA
from app.delivery.queue.cancellation import Cancellation
from app.delivery.queue.dispatch import Dispatcher
from app.delivery.queue.kinds import BackgroundSender, DestinationSender
from app.delivery.queue.replay_worker import ReplayWorker
from app.events.broadcast.base import RESYNC
from app.events.doorbell import Doorbell
from app.events.publisher import DISPATCH_CHANNEL
from app.feeds.fetching.worker import FeedWorker
from app.graphql.bounds.limits import limits_of
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.imports.worker import ImportWorker
from app.outbound.http.transport import Transport
from app.outbound.mail.dkim import signer_of
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.mailer import Mailer, open_mailer
from app.outbound.mail.sender import MailSender
from app.outbound.mail.transactional import TransactionalSender
from app.readings.carry_over import CarryOver
from app.readings.silences.worker import Silences
from app.schema import build_schema
from app.server.housekeeping import Housekeeping
from app.server.wording import WORDING

POLL_EVERY = 1.0
GATHER_SECONDS = 0.02
"""Seconds within which committed events are dispatched together, in one transaction."""

MOST_RUNG = 1000
"""With more accounts to dispatch for than this, polling all accounts costs no more."""

CANCEL_EVERY = 10.0
HOUSEKEEPING_EVERY = 3600.0
CARRY_OVER_PAUSE = 0.05
RAISE_EVERY = 10.0
"""Events that the passing of time raises are promised within a minute."""

RAISE_PAUSE = 0.02
DRAIN_SECONDS = 8.0
"""Seconds that a stop waits for attempts in flight …"""

RECORD_SECONDS = 2.0
"""… and for recording their outcomes after that: together well within the 20 s that SIGTERM may take."""

BACKGROUND_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Worker:
    """`run()` works until `stop()`. Cancelled instead, it drops everything, as a crash would.

    `transport`, which is closed at the end, and `engine`, which runs endpoints' selections, are made from the settings
    unless they are given; tests stop without waiting for `drain_seconds`.
    """

    def __init__(
        self,
        services: Services,
        doorbell: Doorbell,
        transport: Transport | None = None,
        engine: Engine | None = None,
        drain_seconds: float = DRAIN_SECONDS,
    ) -> None:
        settings, database, kinds = services.settings, services.database, services.kinds
        self.id = f"worker_{secrets.token_hex(4)}"
        self._database = database
        self._doorbell = doorbell
        self._drain_seconds = drain_seconds
        transport = transport or Transport(settings.webhook_allow_networks)
        mailer = open_mailer(settings.smtp_url, settings.mail_folder, signer_of(settings))
        self._to_close: tuple[Transport, Mailer] = transport, mailer
        parts = WorkerParts(
            self.id,
            services,
            transport,
            MailSender(mailer, settings.mail_from),
            WORDING,
            cache(lambda: engine or Engine(build_schema(), limits_of(settings))),
        )
        by_label = {label: sender for kind in kinds for label, sender in kind.senders(parts).items()}
        self._destination_senders: Sequence[DestinationSender] = list(by_label.values())
        self.senders: Mapping[str, BackgroundSender] = {
            **by_label,
            "transactional": TransactionalSender(
                database, services.keyring, parts.mail_sender, parts.schedule, suspend_unconfirmed, self.id
            ),
        }
        """By the label that metrics give them."""
        self.dispatcher = Dispatcher(database, kinds, METADATA, self._mark_due)
        self._replay_worker = ReplayWorker(database, kinds, METADATA, self._mark_due)
        self._cancellation = Cancellation(database, kinds)
        self._housekeeping = Housekeeping(
            database, settings.event_retention_days, MailFiles(settings.mail_folder)
        )
        self._carry_over = CarryOver(database)
        self._expiries = Expiries(database)
        self._silences = Silences(database)
        self.imports = ImportWorker(database)
        importing = Loop("imports", self._import_files)
        self.imports.bell = importing.bell
        self.feeds = FeedWorker(database, services.sources, services.mail_links)
        feeding = Loop("feeds", self.feeds.turn)
        self.feeds.bell = feeding.bell
        self._loops = [
            Loop("dispatch", self._dispatch),
            Loop("replays", self._replay),
            Loop("cancellation", self._cancel_inactive),
            Loop("housekeeping", self._keep_house),
            Loop("readings", self._carry_over_readings),
            Loop("expiries", self._raise_expiries),
            Loop("silences", self._look_for_silences),
            importing,
            feeding,
        ]
        # Accounts that rang since the last dispatch, and when to go through all of them.
        self._rung: set[str] = set()
        self._poll_all_at = 0.0
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._is_running = False

    @property
    def failures(self) -> int:
        """Turns of any loop that failed and were tried again."""
        senders = sum(sender.failures for sender in self.senders.values())
        return senders + sum(loop.failures for loop in self._loops)

    async def run(self) -> None:
        """Works until `stop()`; an error of the database or the network never ends it."""
        self._is_running = True
        log.info("worker_started", worker_id=self.id)
        try:
            async with asyncio.TaskGroup() as group:
                sending = [group.create_task(one.run()) for one in self.senders.values()]
                background = [group.create_task(one.run(), name="worker loop") for one in self._loops]
                listening = group.create_task(self._listen(), name="worker doorbell")
                await self._stopping.wait()
                listening.cancel()
                await self._end(background, BACKGROUND_SECONDS)
                await self.imports.aclose()
                await self.feeds.aclose()
                await self._end(sending, self._drain_seconds + RECORD_SECONDS)
        finally:
            await self.imports.aclose()
            await self.feeds.aclose()
            for part in self._to_close:
                await part.aclose()
            self._ended.set()
        log.info("worker_stopped", worker_id=self.id)

    async def stop(self) -> None:
        """Claims nothing more, lets attempts in flight finish, gives the rest back; returns when `run` has ended."""
        if not self._stopping.is_set():
            self._stopping.set()
            for loop in self._loops:
                loop.stop()
            for sender in self.senders.values():
                sender.stop(self._drain_seconds)
        if self._is_running:
            await self._ended.wait()

    async def _end(self, tasks: list[asyncio.Task[None]], seconds: float) -> None:
        await asyncio.wait(tasks, timeout=seconds)
        for task in tasks:
            task.cancel()

    def _mark_due(self, destination_ids: Collection[str], lane: int) -> None:
        for sender in self._destination_senders:
            sender.mark_due(destination_ids, lane)

    async def _listen(self) -> None:
        """Rings the dispatch loop for each ring of the doorbell: new events, or deliveries that became due."""
        async with self._doorbell.listen(DISPATCH_CHANNEL) as rings:
            async for account_id in rings:
                self._rung.add(account_id)
                self._loops[0].bell.ring()

    async def _dispatch(self) -> float:
        """Dispatch the accounts that rang, and all accounts about every second, whatever the doorbell does."""
        rung, self._rung = self._rung, set()
        for_everyone = RESYNC in rung or len(rung) > MOST_RUNG or time.monotonic() >= self._poll_all_at
        try:
            dispatched = await (self.dispatcher.run() if for_everyone else self.dispatcher.run_for(rung))
        except BaseException:
            self._poll_all_at = 0.0
            raise
        if for_everyone:
            # However many accounts there are, the search takes a small part of the time.
            self._poll_all_at = time.monotonic() + max(POLL_EVERY, 20 * self.dispatcher.search_seconds)
        if dispatched:
            await wait_at_most(self._stopping, GATHER_SECONDS)
        else:
            # Another worker was faster, or the ring was for no event: a delivery may be due all the same.
            for sender in self.senders.values():
                sender.check_soon()
        return max(self._poll_all_at - time.monotonic(), 0.001)

    async def _replay(self) -> float:
        await self._replay_worker.run()
        return POLL_EVERY

    async def _cancel_inactive(self) -> float:
        await self._cancellation.run()
        async with self._database.reading() as session:
            for sender in self.senders.values():
                await sender.count_due(session)
        failpoints.reach("cancellation.counted")
        return CANCEL_EVERY

    async def _keep_house(self) -> float:
        await self._housekeeping.run()
        return HOUSEKEEPING_EVERY

    async def _import_files(self) -> float:
        return 0 if await self.imports.turn() else POLL_EVERY

    async def _carry_over_readings(self) -> float:
        return CARRY_OVER_PAUSE if await self._carry_over.step() else HOUSEKEEPING_EVERY

    async def _raise_expiries(self) -> float:
        return RAISE_PAUSE if await self._expiries.step() else RAISE_EVERY

    async def _look_for_silences(self) -> float:
        return RAISE_PAUSE if await self._silences.step() else RAISE_EVERY
