"""The wording of mails about hosted consents."""

from collections.abc import Mapping
from typing import Any, Final

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.consents.events import (
    HostedConsentApproved,
    HostedConsentDeclined,
    HostedConsentExpired,
    HostedConsentRevoked,
)
from app.consents.models import HostedConsent
from app.core.clock import parse_utc
from app.customers.emails import customer_name
from app.events.catalogue import REDACTED
from app.events.models import EventRecord
from app.outbound.mail.rendering import count, uk_day, uk_time
from app.outbound.mail.wording import MailFacts, Wording

_SHOWN_NUMBERS = 10
_FLOWS = {
    "GB_RESIDENTIAL_SPECIFIC": "Residential, for these meters",
    "GB_COMMERCIAL_BLANKET": "Commercial, for all meters of the customer",
}


async def approved(session: AsyncSession, event: EventRecord) -> MailFacts:
    data, customer = event.data, await customer_name(session, event)
    meters = count(len(data["meterIds"]), "meter")
    return MailFacts(
        f"{customer} approved access to {meters} until {uk_day(data['expiry'])}",
        [
            ("Customer", customer),
            ("Meters", _numbers(data)),
            ("Consent", _FLOWS[data["flowType"]]),
            ("Given by", data["consenteeFullName"] or REDACTED),
            ("Valid until", f"the end of {uk_day(data['expiry'])} (UK)"),
        ],
    )


async def revoked(session: AsyncSession, event: EventRecord) -> MailFacts:
    data, customer = event.data, await customer_name(session, event)
    meters = count(len(data["meterIds"]), "meter")
    rows = [("Customer", customer), ("Meters", _numbers(data)), ("Consent", _FLOWS[data["flowType"]])]
    if data["revocationReason"]:
        rows.append(("Reason", data["revocationReason"]))
    if data["consentedAt"]:
        rows.append(("Given", uk_time(parse_utc(data["consentedAt"]))))
    return MailFacts(f"Consent of {customer} revoked: no more new data for {meters}", rows)


async def declined(session: AsyncSession, event: EventRecord) -> MailFacts:
    data, customer = event.data, await customer_name(session, event)
    rows = [("Customer", customer), ("Consent", _FLOWS[data["flowType"]])]
    if data["meterIds"]:
        rows.insert(1, ("Meters", _numbers(data)))
    if data["description"]:
        rows.append(("Purpose", data["description"]))
    # The reason is the end customer's own text, which events do not carry.
    reason = select(HostedConsent.decline_reason).where(
        col(HostedConsent.account_id) == event.account_id, col(HostedConsent.id) == event.subject_id
    )
    if given := (await session.exec(reason)).one_or_none():
        rows.append(("Reason", given))
    return MailFacts(f"{customer} declined the consent request", rows)


async def expired(session: AsyncSession, event: EventRecord) -> MailFacts:
    data, customer = event.data, await customer_name(session, event)
    meters = count(len(data["meterIds"]), "meter")
    rows = [
        ("Customer", customer),
        ("Meters", _numbers(data)),
        ("Consent", _FLOWS[data["flowType"]]),
        ("Last day", f"{uk_day(data['expiry'])} (UK)"),
    ]
    if data["consentedAt"]:
        rows.append(("Given", uk_time(parse_utc(data["consentedAt"]))))
    return MailFacts(f"Consent of {customer} expired: ask for a new one for {meters}", rows)


def _numbers(data: dict[str, Any]) -> str:
    """The first meter numbers; their count where they were redacted."""
    numbers: list[str] = data["meterNumbers"]
    if not numbers:
        return count(len(data["meterIds"]), "meter")
    more = len(numbers) - _SHOWN_NUMBERS
    return ", ".join(numbers[:_SHOWN_NUMBERS]) + (f" and {more:,} more" if more > 0 else "")


WORDING: Final[Mapping[str, Wording]] = {
    HostedConsentApproved.type: approved,
    HostedConsentRevoked.type: revoked,
    HostedConsentDeclined.type: declined,
    HostedConsentExpired.type: expired,
}
