"""`deleteCustomer` leaves nothing of the person in any table or in any file of the data folder."""

import os
from collections.abc import AsyncIterator
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import col, select

from app.consents import actions as consents
from app.consents import codes
from app.customers import actions as customers
from app.customers.models import Customer
from app.db.idempotency import IdempotentMutation
from app.events.catalogue import REDACTED
from app.outbound.mail.mail_files import MailFiles
from app.outbound.mail.models import UnconfirmedMail
from app.server.housekeeping import Housekeeping
from tests.accounts.state import mutation, state
from tests.consents.helpers import ELECTRICITY, in_a_year
from tests.delivery.asking import outgoing_done
from tests.delivery.scene import Scene, open_scene
from tests.imports.importing import csv, imported
from tests.meters.asking import make_consent, run
from tests.services.receiver import Answer, Receiver
from tests.support import TestAccount

pytestmark = pytest.mark.both_databases

PERSON = {
    "name": "Zebedee Quillfeather",
    "email": "zebedee.quillfeather@example.com",
    "address": "7 Wobblegate Lane",
    "metadata": {"nickname": "Zebbo"},
}
CONSENTEE = {
    "full_name": "Zebedina Quillfeather",
    "email": "zebedina.q@example.com",
    "job_title": "Wobblegate occupier",
}
PERSONAL = ("zebed", "quillfeather", "wobblegate", "zebbo", ELECTRICITY)
UNKNOWN = "9999999999995"
CREATE = mutation("createCustomer", "customer { id }")
ASK = mutation("createHostedConsent", "hostedConsent { id description redirectUrl meterNumbers }")
ADD = mutation("createMeter", "meter { id number description address metadata }")
DELETE = mutation("deleteCustomer", "deletedId")


@pytest.fixture
async def scene(migrated_url: str) -> AsyncIterator[Scene]:
    async with open_scene(migrated_url) as opened:
        yield opened


def consent_request(customer_id: str) -> dict[str, Any]:
    return {
        "customerId": customer_id,
        "flowType": "GB_RESIDENTIAL_SPECIFIC",
        "expiry": in_a_year().isoformat(),
        "redirectUrl": "https://bright.example/done",
        "description": "For Wobblegate Lane",
        "meterNumbers": [ELECTRICITY],
    }


async def live(scene: Scene, account: TestAccount, key: str) -> str:
    """Makes the person a customer who is asked for consent and mailed a code, and waits for all deliveries."""
    world, keyring = scene.world, scene.services.keyring
    made = await run(world, account, CREATE, **PERSON, idempotencyKey=key)
    customer_id: str = made["customer"]["id"]
    asked = await run(world, account, ASK, **consent_request(customer_id))
    async with scene.database.transaction() as session:
        actor = (await world.authenticator.authenticate(account.key)).actor
        consent = await consents.load(session, actor, asked["hostedConsent"]["id"])
        bearer = await consents.actor_by_token(session, keyring.decrypt(consent.token_encrypted))
        await codes.send_code(session, bearer, keyring, **CONSENTEE, privacy_contact="privacy@example.com")
    await scene.settled()
    await scene.until(lambda: outgoing_done(world))
    return customer_id


def in_files(*folders: Path) -> list[str]:
    """Traces of the person in the files, raw and as mail programs decode them."""
    found = []
    for path in (path for folder in folders for path in folder.rglob("*") if path.is_file()):
        texts = [path.read_bytes().decode("utf-8", "replace")]
        if path.suffix == ".eml":
            message: Any = message_from_bytes(path.read_bytes(), policy=policy.default)
            texts += [str(message["subject"]), str(message["to"])]
            texts += [part.get_content() for part in message.iter_parts()]
        found += [f"{path.name}: {one}" for one in PERSONAL if any(one in text.casefold() for text in texts)]
    return found


