"""How consents end: revoked by the account or an operator, or gone with their customer."""

import pytest

from app.consents import actions, coverage
from app.consents.models import ConsentStatus
from app.core import clock
from app.core.errors import ErrorCode, Refusal
from app.customers import actions as customers
from app.db.database import run_script
from app.outbound.mail.mail_files import MailFiles
from tests.consents.helpers import (
    ELECTRICITY,
    ask_for_consent,
    event_names,
    events,
    evidence_count,
    meters,
)
from tests.support import World

APPROVED, REVOKED = "hosted_consent.approved", "hosted_consent.revoked"


async def test_revocation_ends_the_consent_and_is_recorded(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    await asked.revoke("The customer wrote")
    consent = await asked.stored()
    assert consent.status(clock.now()) is ConsentStatus.REVOKED
    assert not consent.is_valid(clock.now())
    assert consent.revoked_at is not None
    assert consent.consented_at is not None
    (meter,) = await meters(world, asked.account_id)
    log = await events(world, asked.account_id)
    assert [one.type for one in log] == ["customer.created", "meter.created", APPROVED, REVOKED]
    approved = log[-2].data
    assert log[-1].data == {
        **approved,
        "status": "REVOKED",
        "revokedAt": clock.format_utc(consent.revoked_at),
        "revocationReason": "The customer wrote",
        "updatedAt": clock.format_utc(consent.revoked_at),
    }
    assert approved["meterIds"] == [meter.id]
    async with world.database.reading() as session:
        effective = await run_script(session, coverage.effective_consents([meter.id], clock.now()))
    assert coverage.is_missing(effective[meter.id], clock.now())


async def test_only_an_approved_consent_can_be_revoked(world: World) -> None:
    pending, declined, revoked, expired = [await ask_for_consent(world) for _ in range(4)]
    await declined.decline()
    await revoked.approve()
    await revoked.revoke()
    await expired.approve()
    await expired.expire()
    for asked in (pending, declined, revoked, expired):
        before = (await asked.stored()).model_dump()
        names = await event_names(world, asked.account_id)
        with pytest.raises(Refusal) as caught:
            await asked.revoke("too late")
        assert (caught.value.code, caught.value.field) == (ErrorCode.CONFLICT, ["hostedConsentId"])
        assert (await asked.stored()).model_dump() == before
        assert await event_names(world, asked.account_id) == names


async def test_an_operator_revokes_for_any_account(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    async with world.database.transaction() as session:
        asked.actor = await actions.operator_of(session, asked.consent.id)
        with pytest.raises(Refusal) as caught:
            await actions.operator_of(session, "hc_nobody")
    assert caught.value.code is ErrorCode.NOT_FOUND
    await asked.revoke("By mail to the privacy contact")
    assert (await event_names(world, asked.account_id))[-1] == REVOKED


async def test_another_account_cannot_revoke(world: World) -> None:
    mine, theirs = await ask_for_consent(world), await ask_for_consent(world)
    await theirs.approve()
    theirs.actor = mine.actor
    with pytest.raises(Refusal) as caught:
        await theirs.revoke()
    assert caught.value.code is ErrorCode.NOT_FOUND
    assert (await theirs.stored()).decision == "APPROVED"


async def test_deleting_the_customer_takes_consent_and_evidence_and_redacts_the_log(world: World) -> None:
    asked = await ask_for_consent(world, description="For Ada")
    await asked.approve()
    await asked.revoke("Ada wrote")
    async with world.database.transaction() as session:
        await customers.delete(
            session,
            asked.actor,
            world.services.keyring,
            asked.customer.id,
            MailFiles(world.services.settings.mail_folder),
        )
    assert await evidence_count(world) == 0
    approved, revoked = (await events(world, asked.account_id))[-2:]
    for record in (approved, revoked):
        text = str(record.data)
        assert not any(word in text for word in ("Ada", "ada@", "Occupier", ELECTRICITY, "bright.example"))
        assert record.data["id"] == asked.consent.id
        assert record.data["customerId"] == asked.customer.id
        assert len(record.data["meterIds"]) == 1
