"""Approve and decline: changes and events of each, and refusals that change nothing."""

import asyncio
import hashlib
from datetime import timedelta
from typing import Any

import pytest

from app.consents import actions, documents
from app.consents.models import ConsentMethod, ConsentStatus
from app.consents.terms import PAGE_VERSION, uk_time_words
from app.core import clock
from app.core.errors import ErrorCode, Refusal, Refusals
from app.db.database import run_script
from app.meters import actions as meter_actions
from tests.consents.helpers import (
    BLANKET,
    ELECTRICITY,
    GAS,
    OTHER,
    Asked,
    ask_again,
    ask_for_consent,
    event_names,
    events,
    evidence_count,
    in_a_year,
    links,
    meters,
)
from tests.support import World

APPROVED, REVOKED = "hosted_consent.approved", "hosted_consent.revoked"
DECLINED = "hosted_consent.declined"


async def test_approval_makes_the_meters_then_decides_and_records_both(world: World) -> None:
    asked = await ask_for_consent(world, meter_numbers=[ELECTRICITY, GAS], description="A tariff")
    await asked.approve()
    consent = await asked.stored()
    made = await meters(world, asked.account_id)
    assert [one.number for one in made] == [ELECTRICITY, GAS]
    assert await links(world, consent.id) == {one.id for one in made}
    assert consent.status(clock.now()) is ConsentStatus.APPROVED
    assert consent.is_valid(clock.now())
    assert consent.page_version == PAGE_VERSION
    assert consent.consented_at is not None
    log = await events(world, asked.account_id)
    assert [one.type for one in log] == ["customer.created", "meter.created", "meter.created", APPROVED]
    assert log[-1].data == {
        "id": consent.id,
        "description": "A tariff",
        "flowType": "GB_RESIDENTIAL_SPECIFIC",
        "flowCode": "gb.residential.specific",
        "status": "APPROVED",
        "customerId": asked.customer.id,
        "meterIds": [one.id for one in made],
        "meterNumbers": [ELECTRICITY, GAS],
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://bright.example/done?ref=7",
        "consentMethod": "DIGITAL_CONSENT",
        "consenteeFullName": "Ada Lovelace",
        "consenteeEmail": "ada@example.com",
        "consenteeEmailVerified": False,
        "consenteeJobTitle": "Occupier",
        "pageVersion": PAGE_VERSION,
        "consentedAt": clock.format_utc(consent.consented_at),
        "revokedAt": None,
        "revocationReason": None,
        "createdAt": clock.format_utc(consent.created_at),
        "updatedAt": clock.format_utc(consent.consented_at),
    }
    assert (log[-1].subject_id, log[-1].customer_id) == (consent.id, asked.customer.id)