async def in_tables(scene: Scene) -> list[str]:
    rows = await state(scene.world)
    return [
        f"{table}: {one}"
        for table, found in rows.items()
        for one in PERSONAL
        if one in repr(found).casefold()
    ]


async def test_nothing_of_a_deleted_customer_is_found(
    scene: Scene, receiver: Receiver, tmp_path: Path
) -> None:
    folders = (tmp_path, scene.services.settings.data_dir)
    # A receiver may repeat the data that it was sent.
    receiver.default = Answer(200, body=f"Welcome, {PERSON['name']}".encode())
    account = await scene.world.account()
    await scene.subscription(account.id, "reader@example.com")
    async with scene.worker():
        other = await run(scene.world, account, CREATE, name="Ann Other", email="ann@example.com")
        await scene.settled()
        await scene.endpoint(account.id, receiver.url())
        customer_id = await live(scene, account, "the same")
    assert await in_tables(scene) != []
    assert in_files(*folders) != []
    mails = len(list(scene.services.settings.mail_folder.iterdir()))
    deleted = await run(scene.world, account, DELETE, customerId=customer_id)
    assert deleted["userErrors"] == []
    assert await in_tables(scene) == []
    assert in_files(*folders) == []
    # Only the mail about the other customer stays.
    kept = [path.read_text() for path in scene.services.settings.mail_folder.iterdir()]
    assert (mails, len(kept)) == (3, 1)
    assert "Ann Other" in kept[0]
    assert other["customer"]["id"] in repr(await state(scene.world))


async def test_imports_lose_a_deleted_customers_meters(scene: Scene, tmp_path: Path) -> None:
    world, account = scene.world, await scene.world.account()
    made = await run(world, account, CREATE, **PERSON)
    customer_id = made["customer"]["id"]
    await make_consent(world, account, customer_id)
    await run(world, account, ADD, customerId=customer_id, number=ELECTRICITY)
    content = csv(ELECTRICITY, "1", "-2")
    for query in ({"dryRun": "true"}, {"onProblem": "skip"}, {}, {"fileName": f"{ELECTRICITY}.csv"}):
        await imported(world, account.key, content, **query)
    for number in (ELECTRICITY, f"00 801 902 {ELECTRICITY[:2]} {ELECTRICITY[2:]}"):
        await imported(world, account.key, csv(ELECTRICITY, "1"), meter=number)
    await imported(world, account.key, csv(ELECTRICITY, "1"), customerId=customer_id)
    await imported(world, account.key, csv(UNKNOWN, "1"), customerId=customer_id)
    assert UNKNOWN in repr((await state(world))["file_imports"])
    folders = (tmp_path, scene.services.settings.data_dir)
    assert await in_tables(scene) != []
    await run(world, account, DELETE, customerId=customer_id)
    assert await in_tables(scene) == []
    assert in_files(*folders) == []
    imports = await world.data("{ fileImports { nodes { status problemCount } } }", key=account.key)
    assert len(imports["fileImports"]["nodes"]) == 8
    kept = [one["options"].get("meter") for one in (await state(world))["file_imports"]]
    assert [one for one in kept if one is not None] == [REDACTED, f"00801902{REDACTED}"]
    assert UNKNOWN not in repr((await state(world))["file_imports"])


async def with_a_mail(scene: Scene) -> tuple[TestAccount, str, list[str]]:
    """An account, a customer of it, and the names of the files of mails about the customer."""
    account = await scene.world.account()
    await scene.subscription(account.id, "reader@example.com")
    async with scene.worker():
        made = await run(scene.world, account, CREATE, **PERSON)
        await scene.settled()
    files = sorted(path.name for path in scene.services.settings.mail_folder.iterdir())
    assert len(files) == 1
    return account, made["customer"]["id"], files


def files_of(scene: Scene) -> list[str]:
    return sorted(path.name for path in scene.services.settings.mail_folder.iterdir())


async def keep_house(scene: Scene) -> None:
    await Housekeeping(scene.database, 90, MailFiles(scene.services.settings.mail_folder)).run()


