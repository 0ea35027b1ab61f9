"""The mailed code: limits on sending and guessing it, and the address that it proves."""

from datetime import timedelta
from typing import Any

import pytest

from app.consents import actions, codes
from app.consents.codes import MAX_CODES, MAX_TRIES, CodeCheck
from app.consents.models import ConsentMethod
from app.core.errors import ErrorCode, Refusal, Refusals
from tests.consents.helpers import (
    ELECTRICITY,
    GAS,
    WHO,
    Asked,
    ask_for_consent,
    event_names,
    last_code,
    mails,
)
from tests.support import World

PAST = timedelta(minutes=1, milliseconds=1)


async def send(asked: Asked, **changes: Any) -> None:
    async with asked.world.database.transaction() as session:
        actor = await actions.actor_by_token(session, asked.token)
        values: dict[str, Any] = {**WHO, "privacy_contact": "privacy@example.com", **changes}
        await codes.send_code(session, actor, asked.world.services.keyring, **values)


async def verify(asked: Asked, code: str, email: str = "ada@example.com") -> CodeCheck:
    async with asked.world.database.transaction() as session:
        actor = await actions.actor_by_token(session, asked.token)
        return await codes.verify_code(session, actor, asked.world.services.keyring, email, code)


async def rewind(asked: Asked, by: timedelta) -> None:
    """Moves the sending of the code that much earlier."""
    consent = await asked.stored()
    assert consent.code_sent_at is not None
    assert consent.code_until is not None
    await asked.change(code_sent_at=consent.code_sent_at - by, code_until=consent.code_until - by)


def other(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


async def test_the_code_is_mailed_and_proves_the_address(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    (mail,) = await mails(world)
    code = await last_code(world)
    assert code.isdigit()
    assert len(code) == 6
    assert mail["recipient"] == "ada@example.com"
    assert mail["subject"] == f"{code} is your code for the request by Bright Energy"
    for body in (mail["text"], mail["html"]):
        assert code in body
        assert "Bright Energy" in body
        assert "privacy@example.com" in body
        assert asked.token not in body
        assert "/consents/" not in body
    consent = await asked.stored()
    assert consent.code_hash is not None
    assert code not in consent.code_hash
    assert await verify(asked, code) is CodeCheck.CORRECT
    assert (await asked.stored()).verified_email == "ada@example.com"
    await asked.approve()
    assert (await asked.stored()).consentee_email_verified is True
    assert (await asked.stored()).draft is None


async def test_another_address_than_the_proved_one_is_not_verified(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    await verify(asked, await last_code(world))
    await asked.approve(email="eve@example.com")
    assert (await asked.stored()).consentee_email_verified is False


async def test_a_code_may_be_typed_in_groups(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    code = await last_code(world)
    assert await verify(asked, f" {code[:3]} {code[3:]} ") is CodeCheck.CORRECT


async def test_a_code_counts_once(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    code = await last_code(world)
    assert await verify(asked, code) is CodeCheck.CORRECT
    assert await verify(asked, code) is CodeCheck.EXPIRED


async def test_five_wrong_guesses_end_a_code(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    code = await last_code(world)
    for _ in range(MAX_TRIES - 1):
        assert await verify(asked, other(code)) is CodeCheck.WRONG
    assert await verify(asked, "") is CodeCheck.EXPIRED
    assert await verify(asked, code) is CodeCheck.EXPIRED
    assert (await asked.stored()).verified_email is None
    await rewind(asked, PAST)
    await send(asked)
    assert await verify(asked, await last_code(world)) is CodeCheck.CORRECT


async def test_a_code_ends_after_ten_minutes(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    await rewind(asked, timedelta(minutes=10))
    assert await verify(asked, await last_code(world)) is CodeCheck.EXPIRED


async def test_a_code_is_for_its_address_and_consent(world: World) -> None:
    asked, second = await ask_for_consent(world), await ask_for_consent(world)
    await send(asked)
    code = await last_code(world)
    await send(second)
    assert await verify(asked, code, "eve@example.com") is CodeCheck.EXPIRED
    if code != await last_code(world):
        assert await verify(second, code) is CodeCheck.WRONG


async def test_a_live_code_is_not_sent_twice_but_what_was_entered_is_kept(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    await rewind(asked, PAST)
    await send(asked, full_name="Ada King")
    assert len(await mails(world)) == 1
    assert (await asked.stored()).draft == {
        "full_name": "Ada King",
        "email": "ada@example.com",
        "job_title": "Occupier",
        "meter_numbers": [],
    }
    await send(asked, again=True)
    assert len(await mails(world)) == 2


@pytest.mark.parametrize("changes", [{"again": True}, {"email": "eve@example.com"}])
async def test_a_code_is_sent_at_most_once_a_minute(world: World, changes: dict[str, Any]) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    before = (await asked.stored()).model_dump()
    with pytest.raises(Refusal) as caught:
        await send(asked, **changes)
    assert (caught.value.code, caught.value.field) == (ErrorCode.LIMIT_REACHED, ["consenteeEmail"])
    assert len(await mails(world)) == 1
    assert (await asked.stored()).model_dump() == before
    await rewind(asked, PAST)
    await send(asked, **changes)
    assert len(await mails(world)) == 2


async def test_a_request_sends_a_bounded_number_of_codes(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.change(codes_sent=MAX_CODES - 1)
    await send(asked)
    await rewind(asked, PAST)
    with pytest.raises(Refusal) as caught:
        await send(asked, again=True)
    assert caught.value.code is ErrorCode.LIMIT_REACHED
    assert len(await mails(world)) == 1


async def test_what_is_wrong_sends_nothing(world: World) -> None:
    asked = await ask_for_consent(world, meter_numbers=None)
    with pytest.raises(Refusals) as caught:
        await send(asked, full_name="", email="ada", meter_numbers=["12"])
    assert [(one.code, one.field) for one in caught.value.refusals] == [
        (ErrorCode.REQUIRED, ["consenteeFullName"]),
        (ErrorCode.INVALID, ["consenteeEmail"]),
        (ErrorCode.INVALID_METER_NUMBER, ["meterNumbers", "0"]),
    ]
    assert await mails(world) == []
    assert (await asked.stored()).draft is None
    await send(asked, meter_numbers=[ELECTRICITY, GAS])
    draft = (await asked.stored()).draft
    assert draft is not None
    assert draft["meter_numbers"] == [ELECTRICITY, GAS]


async def test_decided_expired_and_document_consents_send_none(world: World) -> None:
    approved, declined, expired = [await ask_for_consent(world) for _ in range(3)]
    document = await ask_for_consent(world, consent_method=ConsentMethod.LETTER_OF_AUTHORITY)
    await approved.approve()
    await declined.decline()
    await expired.expire()
    for asked, code in (
        (approved, ErrorCode.TOKEN_USED),
        (declined, ErrorCode.TOKEN_USED),
        (expired, ErrorCode.TOKEN_EXPIRED),
        (document, ErrorCode.CONFLICT),
    ):
        with pytest.raises(Refusal) as caught:
            await send(asked)
        assert (caught.value.code, caught.value.field) == (code, ["token"])
    assert await mails(world) == []


async def test_neither_codes_nor_guesses_are_events(world: World) -> None:
    asked = await ask_for_consent(world)
    await send(asked)
    await verify(asked, "")
    assert await event_names(world, asked.account_id) == ["customer.created"]
