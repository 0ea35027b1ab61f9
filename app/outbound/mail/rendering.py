"""Mails for people: about an event, and to confirm an address.

What an event's mail says is declared by the feature that the event belongs to, in its `emails.py`: a headline, which is
the subject, and rows of facts, as they are when the mail is written. This module lays them out as text for a terminal
and as HTML for a phone.
"""

import re
import textwrap
import unicodedata
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Final

import orjson
from sqlmodel.ext.asyncio.session import AsyncSession

from app.core.clock import UK
from app.core.crypto import Keyring
from app.core.validation import is_link
from app.delivery.queue import event_names
from app.delivery.queue.models import EmailSubscription, OutgoingMail
from app.events.catalogue import REDACTED, EventType
from app.events.models import EventRecord
from app.outbound.mail.mime import header_text
from app.web.render import render

WIDTH: Final = 72
# Mail programs show little more than this of a subject, and a name of 200 characters is not one.
MAX_SUBJECT: Final = 150
_MAX_VALUE: Final = 500
_LABEL: Final = 16

_LINK_REMOVED: Final = "[link removed]"
_DOT: Final = "[.\u3002\uff0e\uff61\u2024]"
_WORD: Final = re.compile(r"\S+")
# In a word with a scheme, a mail address, or a name of a host: its last label has two letters or more, and so is no
# initial. A single letter before capitals is a company rather than a host, unless a path follows.
_LINK: Final = re.compile(
    rf""":/ | @ | \bwww{_DOT}
        | (?:[^\W_]|-){{2}}{_DOT}[^\W\d_]{{2}}
        | \w{_DOT}(?:[a-z]{{2}} | [^\W\d_]{{2,}}[/:?#])
        | \bxn-- | \d+(?:{_DOT}\d+){{3}}
    """,
    re.VERBOSE,
)

_MONTHS: Final = (
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
)  # fmt: skip


@dataclass(frozen=True)
class Mail:
    subject: str
    text: str
    html: str


@dataclass(frozen=True)
class MailFacts:
    """What happened, in one line, and the facts as (label, value)."""

    headline: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Letterhead:
    """An account as its mails show it."""

    name: str
    logo_url: str | None


@dataclass(frozen=True)
class Post:
    """The keys and the address that links of ours in mails are made with."""

    keyring: Keyring
    public_url: str


Wording = Callable[[AsyncSession, EventRecord], Awaitable[MailFacts]]
LetterheadOfAccount = Callable[[AsyncSession, str], Awaitable[Letterhead]]
RecipientsOfAccount = Callable[[AsyncSession, Post, str], Awaitable[Sequence[str]]]

_wordings: dict[str, Wording] = {}
_letterheads: list[LetterheadOfAccount] = []
_recipients: list[RecipientsOfAccount] = []


def mail_for(kind: EventType) -> Callable[[Wording], Wording]:
    """Register what mails about this event say."""

    def register(wording: Wording) -> Wording:
        _wordings[kind.value] = wording
        return wording

    return register


def letterhead_of_account(load: LetterheadOfAccount) -> LetterheadOfAccount:
    """Register the name and the logo of an account; this room does not know accounts."""
    _letterheads[:] = [load]
    return load


def recipients_of_account(load: RecipientsOfAccount) -> RecipientsOfAccount:
    """Register to whom notices about an account's destinations go."""
    _recipients[:] = [load]
    return load


async def account_recipients(session: AsyncSession, post: Post, account_id: str) -> Sequence[str]:
    """The addresses of those who look after the account and have confirmed that they do."""
    return await _recipients[0](session, post, account_id)


async def account_name(session: AsyncSession, account_id: str) -> str:
    """What the account is called, fit to be shown to anyone."""
    return (await _letterhead(session, account_id)).name


async def _letterhead(session: AsyncSession, account_id: str) -> Letterhead:
    """The account as anyone may see it: its name on one line, a logo by https only."""
    found = await _letterheads[0](session, account_id)
    logo = found.logo_url if found.logo_url and is_link(found.logo_url, schemes=("https",)) else None
    return Letterhead(shorten(found.name, 100), logo)


async def event_mail(
    session: AsyncSession,
    *,
    unsubscribe_url: str,
    event: EventRecord,
    subscription: EmailSubscription,
) -> Mail:
    """The mail about an event for the subscription's address, with names as of now."""
    facts = await _wordings[event.type](session, event)
    headline = shorten(facts.headline, MAX_SUBJECT)
    values: dict[str, object] = {
        "headline": headline,
        "rows": [(label, shorten(value, _MAX_VALUE)) for label, value in facts.rows],
        "when": uk_time(event.occurred_at),
        "event": event,
    }
    account = await _letterhead(session, subscription.account_id)
    return laid_out("event", headline, values | _reader(account, subscription, unsubscribe_url))


