"""All tables: importing the models registers them in SQLModel's metadata."""

from typing import Final

from sqlmodel import SQLModel

from app.accounts import models as accounts
from app.auth import api_keys
from app.consents import models as consents
from app.customers import models as customers
from app.db import idempotency
from app.delivery.destinations.email import models as email
from app.delivery.destinations.webhook import models as webhook
from app.delivery.queue import models as delivery
from app.events import models as events
from app.meters import models as meters
from app.outbound.mail import models as mail
from app.readings import models as readings

MODELS: Final = (
    accounts,
    api_keys,
    customers,
    meters,
    consents,
    readings,
    events,
    delivery,
    webhook,
    email,
    mail,
    idempotency,
)
metadata = SQLModel.metadata
