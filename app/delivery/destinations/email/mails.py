"""The mails of a subscription: about one event, about several, and the question that confirms its address.

The feature of an event declares the mail's headline, which is the subject, and the facts (`emails.py`).
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.letterhead import Letterhead, account_name, letterhead
from app.delivery.destinations.email.models import EmailSubscription
from app.events import event_type_filter
from app.events.catalogue import event_class
from app.events.models import EventRecord
from app.outbound.mail.link_removal import without_links
from app.outbound.mail.rendering import MAX_SUBJECT, Mail, count, laid_out, shorten, uk_time
from app.outbound.mail.wording import MailFacts, Wording

_MAX_VALUE = 500

Wordings = Mapping[str, Wording]


async def event_mail(
    session: AsyncSession,
    wording: Wordings,
    subscription: EmailSubscription,
    event: EventRecord,
    unsubscribe_url: str,
) -> Mail:
    """The mail about an event, with names as they are now."""
    facts = await _facts_of(session, wording, event)
    headline = shorten(facts.headline, MAX_SUBJECT)
    values: dict[str, Any] = {
        "headline": headline,
        "rows": [(label, shorten(value, _MAX_VALUE)) for label, value in facts.rows],
        "when": uk_time(event.occurred_at),
        "event": event,
    }
    account = await letterhead(session, subscription.account_id)
    return laid_out("event", headline, values | _reader(account, subscription, unsubscribe_url))


async def _facts_of(session: AsyncSession, wording: Wordings, event: EventRecord) -> MailFacts:
    """The facts of an event by its feature's wording, or by the catalogue's where there is none."""
    own = wording.get(event.type)
    return _plain_facts(event) if own is None else await own(session, event)


def _plain_facts(event: EventRecord) -> MailFacts:
    """The event in the catalogue's words, with the values at the top of its data that are not personal."""
    kind = event_class(event.type)
    personal = {path.partition(".")[0] for path in kind.personal}
    return MailFacts(
        kind.words,
        [
            (_label(name), str(value))
            for name, value in event.data.items()
            if name not in personal and isinstance(value, str | int | float)
        ],
    )


def _label(name: str) -> str:
    """`Interval count` of `intervalCount`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize()


async def digest_mail(
    session: AsyncSession,
    wording: Wordings,
    subscription: EmailSubscription,
    events: Sequence[EventRecord],
    unsubscribe_url: str,
) -> Mail:
    """The mail about several events, in their order, with names as they are now."""
    entries: list[dict[str, Any]] = []
    for event in events:
        facts = await _facts_of(session, wording, event)
        headline = shorten(facts.headline, MAX_SUBJECT)
        entries.append({"headline": headline, "when": uk_time(event.occurred_at), "event": event})
    account = await letterhead(session, subscription.account_id)
    more = f", and {count(len(entries) - 1, 'more event')}" if len(entries) > 1 else ""
    subject = shorten(entries[0]["headline"], MAX_SUBJECT - len(more)) + more
    values = {"headline": f"{count(len(entries), 'event')} of {account.name}", "entries": entries}
    return laid_out("digest", subject, values | _reader(account, subscription, unsubscribe_url))


async def confirmation_mail(
    session: AsyncSession, subscription: EmailSubscription, link: str, until: datetime, unsubscribe_url: str
) -> Mail:
    """The question to an address whether it wants an account's mails.

    Beside the account's name it holds no text of the account's making, which could otherwise have us send any words to
    any address.
    """
    account = without_links(await account_name(session, subscription.account_id))
    values: dict[str, Any] = {
        "account": account,
        "address": subscription.email,
        "link": link,
        "until": uk_time(until),
        "types": event_type_filter.in_words(subscription.event_types),
        "unsubscribe_url": unsubscribe_url,
    }
    return laid_out("confirm", f"Confirm: mails about events of {account}", values)


def _reader(account: Letterhead, subscription: EmailSubscription, unsubscribe_url: str) -> dict[str, Any]:
    """Values for `subscribed.html`: mails to confirmed addresses, the only mails with the account's logo.

    An account can name any address. Until its owner agrees, the account cannot show them a picture, or learn from the
    picture's server that a mail was opened.
    """
    return {
        "account": account.name,
        "logo_url": account.logo_url,
        "address": subscription.email,
        "unsubscribe_url": unsubscribe_url,
    }
