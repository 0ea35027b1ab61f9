"""Consent requests: their inputs and their changes."""

from datetime import date, timedelta
from typing import Any

import pytest

from app.consents import actions, coverage
from app.consents.models import ConsentMethod, ConsentStatus
from app.core import clock
from app.core.crypto import digest
from app.core.errors import ErrorCode, Refusal, Refusals
from app.db.database import run_script
from app.meters import actions as meter_actions
from tests.consents.helpers import (
    BLANKET,
    ELECTRICITY,
    GAS,
    OTHER,
    RESIDENTIAL,
    ask_again,
    ask_for_consent,
    event_names,
    in_a_year,
    links,
)
from tests.support import World

pytestmark = pytest.mark.usefixtures("within_half_hour")


def today() -> date:
    return clock.uk_date(clock.now())


async def test_a_request_is_pending_and_known_by_its_token(world: World) -> None:
    asked = await ask_for_consent(
        world,
        meter_numbers=["001 112 221 31 2345 6789 07", ELECTRICITY, GAS],
        description="  Half-hourly data for your tariff ",
        consentee_email="Ada@EXAMPLE.com",
        consentee_full_name="Ada Lovelace",
        consentee_job_title=" ",
    )
    consent = await asked.stored()
    assert consent.status(clock.now()) is ConsentStatus.PENDING
    assert consent.meter_numbers == [ELECTRICITY, GAS]
    assert consent.description == "Half-hourly data for your tariff"
    assert (consent.consentee_email, consent.consentee_job_title) == ("Ada@example.com", None)
    assert consent.expires_at == clock.end_of_uk_day(in_a_year())
    assert consent.consent_method == "DIGITAL_CONSENT"
    assert asked.token.startswith("vw_consent_")
    assert len(asked.token) == len("vw_consent_") + 43
    assert consent.token_hash == digest(asked.token)
    assert asked.token not in consent.token_encrypted
    assert await event_names(world, asked.account_id) == ["customer.created"]


async def test_a_request_is_linked_to_the_meters_it_means(world: World) -> None:
    first = await ask_for_consent(world)
    async with world.database.transaction() as session:
        mine = await run_script(
            session,
            meter_actions.create(session, first.actor, customer_id=first.customer.id, number=ELECTRICITY),
        )
        other = await run_script(
            session, meter_actions.create(session, first.actor, customer_id=first.customer.id, number=OTHER)
        )
    assert await links(world, first.consent.id) == {mine.id}
    again = (world, first.account_id, first.key, first.actor, first.customer)
    specific = await ask_again(*again)
    blanket = await ask_again(*again, flow_type=BLANKET, meter_numbers=None)
    assert await links(world, specific.consent.id) == {mine.id}
    assert await links(world, blanket.consent.id) == {mine.id, other.id}


@pytest.mark.parametrize("days", [0, 3653])
async def test_expiry_may_be_today_and_ten_years_on(world: World, days: int) -> None:
    asked = await ask_for_consent(world, expiry=today() + timedelta(days=days))
    assert asked.consent.expiry == today() + timedelta(days=days)


@pytest.mark.parametrize(
    ("changes", "refusals"),
    [
        ({"expiry": -1}, [(ErrorCode.OUT_OF_RANGE, ["expiry"])]),
        ({"expiry": 3654}, [(ErrorCode.OUT_OF_RANGE, ["expiry"])]),
        ({"redirect_url": "http://bright.example"}, [(ErrorCode.URL_NOT_ALLOWED, ["redirectUrl"])]),
        ({"redirect_url": "javascript:alert(1)"}, [(ErrorCode.URL_NOT_ALLOWED, ["redirectUrl"])]),
        ({"redirect_url": " "}, [(ErrorCode.REQUIRED, ["redirectUrl"])]),
        ({"description": "x" * 2001}, [(ErrorCode.TOO_LONG, ["description"])]),
        ({"consentee_email": "ada"}, [(ErrorCode.INVALID, ["consenteeEmail"])]),
        ({"consentee_full_name": "x" * 201}, [(ErrorCode.TOO_LONG, ["consenteeFullName"])]),
        ({"consentee_job_title": "x" * 201}, [(ErrorCode.TOO_LONG, ["consenteeJobTitle"])]),
        (
            {"meter_numbers": [ELECTRICITY, "2499999999990", "12"]},
            [
                (ErrorCode.INVALID_METER_NUMBER, ["meterNumbers", "1"]),
                (ErrorCode.INVALID_METER_NUMBER, ["meterNumbers", "2"]),
            ],
        ),
        ({"meter_numbers": ["3938424403"] * 1001}, [(ErrorCode.LIMIT_REACHED, ["meterNumbers"])]),
        (
            {"expiry": -1, "redirect_url": "ftp://x"},
            [(ErrorCode.OUT_OF_RANGE, ["expiry"]), (ErrorCode.URL_NOT_ALLOWED, ["redirectUrl"])],
        ),
    ],
)
async def test_what_is_wrong_is_refused_together(
    world: World, changes: dict[str, Any], refusals: list[tuple[ErrorCode, list[str]]]
) -> None:
    if "expiry" in changes:
        changes = {**changes, "expiry": today() + timedelta(days=changes["expiry"])}
    with pytest.raises(Refusals) as caught:
        await ask_for_consent(world, **changes)
    assert [(one.code, one.field) for one in caught.value.refusals] == refusals


