"""Notices to an account's people about a webhook endpoint: it fails for good, it was disabled."""

from typing import Any

from sqlalchemy import Row
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.confirmation import notice_recipients
from app.accounts.letterhead import account_name
from app.core import clock
from app.outbound.mail import rendering
from app.outbound.mail.link_tokens import MailLinks
from app.outbound.mail.mail_queue import enqueue
from app.outbound.mail.mime import plain_address
from app.outbound.retry import DISABLED_AFTER


async def tell_failing(
    session: AsyncSession, links: MailLinks, endpoint: Row[Any], error: str | None
) -> None:
    """A delivery was given up, and nothing has arrived since the row's `failing_since`."""
    days = DISABLED_AFTER // 86_400
    await _enqueue_notice(
        session,
        links,
        endpoint,
        "Webhooks fail",
        what=f"A delivery to this endpoint was given up after all of its attempts. If nothing arrives for {days} days, "
        "the endpoint is disabled.",
        error=error,
        steps=(
            ("When the receiver works again, have everything that failed sent once more:", _replay(endpoint)),
        ),
    )


async def tell_disabled(session: AsyncSession, links: MailLinks, endpoint: Row[Any], reason: str) -> None:
    """The endpoint gets nothing any more, for this reason."""
    enable = f'updateWebhookEndpoint(input: {{webhookEndpointId: "{endpoint.id}", status: ENABLED}})'
    await _enqueue_notice(
        session,
        links,
        endpoint,
        "Webhooks stopped",
        what="This endpoint was disabled. It gets nothing more, and what waited for it was cancelled.",
        error=reason,
        steps=(
            ("When the receiver works again, enable the endpoint:", enable),
            ("Then have what it missed sent:", _replay(endpoint)),
        ),
    )


def _replay(endpoint: Row[Any]) -> str:
    since = clock.format_utc(endpoint.failing_since or endpoint.now)
    return f'replayEvents(input: {{webhookEndpointId: "{endpoint.id}", failedSince: "{since}"}})'


async def _enqueue_notice(
    session: AsyncSession, links: MailLinks, endpoint: Row[Any], headline: str, **values: Any
) -> None:
    """Queue a mail to each confirmed address of the account's administrators."""
    account = await account_name(session, endpoint.account_id)
    subject = rendering.shorten(f"{headline}: {host_of(endpoint.url)} ({account})", rendering.MAX_SUBJECT)
    facts = [("Endpoint", endpoint.url), ("Id", endpoint.id)]
    if endpoint.failing_since is not None:
        facts += [
            ("Failing since", rendering.uk_time(endpoint.failing_since)),
            ("Failed", rendering.count(endpoint.failures, "attempt") + " in a row"),
        ]
    if values["error"]:
        facts.append(("Why", values["error"]))
    mail = rendering.laid_out(
        "notice",
        subject,
        values
        | {
            "headline": subject,
            "account": account,
            "rows": [(name, rendering.shorten(value, 500)) for name, value in facts],
        },
    )
    for address in await notice_recipients(session, links, endpoint.account_id):
        try:
            recipient = plain_address(address)
        except ValueError:
            continue
        enqueue(session, links.keyring, endpoint.account_id, recipient, mail, endpoint.id)


def host_of(url: str) -> str:
    """The part of a link that a subject has room for."""
    return url.split("/", 3)[2] if url.count("/") >= 2 else url