async def digest_mail(
    session: AsyncSession,
    *,
    unsubscribe_url: str,
    events: Sequence[EventRecord],
    subscription: EmailSubscription,
) -> Mail:
    """One mail about several events, in their order, with names as of now."""
    entries = []
    for event in events:
        facts = await _wordings[event.type](session, event)
        headline = shorten(facts.headline, MAX_SUBJECT)
        entries.append({"headline": headline, "when": uk_time(event.occurred_at), "event": event})
    account = await _letterhead(session, subscription.account_id)
    first = str(entries[0]["headline"])
    more = f", and {count(len(entries) - 1, 'more event')}" if len(entries) > 1 else ""
    subject = shorten(first, MAX_SUBJECT - len(more)) + more
    values: dict[str, object] = {
        "headline": f"{count(len(entries), 'event')} of {account.name}",
        "entries": entries,
    }
    return laid_out("digest", subject, values | _reader(account, subscription, unsubscribe_url))


def _reader(account: Letterhead, subscription: EmailSubscription, unsubscribe_url: str) -> dict[str, object]:
    """Values for `subscribed.html`: mails to confirmed addresses, the only ones with the account's logo.

    Anyone can name any address: until its owner agrees, no account can show them a picture, or learn from the
    picture's server that a mail was opened.
    """
    return {
        "account": account.name,
        "logo_url": account.logo_url,
        "address": subscription.email,
        "unsubscribe_url": unsubscribe_url,
    }


async def confirmation_mail(
    session: AsyncSession, subscription: EmailSubscription, link: str, until: datetime, unsubscribe_url: str
) -> Mail:
    """The question to an address whether it wants an account's mails.

    Beside the account's name it holds no text of the account's making: else anyone could have us send their words to
    anyone.
    """
    account = without_links(await account_name(session, subscription.account_id))
    subject = f"Confirm: mails about events of {account}"
    values: dict[str, object] = {
        "account": account,
        "address": subscription.email,
        "link": link,
        "until": uk_time(until),
        "types": event_names.in_words(subscription.event_types),
        "unsubscribe_url": unsubscribe_url,
    }
    return laid_out("confirm", subject, values)


async def user_mail(
    session: AsyncSession, account_id: str, address: str, link: str, unsubscribe_url: str
) -> Mail:
    """The question to an address whether it is that of a user of the account, and wants its notices."""
    account = without_links(await account_name(session, account_id))
    values: dict[str, object] = {
        "account": account,
        "address": address,
        "link": link,
        "unsubscribe_url": unsubscribe_url,
    }
    return laid_out("confirm_user", f"Confirm: notices of {account}", values)


def outgoing(
    keyring: Keyring, account_id: str, recipient: str, mail: Mail, about_id: str | None = None
) -> OutgoingMail:
    """A mail for the queue of those that are not about an event, encrypted as it may hold a token."""
    content = orjson.dumps(asdict(mail)).decode()
    return OutgoingMail(
        account_id=account_id,
        recipient=recipient,
        content_encrypted=keyring.encrypt(content),
        about_id=about_id,
    )


def without_links(name: str) -> str:
    """A name for people who have confirmed nothing: what mail programs make a link of is left out.

    Else anyone could have us send their links to anyone, in the name of an account.
    """
    return _WORD.sub(lambda word: _LINK_REMOVED if _LINK.search(_seen(word[0])) else word[0], name)


def _seen(word: str) -> str:
    """The text as people see it, without characters that have no form, such as a space of no width."""
    return "".join(one for one in word if unicodedata.category(one) != "Cf")


def shorten(value: str, most: int) -> str:
    """One printable line: whoever chose a name cannot add lines, and so words of ours, to a mail."""
    line = header_text(value)
    return line if len(line) <= most else line[: most - 1].rstrip() + "…"


def shown(name: str | None) -> str:
    """A name, or that what it belonged to is gone."""
    return REDACTED if name is None else name


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 half-hour`, `17,568 half-hours`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def uk_time(instant: datetime) -> str:
    """`24 November 2026, 22:29 GMT`: the clock and the date in the United Kingdom."""
    there = instant.astimezone(UK)
    return f"{there.day} {_MONTHS[there.month - 1]} {there.year}, {there:%H:%M} {there.tzname()}"


def uk_day(iso: str) -> str:
    """`24 November 2027` of `2027-11-24`."""
    year, month, day = iso.split("-")
    return f"{int(day)} {_MONTHS[int(month) - 1]} {year}"


def laid_out(template: str, subject: str, values: dict[str, object]) -> Mail:
    """A template of `mail/` as text and as HTML."""
    text = render(f"mail/{template}.txt", **values, wrap=_wrap, row=_row)
    return Mail(subject, text.strip() + "\n", render(f"mail/{template}.html", **values, title=subject))


def _wrap(text: str) -> str:
    """Lines of at most 72 columns; links stay whole."""
    return textwrap.fill(text, WIDTH, break_long_words=False, break_on_hyphens=False)


def _row(label: str, value: str) -> str:
    """A fact in two columns; words too long for the second are cut into lines."""
    first = f"{label}:".ljust(_LABEL)
    return textwrap.fill(
        value or "-", WIDTH, initial_indent=first, subsequent_indent=" " * _LABEL, break_on_hyphens=False
    )
