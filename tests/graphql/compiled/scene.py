"""An account with random rows of every kind, and a neighbour's beside it."""

import random
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import select
from sqlmodel import col

from app.accounts import actions as accounts
from app.accounts.models import Account, User, UserRole
from app.auth.actor import Actor, Scope
from app.auth.api_keys import ApiKey
from app.consents import actions as consents
from app.consents import decisions
from app.consents.models import ConsentFlowType, ConsentStatus, Evidence, HostedConsent
from app.core import clock
from app.customers import actions as customers
from app.customers.models import Customer
from app.db.database import run_script
from app.delivery.destinations.email.models import EmailSubscription
from app.delivery.destinations.webhook.models import WebhookEndpoint
from app.delivery.queue.models import Delivery, Replay
from app.events import cursors, log
from app.events.models import EventRecord, Stream
from app.graphql.pagination import id_cursor
from app.meters import actions as meters
from app.meters.enums import DataSource
from app.meters.models import Meter
from app.meters.numbers import mpan_check_digit
from app.outbound.mail.mail_files import MailFiles
from app.readings import actions as readings
from tests.graphql.compiled.destinations import random_destinations
from tests.graphql.compiled.documents import Known
from tests.support import World

DAY = timedelta(days=1)
SHOWN: tuple[Any, ...] = (
    *(Account, User, ApiKey, Customer, Meter, HostedConsent),
    *(Evidence, WebhookEndpoint, EmailSubscription, Delivery, Replay),
)


@dataclass
class Scene:
    known: Known
    viewers: dict[str, Actor]


async def random_account(world: World, chance: random.Random) -> Scene:
    """Makes customers with meters and consents in every state, readings, users, and the events of all of these."""
    account = await world.account()
    admin = (await world.authenticator.authenticate(account.key)).actor
    made = [await _customer(world, admin, chance, number) for number in range(4)]
    async with world.database.transaction() as session:
        for number in range(3):
            await accounts.create_user(
                session,
                admin,
                world.services.mail_links,
                email=f"u{number}@example.com",
                name=f"U {number}",
                role=UserRole.MEMBER,
            )
        key, _secret = await accounts.create_api_key(session, admin, name="reads", scopes=[Scope.READ])
        await accounts.rotate_api_key(session, admin, key.id, 60)
    async with world.database.transaction() as session:
        # Its events stay, and lead to nothing.
        services = world.services
        files = MailFiles(services.settings.mail_folder)
        await customers.delete(session, admin, services.keyring, made[-1], files)
    await random_destinations(world, admin, chance)
    neighbour = (await world.authenticator.authenticate((await world.account("Other")).key)).actor
    await _customer(world, neighbour, chance, 9)
    await random_destinations(world, neighbour, chance)
    known = await _known(world, admin, neighbour)
    consent = known.ids["HostedConsent"][0]
    async with world.database.reading() as session:
        bearer = consents.token_holder(await consents.load(session, admin, consent))
    viewers = {
        "admin": admin,
        "read": Actor(account.id, frozenset({Scope.READ}), api_key_id=key.id),
        "bound": Actor(account.id, frozenset({Scope.READ}), customer_id=made[0], is_stream_token=True),
        "consent": bearer,
    }
    return Scene(known, viewers)


async def _customer(world: World, admin: Actor, chance: random.Random, number: int) -> str:
    async with world.database.transaction() as session:
        customer = await run_script(
            session,
            customers.create(
                session,
                admin,
                name=f"Cüstomer {number}",
                email=f"c{number}@example.com",
                address=chance.choice([None, "1 High Street"]),
                labels=chance.choice([{}, {"site": "a"}]),
            ),
        )
        made = []
        for at in range(chance.randint(2, 5)):
            digits = f"1{number}{at:010d}"
            meter = await run_script(
                session,
                meters.create(
                    session,
                    admin,
                    customer_id=customer.id,
                    number=digits + str(mpan_check_digit(digits)) if at % 4 else f"{number}{at}3456",
                    description=chance.choice([None, "Hall"]),
                    data_source=chance.choice(list(DataSource)),
                    labels=chance.choice([{}, {"site": "b", 'x"y': "1"}]),
                ),
            )
            made.append(meter)
            if chance.random() < 0.3:
                await run_script(session, meters.disable(admin, meter.id))
    for _ in range(chance.randint(2, 5)):
        await _consent(world, admin, chance, customer.id, [one.number for one in made])
    async with world.database.transaction() as session:
        await _approve(world, session, await _asked(world, session, admin, customer.id, []))
    start = clock.uk_date(clock.now()) - 2 * DAY
    half_hours = [
        (clock.start_of_uk_day(start) + n * clock.HALF_HOUR, n * 1_234_567, n % 7 == 0) for n in range(60)
    ]
    async with world.database.transaction() as session:
        await run_script(
            session, readings.record(session, admin, made[0].id, readings.validate_readings(half_hours))
        )
    return customer.id


async def _asked(
    world: World, session: Any, admin: Actor, customer_id: str, numbers: list[str]
) -> HostedConsent:
    flows = ConsentFlowType
    return await consents.create(
        session,
        admin,
        world.services.keyring,
        customer_id=customer_id,
        flow_type=flows.GB_RESIDENTIAL_SPECIFIC if numbers else flows.GB_COMMERCIAL_BLANKET,
        expiry=clock.uk_date(clock.now()) + 10 * DAY,
        redirect_url="https://example.com/back",
        meter_numbers=numbers,
    )


async def _approve(world: World, session: Any, consent: HostedConsent) -> None:
    await decisions.approve(
        session,
        consents.token_holder(consent),
        full_name="Ada Lovelace",
        email="ada@example.com",
        job_title="Director",
        privacy_contact="privacy@example.com",
    )


async def _consent(
    world: World, admin: Actor, chance: random.Random, customer_id: str, numbers: list[str]
) -> None:
    async with world.database.transaction() as session:
        wanted = chance.sample(numbers, chance.randint(1, len(numbers)))
        consent = await _asked(world, session, admin, customer_id, wanted)
        turn = chance.choice(list(ConsentStatus))
        if turn is ConsentStatus.DECLINED:
            await decisions.decline(session, consents.token_holder(consent), "No")
        elif turn is not ConsentStatus.PENDING:
            await _approve(world, session, consent)
        if turn is ConsentStatus.REVOKED:
            await decisions.revoke(session, admin, consent.id, "Moved out")
        if turn is ConsentStatus.EXPIRED:
            consent.expire_on(clock.uk_date(clock.now()) - 2 * DAY)


async def _known(world: World, admin: Actor, neighbour: Actor) -> Known:
    ids: dict[str, list[str]] = {}
    async with world.database.reading() as session:
        for model in SHOWN:
            account: Any = model.id if model is Account else model.account_id
            rows = await session.execute(
                select(model.id)
                .where(account.in_([admin.account_id, neighbour.account_id]))
                .order_by(account != admin.account_id, model.id)
            )
            ids[model.__name__] = list(rows.scalars())
        events = select(EventRecord).where(col(EventRecord.account_id) == admin.account_id)
        records = list((await session.execute(events)).scalars())
        numbers = list((await session.execute(select(col(Meter.number)))).scalars())
        stream: Stream = await log.stream(session, admin.account_id)
    by_kind = {name: [id_cursor(one) for one in found] for name, found in ids.items()}
    keyring = world.services.keyring
    by_kind["Event"] = [
        cursors.encode(keyring, admin.account_id, stream.epoch, sequence)
        for sequence in range(stream.last_sequence + 1)
    ]
    ids["Event"] = [one.id for one in records]
    return Known(ids, by_kind, numbers)
