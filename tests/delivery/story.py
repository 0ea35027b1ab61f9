"""An account in which all events happen, and the mails about them."""

from dataclasses import dataclass, replace
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Self

import orjson

from app.consents.expiries import Expiries
from app.delivery.destinations.email import mails
from app.delivery.destinations.email.models import EmailSubscription
from app.events.models import EventRecord
from app.outbound.mail.addresses import HashedAddress
from app.outbound.mail.folder import FolderMailer
from app.outbound.mail.rendering import Mail
from app.outbound.mail.sender import MailSender
from app.server.wording import WORDING
from tests.accounts.state import events, mutation
from tests.consents.helpers import OTHER, Asked, ask_again, ask_for_consent
from tests.delivery.disabling import disabled_endpoint
from tests.events.upgraded import upgraded_at
from tests.feeds.feeding import ail, ended_backfill, made_feed
from tests.imports.importing import ended_import
from tests.meters.asking import run
from tests.readings.silences.silent import silent_meters
from tests.support import TestAccount, World

PUBLIC_URL = "https://voltwire.example"
HALF_HOURS = [f"2026-06-30T{hour:02}:{minute:02}:00.000Z" for hour in range(24) for minute in (0, 30)]


@dataclass
class Story:
    world: World
    account: TestAccount
    asked: Asked
    subscription: EmailSubscription

    @classmethod
    async def of(cls, world: World, **consent: Any) -> Self:
        """An account with a customer whose consent was approved, and a subscription to everything."""
        asked = await ask_for_consent(world, **consent)
        await asked.approve()
        subscription = EmailSubscription(account_id=asked.account_id, email="grace@example.com")
        return cls(world, TestAccount(asked.account_id, "", asked.key), asked, subscription)

    async def go_on(self) -> None:
        """Data arrives, a key is rotated, the consent is revoked, an import ends, and so on."""
        meter_id = (await self.event("meter.created")).subject_id
        readings = [{"startAt": at, "consumption": "0.125"} for at in HALF_HOURS]
        await run(
            self.world,
            self.account,
            mutation("recordReadings", "changed"),
            meterId=meter_id,
            readings=readings,
        )
        await silent_meters(self.world)
        keys = await self.world.data("{ apiKeys { id } }", key=self.account.key)
        await run(
            self.world,
            self.account,
            mutation("rotateApiKey", "secret"),
            apiKeyId=keys["apiKeys"][0]["id"],
            overlapSeconds=3600,
        )
        await self.asked.revoke("Ada moved out.")
        await ended_import(self.world, self.account.id)
        asked = self.asked
        again = await ask_again(
            self.world, asked.account_id, asked.key, asked.actor, asked.customer, meter_numbers=[OTHER]
        )
        await again.decline("Ada is content.")
        last = await ask_again(self.world, asked.account_id, asked.key, asked.actor, asked.customer)
        await last.approve()
        await last.expire()
        await upgraded_at(self.world)
        assert await Expiries(self.world.database).step()
        await disabled_endpoint(self.world, self.account.id)
        feed_id = await made_feed(self.world, self.account.id)
        await ended_backfill(self.world, meter_id, feed_id)
        await ail(self.world, feed_id)

    async def event(self, name: str) -> EventRecord:
        found = [one for one in await events(self.world, self.account.id) if one.type == name]
        return found[-1]

    async def mail(self, name: str) -> Mail:
        """The mail about the latest event of this type, as it would be written now."""
        return await self.mail_about(await self.event(name))

    async def mail_about(self, event: EventRecord) -> Mail:
        async with self.world.database.reading() as session:
            return await mails.event_mail(session, WORDING, self.subscription, event, self.unsubscribe_url)

    @property
    def unsubscribe_url(self) -> str:
        keyring = self.world.services.keyring
        address = HashedAddress.of(keyring, self.account.id, self.subscription.email)
        links = replace(self.world.services.mail_links, public_url=PUBLIC_URL)
        return links.unsubscribe_url(self.subscription.id, address)

    async def eml(self, mail: Mail, folder: Path) -> EmailMessage:
        """The mail as the file that the mailer writes, read by the standard library."""
        sender = MailSender(FolderMailer(folder), "Voltwire <events@voltwire.example>")
        content = orjson.dumps({"subject": mail.subject, "text": mail.text, "html": mail.html})
        await sender.send("dlv_1", self.subscription.email, content, self.unsubscribe_url)
        [file] = folder.glob("*.eml")
        message = message_from_bytes(file.read_bytes(), policy=policy.default)
        assert isinstance(message, EmailMessage)
        return message