async def test_a_deletion_whose_commit_fails_loses_no_mail(scene: Scene) -> None:
    account, customer_id, files = await with_a_mail(scene)

    def fail() -> None:
        raise RuntimeError("the disk is full")

    scene.points.on["transaction.before_commit"] = fail
    failed = await scene.world.ask(DELETE, {"input": {"customerId": customer_id}}, key=account.key)
    del scene.points.on["transaction.before_commit"]
    assert failed["errors"]
    assert [name for name in files_of(scene) if name.endswith(".eml")] == files
    # The note of it stays for as long as the transaction might be under way.
    await keep_house(scene)
    (note,) = (path for path in scene.services.settings.mail_folder.iterdir() if path.name not in files)
    os.utime(note, (0, 0))
    await keep_house(scene)
    assert files_of(scene) == files
    await run(scene.world, account, DELETE, customerId=customer_id)
    assert files_of(scene) == []


async def test_mails_of_a_deletion_that_was_cut_off_after_its_commit_are_swept(scene: Scene) -> None:
    account, customer_id, _ = await with_a_mail(scene)
    actor = (await scene.world.authenticator.authenticate(account.key)).actor
    async with scene.database.transaction() as session:
        files = MailFiles(scene.services.settings.mail_folder)
        await customers.delete(session, actor, scene.services.keyring, customer_id, files)
    # The process died before it removed them.
    assert len(files_of(scene)) == 2
    await keep_house(scene)
    assert files_of(scene) == []


async def test_repeated_requests_are_answered_as_before_without_personal_data(scene: Scene) -> None:
    world, account = scene.world, await scene.world.account()
    made = await run(world, account, CREATE, **PERSON, idempotencyKey="the same")
    customer_id = made["customer"]["id"]
    meter = {
        "customerId": customer_id,
        "number": ELECTRICITY,
        "description": "Zebbo's",
        "address": "7 Wobblegate Lane",
        "metadata": {"nickname": "Zebbo"},
        "idempotencyKey": "the same",
    }
    request = {**consent_request(customer_id), "idempotencyKey": "the same"}
    added, asked = await run(world, account, ADD, **meter), await run(world, account, ASK, **request)
    async with scene.database.reading() as session:
        before = {one.input_hash for one in (await session.exec(select(IdempotentMutation))).all()}
    await run(world, account, DELETE, customerId=customer_id)
    async with scene.database.reading() as session:
        stored = (await session.exec(select(IdempotentMutation))).all()
    payloads = repr(
        [scene.services.keyring.decrypt(one.payload_encrypted or "") for one in stored]
    ).casefold()
    assert (len(stored), [one for one in PERSONAL if one in payloads]) == (3, [])
    # A hash without a key can be guessed from a list of names and addresses.
    assert before.isdisjoint(one.input_hash for one in stored)
    assert await run(world, account, CREATE, **PERSON, idempotencyKey="the same") == made
    redacted = {"number": "[deleted]", "description": None, "address": None, "metadata": {}}
    assert (await run(world, account, ADD, **meter))["meter"] == {**added["meter"], **redacted}
    redacted = {"description": None, "redirectUrl": "[deleted]", "meterNumbers": []}
    assert (await run(world, account, ASK, **request))["hostedConsent"] == {
        **asked["hostedConsent"],
        **redacted,
    }
    async with scene.database.reading() as session:
        assert (await session.exec(select(Customer))).all() == []


async def test_the_count_of_mails_stays_for_as_long_as_its_limit_needs_it(scene: Scene) -> None:
    account = await scene.world.account()
    async with scene.worker():
        customer_id = await live(scene, account, "the same")
    await run(scene.world, account, DELETE, customerId=customer_id)
    async with scene.database.reading() as session:
        kinds = (await session.execute(select(col(UnconfirmedMail.kind)))).scalars().all()
    assert kinds == ["CODE"]
