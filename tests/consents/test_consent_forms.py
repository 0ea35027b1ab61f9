"""The forms of the consent page, from the first entry over the mailed code to the decision."""

from datetime import timedelta
from typing import Any

import pytest

from app.consents.codes import MAX_TRIES
from app.consents.models import ConsentMethod
from app.consents.terms import uk_time_words
from tests.consents.helpers import (
    ELECTRICITY,
    GAS,
    ask_for_consent,
    event_names,
    last_code,
    mails,
    meters,
)
from tests.consents.web import ENTERED, ORIGIN, hidden, path, post, text_of, visitor
from tests.support import World


async def test_from_the_form_to_the_decision(world: World) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        sent = await post(client, asked, "code", **ENTERED)
        assert (sent.status_code, sent.headers["location"]) == (303, f"{path(asked)}#code")
        second = await client.get(path(asked))
        assert "We sent a code of six digits to ada@example.com." in text_of(second.text)
        assert "Full name Ada Lovelace" in text_of(second.text)
        edit = await client.get(path(asked), params={"edit": "1"})
        assert 'value="Ada Lovelace"' in edit.text
        assert 'name="code"' not in edit.text
        decided = await post(client, asked, "approve", code=await last_code(world))
        assert decided.status_code == 303
        assert decided.headers["location"] == (
            f"https://bright.example/done?ref=7&hosted_consent_id={asked.consent.id}&status=approved"
        )
        assert decided.headers["referrer-policy"] == "no-referrer"
        consent = await asked.stored()
        assert consent.consented_at is not None
        assert (consent.decision, consent.consentee_email_verified) == ("APPROVED", True)
        outcome = await client.get(path(asked))
        assert f"Approved on {uk_time_words(consent.consented_at)} by Ada Lovelace." in text_of(outcome.text)
        assert "<form" not in outcome.text
        assert 'status=approved">Return to Bright Energy' in outcome.text
        record = await client.get(f"{path(asked)}/evidence")
    assert record.status_code == 200
    assert "Yes, by a code mailed to it" in record.text
    assert "Given on the consent page" in record.text
    assert record.headers["content-disposition"] == f'attachment; filename="consent-{consent.id}.html"'
    assert await event_names(world, asked.account_id) == [
        "customer.created",
        "meter.created",
        "hosted_consent.approved",
    ]


async def test_the_page_asks_for_numbers_that_the_request_did_not_name(world: World) -> None:
    asked = await ask_for_consent(world, meter_numbers=None)
    async with visitor(world) as client:
        page = await client.get(path(asked))
        assert '<textarea id="meterNumbers"' in page.text
        wrong = await post(client, asked, "code", **ENTERED, meterNumbers=f"{ELECTRICITY}\r\n2499999999990")
        assert wrong.status_code == 422
        assert "“2499999999990”: The check digit of this electricity number is wrong" in text_of(wrong.text)
        none = await post(client, asked, "code", **ENTERED, meterNumbers=" \r\n")
        assert (none.status_code, "Enter the number of at least one meter." in none.text) == (422, True)
        await post(client, asked, "code", **ENTERED, meterNumbers=f"13 1234 567 8907\r\n\r\n{GAS}, {GAS}")
        second = await client.get(path(asked))
        assert f"by the meters with these numbers: {ELECTRICITY}, {GAS}." in text_of(second.text)
        await post(client, asked, "approve", code=await last_code(world))
    assert [one.number for one in await meters(world, asked.account_id)] == [ELECTRICITY, GAS]


async def test_wrong_input_is_shown_beside_its_field(world: World) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        page = await post(
            client,
            asked,
            "code",
            consenteeFullName=' "Ada" <L> ',
            consenteeEmail="ada",
            consenteeJobTitle="x" * 201,
        )
    assert page.status_code == 422
    assert (
        '<p class="error" id="consenteeEmail-error">Enter an email address such as ada@example.com.</p>'
        in page.text
    )
    assert 'aria-invalid="true" aria-describedby="consenteeEmail-hint consenteeEmail-error"' in page.text
    assert '<a href="#consenteeJobTitle">A job title or role has at most 200 characters.</a>' in page.text
    assert 'value="&#34;Ada&#34; &lt;L&gt;"' in page.text
    assert 'id="consenteeFullName-error"' not in page.text
    assert "<title>Error: Bright Energy asks" in page.text
    assert 'role="alert"' in page.text
    assert await mails(world) == []