async def test_a_job_title_may_be_left_out(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve(job_title=" ")
    assert (await asked.stored()).consentee_job_title is None
    async with world.database.reading() as session:
        evidence = await documents.find_evidence(session, asked.actor, asked.consent.id)
        assert evidence is not None
        content = await documents.content(session, evidence)
    assert b'<th scope="row">Job title or role</th><td>Not given</td>' in content


async def test_approval_of_known_meters_makes_none(world: World) -> None:
    asked = await ask_for_consent(world)
    async with world.database.transaction() as session:
        meter = await run_script(
            session,
            meter_actions.create(session, asked.actor, customer_id=asked.customer.id, number=ELECTRICITY),
        )
    await asked.approve()
    assert await event_names(world, asked.account_id) == ["customer.created", "meter.created", APPROVED]
    assert (await events(world, asked.account_id))[-1].data["meterIds"] == [meter.id]


async def test_a_blanket_covers_all_meters_now_and_later(world: World) -> None:
    asked = await ask_for_consent(world, flow_type=BLANKET, meter_numbers=[OTHER])
    async with world.database.transaction() as session:
        before = await run_script(
            session,
            meter_actions.create(session, asked.actor, customer_id=asked.customer.id, number=ELECTRICITY),
        )
    await asked.approve()
    async with world.database.transaction() as session:
        later = await run_script(
            session, meter_actions.create(session, asked.actor, customer_id=asked.customer.id, number=GAS)
        )
    made = await meters(world, asked.account_id)
    assert [one.number for one in made] == [ELECTRICITY, OTHER, GAS]
    assert await links(world, asked.consent.id) == {one.id for one in made}
    data = (await events(world, asked.account_id))[-2].data
    assert data["meterIds"] == [before.id, made[1].id]
    assert data["meterNumbers"] == [ELECTRICITY, OTHER]
    assert later.id == made[2].id


async def test_a_blanket_needs_no_meter(world: World) -> None:
    asked = await ask_for_consent(world, flow_type=BLANKET, meter_numbers=None)
    await asked.approve()
    data = (await events(world, asked.account_id))[-1].data
    assert (data["meterIds"], data["meterNumbers"]) == ([], [])


async def test_numbers_may_be_given_where_the_request_named_none(world: World) -> None:
    asked = await ask_for_consent(world, meter_numbers=None)
    await asked.approve(meter_numbers=[" 13 1234 567 8907 ", ELECTRICITY, GAS])
    assert (await asked.stored()).meter_numbers == [ELECTRICITY, GAS]
    assert [one.number for one in await meters(world, asked.account_id)] == [ELECTRICITY, GAS]


async def test_the_requests_own_numbers_may_be_repeated(world: World) -> None:
    asked = await ask_for_consent(world, meter_numbers=[ELECTRICITY, GAS])
    await asked.approve(meter_numbers=[GAS, ELECTRICITY])
    assert (await asked.stored()).meter_numbers == [ELECTRICITY, GAS]


@pytest.mark.parametrize(
    ("asked_for", "changes", "refusals"),
    [
        ([ELECTRICITY], {"full_name": " "}, [(ErrorCode.REQUIRED, ["consenteeFullName"])]),
        ([ELECTRICITY], {"full_name": "x" * 201}, [(ErrorCode.TOO_LONG, ["consenteeFullName"])]),
        ([ELECTRICITY], {"email": "ada"}, [(ErrorCode.INVALID, ["consenteeEmail"])]),
        ([ELECTRICITY], {"job_title": "x" * 201}, [(ErrorCode.TOO_LONG, ["consenteeJobTitle"])]),
        ([ELECTRICITY], {"meter_numbers": [OTHER]}, [(ErrorCode.INVALID, ["meterNumbers"])]),
        ([ELECTRICITY], {"meter_numbers": [ELECTRICITY, OTHER]}, [(ErrorCode.INVALID, ["meterNumbers"])]),
        (None, {}, [(ErrorCode.REQUIRED, ["meterNumbers"])]),
        (None, {"meter_numbers": []}, [(ErrorCode.REQUIRED, ["meterNumbers"])]),
        (
            None,
            {"meter_numbers": [GAS, "2499999999990"], "email": ""},
            [
                (ErrorCode.REQUIRED, ["consenteeEmail"]),
                (ErrorCode.INVALID_METER_NUMBER, ["meterNumbers", "1"]),
            ],
        ),
    ],
)
async def test_a_refused_approval_changes_nothing(
    world: World,
    asked_for: list[str] | None,
    changes: dict[str, Any],
    refusals: list[tuple[ErrorCode, list[str]]],
) -> None:
    asked = await ask_for_consent(world, meter_numbers=asked_for)
    before = (await asked.stored()).model_dump()
    with pytest.raises(Refusals) as caught:
        await asked.approve(**changes)
    assert [(one.code, one.field) for one in caught.value.refusals] == refusals
    await _nothing_happened(asked, before)


@pytest.mark.parametrize(
    "method", [ConsentMethod.LETTER_OF_AUTHORITY, ConsentMethod.THIRD_PARTY_DIGITAL_CONSENT]
)
async def test_what_a_document_gives_the_token_can_only_decline(world: World, method: ConsentMethod) -> None:
    asked = await ask_for_consent(world, consent_method=method)
    before = (await asked.stored()).model_dump()
    with pytest.raises(Refusal) as caught:
        await asked.approve()
    assert (caught.value.code, caught.value.field) == (ErrorCode.CONFLICT, ["token"])
    await _nothing_happened(asked, before)
    await asked.decline()
    assert (await asked.stored()).decision == "DECLINED"


async def test_decline_is_recorded_without_its_reason_and_is_final(world: World) -> None:
    asked = await ask_for_consent(world, description="A tariff")
    async with world.database.transaction() as session:
        meter = await run_script(
            session,
            meter_actions.create(session, asked.actor, customer_id=asked.customer.id, number=ELECTRICITY),
        )
    await asked.decline(" Not now ")
    consent = await asked.stored()
    assert (consent.decision, consent.decline_reason, consent.consented_at) == ("DECLINED", "Not now", None)
    await _is_used(asked)
    log = await events(world, asked.account_id)
    assert [one.type for one in log] == ["customer.created", "meter.created", DECLINED]
    assert log[-1].data == {
        "id": consent.id,
        "description": "A tariff",
        "flowType": "GB_RESIDENTIAL_SPECIFIC",
        "flowCode": "gb.residential.specific",
        "status": "DECLINED",
        "customerId": asked.customer.id,
        "meterIds": [meter.id],
        "meterNumbers": [ELECTRICITY],
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://bright.example/done?ref=7",
        "consentMethod": "DIGITAL_CONSENT",
        "consenteeFullName": None,
        "consenteeEmail": None,
        "consenteeEmailVerified": False,
        "consenteeJobTitle": None,
        "pageVersion": None,
        "consentedAt": None,
        "revokedAt": None,
        "revocationReason": None,
        "createdAt": clock.format_utc(consent.created_at),
        "updatedAt": clock.format_utc(consent.updated_at),
    }
    assert (log[-1].subject_id, log[-1].customer_id) == (consent.id, asked.customer.id)


async def test_an_approved_consent_is_not_decided_again(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    before = (await asked.stored()).model_dump()
    await _is_used(asked)
    assert (await asked.stored()).model_dump() == before


async def test_nothing_is_decided_after_expiry(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.expire()
    before = (await asked.stored()).model_dump()
    for decide in (asked.approve, asked.decline):
        with pytest.raises(Refusal) as caught:
            await decide()
        assert (caught.value.code, caught.value.field) == (ErrorCode.TOKEN_EXPIRED, ["token"])
    await _nothing_happened(asked, before)


async def test_a_consent_lasts_to_the_last_millisecond_of_its_day(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    consent = await asked.stored()
    end = clock.end_of_uk_day(in_a_year())
    assert consent.is_valid(end - timedelta(milliseconds=1))
    assert not consent.is_valid(end)
    assert consent.status(end) is ConsentStatus.EXPIRED


@pytest.mark.parametrize("token", ["", "vw_consent_", "vw_consent_" + "A" * 43, "\x00", "vw_live_x"])
async def test_an_unknown_token_is_not_found(world: World, token: str) -> None:
    async with world.database.transaction() as session:
        with pytest.raises(Refusal) as caught:
            await actions.actor_by_token(session, token)
    assert (caught.value.code, caught.value.field) == (ErrorCode.NOT_FOUND, ["token"])


@pytest.mark.both_databases
async def test_of_two_decisions_at_once_one_counts(world: World) -> None:
    asked = await ask_for_consent(world)
    results = await asyncio.gather(
        *(asked.approve() for _ in range(4)), *(asked.decline() for _ in range(4)), return_exceptions=True
    )
    refused = [one for one in results if isinstance(one, Refusal)]
    assert [one.code for one in refused] == [ErrorCode.TOKEN_USED] * 7
    names = await event_names(world, asked.account_id)
    assert names in (["customer.created", DECLINED], ["customer.created", "meter.created", APPROVED])


@pytest.mark.both_databases
async def test_a_meter_made_while_a_consent_is_decided_is_covered(world: World) -> None:
    asked = await ask_for_consent(world, flow_type=BLANKET, meter_numbers=None)

    async def add(number: str) -> None:
        async with world.database.transaction() as session:
            await run_script(
                session,
                meter_actions.create(session, asked.actor, customer_id=asked.customer.id, number=number),
            )

    numbers = [str(one) for one in range(100_000, 100_010)]
    again = ask_again(
        world, asked.account_id, asked.key, asked.actor, asked.customer, flow_type=BLANKET, meter_numbers=None
    )
    _, other, *_ = await asyncio.gather(asked.approve(), again, *(add(one) for one in numbers))
    ids = {one.id for one in await meters(world, asked.account_id)}
    assert len(ids) == 10
    assert await links(world, asked.consent.id) == ids
    assert await links(world, other.consent.id) == ids


async def test_the_evidence_says_who_agreed_to_what(world: World) -> None:
    asked = await ask_for_consent(
        world, meter_numbers=[ELECTRICITY, GAS], description='<b>"Tariff"</b> & more'
    )
    await asked.approve(full_name="Ada <script>alert(1)</script>", privacy_contact="privacy@bright.example")
    consent = await asked.stored()
    assert consent.consented_at is not None
    async with world.database.reading() as session:
        evidence = await documents.find_evidence(session, asked.actor, consent.id)
        assert evidence is not None
        content = await documents.content(session, evidence)
    assert evidence.file_name == f"consent-{consent.id}.html"
    assert evidence.content_type == "text/html; charset=utf-8"
    assert evidence.size == len(content)
    assert evidence.sha256 == hashlib.sha256(content).hexdigest()
    assert evidence.page_version == PAGE_VERSION
    text = content.decode()
    for said in (
        "Bright Energy",
        "Ada Lovelace",
        "Ada &lt;script&gt;alert(1)&lt;/script&gt;",
        "&lt;b&gt;&#34;Tariff&#34;&lt;/b&gt; &amp; more",
        f"{ELECTRICITY} (electricity), {GAS} (gas)",
        clock.long_date(in_a_year()),
        "ada@example.com",
        '<th scope="row">Address verified</th><td>No</td>',
        "Occupier",
        clock.format_utc(consent.consented_at),
        uk_time_words(consent.consented_at),
        PAGE_VERSION,
        "privacy@bright.example",
        "I allow Bright Energy to collect the energy used in each half-hour, past and future, by the meters",
        f"with these numbers: {ELECTRICITY}, {GAS}.",
    ):
        assert said in text, said
    assert "<script" not in text
    assert asked.token not in text
    assert not any(word in text for word in ("http://", "https://", "src="))


async def _is_used(asked: Asked) -> None:
    names = await event_names(asked.world, asked.account_id)
    for decide in (asked.approve, asked.decline):
        with pytest.raises(Refusal) as caught:
            await decide()
        assert (caught.value.code, caught.value.field) == (ErrorCode.TOKEN_USED, ["token"])
    assert await event_names(asked.world, asked.account_id) == names


async def _nothing_happened(asked: Asked, before: dict[str, Any]) -> None:
    assert (await asked.stored()).model_dump() == before
    assert await event_names(asked.world, asked.account_id) == ["customer.created"]
    assert await meters(asked.world, asked.account_id) == []
    assert await evidence_count(asked.world) == 0