async def test_a_residential_request_by_document_needs_its_numbers(world: World) -> None:
    for numbers in (None, []):
        with pytest.raises(Refusal) as caught:
            await ask_for_consent(
                world, meter_numbers=numbers, consent_method=ConsentMethod.LETTER_OF_AUTHORITY
            )
        assert (caught.value.code, caught.value.field) == (ErrorCode.REQUIRED, ["meterNumbers"])
    await ask_for_consent(world, meter_numbers=None, consent_method=ConsentMethod.DIGITAL_CONSENT)
    await ask_for_consent(
        world, meter_numbers=None, flow_type=BLANKET, consent_method=ConsentMethod.LETTER_OF_AUTHORITY
    )


async def test_anothers_customer_is_not_there(world: World) -> None:
    mine, theirs = await ask_for_consent(world), await ask_for_consent(world)
    with pytest.raises(Refusal) as caught:
        await ask_again(world, mine.account_id, mine.key, mine.actor, theirs.customer)
    assert (caught.value.code, caught.value.field) == (ErrorCode.NOT_FOUND, ["customerId"])


async def test_an_update_changes_description_at_any_time_and_expiry_while_pending(world: World) -> None:
    asked = await ask_for_consent(world, description="before")

    async def update(**changes: Any) -> None:
        async with world.database.transaction() as session:
            await actions.update(session, asked.actor, asked.consent.id, changes)

    await update(expiry=today())
    assert (await asked.stored()).expires_at == clock.end_of_uk_day(today())
    for wrong, code in (
        (None, ErrorCode.REQUIRED),
        (today() - timedelta(days=1), ErrorCode.OUT_OF_RANGE),
        (today() + timedelta(days=3654), ErrorCode.OUT_OF_RANGE),
    ):
        with pytest.raises(Refusals) as caught:
            await update(description="not kept", expiry=wrong)
        assert [(one.code, one.field) for one in caught.value.refusals] == [(code, ["expiry"])]
    assert (await asked.stored()).description == "before"
    await asked.approve()
    with pytest.raises(Refusals) as caught:
        await update(expiry=today())
    assert [(one.code, one.field) for one in caught.value.refusals] == [(ErrorCode.CONFLICT, ["expiry"])]
    await update(description=None)
    assert (await asked.stored()).description is None


async def test_an_expired_request_can_not_be_brought_back(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.expire()
    async with world.database.transaction() as session:
        with pytest.raises(Refusals) as caught:
            await actions.update(session, asked.actor, asked.consent.id, {"expiry": in_a_year()})
    assert [one.code for one in caught.value.refusals] == [ErrorCode.CONFLICT]


async def test_only_the_own_account_can_update(world: World) -> None:
    mine, theirs = await ask_for_consent(world), await ask_for_consent(world)
    async with world.database.transaction() as session:
        with pytest.raises(Refusal) as caught:
            await actions.update(session, mine.actor, theirs.consent.id, {"description": "mine now"})
    assert (caught.value.code, caught.value.field) == (ErrorCode.NOT_FOUND, ["hostedConsentId"])
    assert (await theirs.stored()).description is None


async def test_the_consent_that_counts_follows_from_requests(world: World) -> None:
    first = await ask_for_consent(world)
    await first.approve()
    later = await ask_again(
        world,
        first.account_id,
        first.key,
        first.actor,
        first.customer,
        flow_type=RESIDENTIAL,
        expiry=in_a_year() + timedelta(days=1),
    )
    async with world.database.reading() as session:
        (meter,) = await coverage.covered_meters(session, first.consent.id)
        effective = await run_script(session, coverage.effective_consents([meter.id], clock.now()))
    assert effective[meter.id].id == first.consent.id
    await later.approve()
    async with world.database.reading() as session:
        effective = await run_script(session, coverage.effective_consents([meter.id], clock.now()))
    assert effective[meter.id].id == later.consent.id
