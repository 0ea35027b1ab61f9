"""The terms that an end customer agrees to, worded once for the page and the evidence."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, Self

from sqlmodel import col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.accounts.models import Account
from app.consents import coverage
from app.consents.models import HostedConsent
from app.core import clock
from app.customers.models import Customer
from app.meters import numbers
from app.web.render import TEMPLATES

_REVISION: Final = "1"
# The version follows from the files that a visitor's page is made of, so it changes whenever they do.
_SHOWN: Final = (Path(__file__), TEMPLATES / "base.html", TEMPLATES / "consent.html")
PAGE_VERSION: Final = (
    f"{_REVISION}-{hashlib.sha256(b''.join(one.read_bytes() for one in _SHOWN)).hexdigest()[:12]}"
)


@dataclass(frozen=True)
class Terms:
    """The terms of a request in the words of the page."""

    account: str
    logo_url: str | None
    customer: str
    is_specific: bool
    # The meters that a specific consent names, or that a blanket one covers already.
    numbers: tuple[str, ...]
    until: str
    purpose: str | None
    privacy_contact: str

    @classmethod
    async def of(
        cls,
        session: AsyncSession,
        consent: HostedConsent,
        privacy_contact: str,
        entered: Sequence[str] = (),
    ) -> Self:
        """The terms of a consent, with the visitor's entered numbers where the request names none."""
        names = (
            select(col(Account.name), col(Account.logo_url), col(Customer.name))
            .join(Customer, col(Customer.account_id) == col(Account.id))
            .where(col(Customer.id) == consent.customer_id)
        )
        account, logo_url, customer = (await session.execute(names)).one()
        named = consent.meter_numbers or list(entered)
        if not consent.names_meters:
            covered = await coverage.covered_meters(session, consent.id)
            named = list(dict.fromkeys([*named, *(meter.number for meter in covered)]))
        return cls(
            account=account,
            logo_url=logo_url,
            customer=customer,
            is_specific=consent.names_meters,
            numbers=tuple(named),
            until=clock.long_date(consent.expiry),
            purpose=consent.description,
            privacy_contact=privacy_contact,
        )

    @property
    def meters(self) -> tuple[str, ...]:
        """The meters with their type: `1312345678907 (electricity)`."""
        return tuple(f"{one} ({numbers.parse(one).type.value.lower()})" for one in self.numbers)

    @property
    def statements(self) -> tuple[str, ...]:
        """The statements that the end customer agrees to, in the first person."""
        if self.is_specific:
            which = f"the meters with these numbers: {', '.join(self.numbers)}"
            if not self.numbers:
                which = "the meters whose numbers I enter on this page"
        else:
            which = (
                f"every electricity and gas meter of {self.customer}: "
                "those it has now and those it gets while this consent lasts"
            )
        return (
            f"I allow {self.account} to collect the energy used in each half-hour, past and future, by {which}.",
            f"This consent lasts to the end of {self.until} (UK time), unless I withdraw it before.",
            f"I can withdraw it at any time and without a reason by writing to {self.privacy_contact}.",
            "Data collected until then may be kept.",
            f"I am {self.customer}, or I am entitled to decide this for {self.customer}.",
        )


def uk_time_words(instant: datetime) -> str:
    """`24 November 2026, 22:29 (UK time)`."""
    local = instant.astimezone(clock.UK)
    return f"{clock.long_date(local)}, {local:%H:%M} (UK time)"
