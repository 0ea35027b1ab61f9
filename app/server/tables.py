"""All tables, in one place for migrations and tests."""

from sqlmodel import SQLModel

from app.accounts import models as accounts
from app.consents import models as consents
from app.customers import models as customers
from app.db import idempotency as api
from app.delivery.queue import models as delivery
from app.events import models as events
from app.meters import models as meters
from app.readings import models as readings

ROOMS = (accounts, customers, meters, consents, readings, events, delivery, api)
metadata = SQLModel.metadata
