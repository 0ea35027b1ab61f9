"""The parts of a worker that the kinds of destinations make their senders from."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.delivery.destinations.email.mails import Wordings
from app.graphql.context import Services
from app.graphql.engine import Engine
from app.outbound.http.transport import Transport
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.sender import MailSender


@dataclass(frozen=True)
class WorkerParts:
    worker_id: str
    services: Services
    transport: Transport
    mail_sender: MailSender
    wording: Wordings
    # Gives the engine when the first selection is to be executed.
    engine: Callable[[], Engine]

    @property
    def schedule(self) -> Sequence[float]:
        """Seconds between the attempts at one delivery."""
        return self.services.settings.webhook_retry_schedule

    @property
    def links(self) -> MailLinks:
        return self.services.mail_links