async def test_wrong_codes_are_counted_and_bounded(world: World) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        await post(client, asked, "code", **ENTERED)
        code = await last_code(world)
        blank = await post(client, asked, "approve", code=" ")
        assert (blank.status_code, "Enter the code from the mail." in blank.text) == (422, True)
        wrong = f"{(int(code) + 1) % 1_000_000:06}"
        for left in (4, 3, 2, 1):
            page = await post(client, asked, "approve", code=wrong)
            times = "time" if left == 1 else "times"
            assert page.status_code == 422
            assert f"This is not the code we sent. You can try {left} more {times}." in text_of(page.text)
        for guess in (wrong, code):
            page = await post(client, asked, "approve", code=guess)
            assert page.status_code == 422
            assert "This code can no longer be used. Send a new one below." in text_of(page.text)
        assert (await asked.stored()).code_tries == MAX_TRIES
        soon = await post(client, asked, "resend")
        assert soon.status_code == 422
        assert "A code was sent less than a minute ago" in text_of(soon.text)
        consent = await asked.stored()
        assert consent.code_sent_at is not None
        await asked.change(code_sent_at=consent.code_sent_at - timedelta(minutes=1))
        again = await post(client, asked, "resend")
        assert (again.status_code, again.headers["location"]) == (303, f"{path(asked)}#code")
        assert (await post(client, asked, "approve", code=await last_code(world))).status_code == 303
    assert (await asked.stored()).decision == "APPROVED"


async def test_declining_needs_no_code(world: World) -> None:
    asked = await ask_for_consent(world, redirect_url="http://localhost:3000/back#end")
    async with visitor(world) as client:
        done = await post(client, asked, "decline", reason="Not <now>")
        outcome = await client.get(path(asked))
    assert done.status_code == 303
    assert done.headers["location"] == (
        f"http://localhost:3000/back?hosted_consent_id={asked.consent.id}&status=declined#end"
    )
    assert "Reason given: Not <now>" in text_of(outcome.text)
    assert "/evidence" not in outcome.text
    assert await event_names(world, asked.account_id) == ["customer.created", "hosted_consent.declined"]


async def test_what_is_decided_is_not_decided_again(world: World) -> None:
    asked = await ask_for_consent(world)
    await asked.approve()
    before = (await asked.stored()).model_dump()
    async with visitor(world) as client:
        for action, fields in (
            ("code", ENTERED),
            ("resend", {}),
            ("approve", {"code": "1"}),
            ("decline", {}),
        ):
            page = await post(client, asked, action, **fields)
            assert page.status_code == 409
            assert "Approved on" in text_of(page.text)
    assert (await asked.stored()).model_dump() == before


async def test_a_consent_given_by_document_has_no_form_to_approve(world: World) -> None:
    asked = await ask_for_consent(world, consent_method=ConsentMethod.LETTER_OF_AUTHORITY)
    async with visitor(world) as client:
        page = await client.get(path(asked))
        assert "This consent is given by a signed document." in text_of(page.text)
        assert hidden(page.text) == {"action": "decline"}
        assert (await post(client, asked, "code", **ENTERED)).status_code == 422
        assert (await client.get(f"{path(asked)}/evidence")).status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 303),
        ({"Origin": ORIGIN}, 303),
        ({"Origin": "null"}, 303),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 303),
        ({"Origin": "https://evil.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": ORIGIN, "Sec-Fetch-Site": "same-site"}, 403),
    ],
)
async def test_forms_of_other_sites_decide_nothing(
    world: World, headers: dict[str, str], status: int
) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        answer = await client.post(path(asked), data={"action": "decline"}, headers=headers)
    assert answer.status_code == status
    assert (await asked.stored()).decision == ("DECLINED" if status == 303 else "PENDING")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ({"content": b"x" * 65_537, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 413),
        ({"content": b"{}", "headers": {"Content-Type": "application/json"}}, 415),
        ({"content": b"action=decline"}, 415),
        ({"data": {str(one): "x" for one in range(21)}}, 400),
        ({"data": {"action": "destroy"}}, 422),
        ({"data": {}, "headers": {"Content-Type": "application/x-www-form-urlencoded"}}, 422),
        ({"data": {"action": "decline", "reason": "x" * 2001}}, 422),
        ({"data": {"action": "decline", "pageVersion": "0-older"}}, 409),
    ],
)
async def test_bad_forms_decide_nothing(world: World, request_: dict[str, Any], status: int) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        answer = await client.post(path(asked), **request_)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert (await asked.stored()).decision == "PENDING"


async def test_a_form_may_hold_anything(world: World) -> None:
    asked = await ask_for_consent(world)
    async with visitor(world) as client:
        answer = await client.post(
            path(asked),
            content=b"action=decline&reason=%00%ff%0d%0aBcc:%20eve&reason2",
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        )
    assert answer.status_code == 303
    assert (await asked.stored()).decline_reason == "\ufffd Bcc: eve"
