"""All tables: a model registers its table in SQLModel's metadata when its module is imported."""

from sqlmodel import SQLModel

import app.accounts.models
import app.auth.api_keys
import app.consents.models
import app.customers.models
import app.db.idempotency
import app.delivery.destinations.email.models
import app.delivery.destinations.webhook.models
import app.delivery.queue.models
import app.events.models
import app.feeds.models
import app.imports.models
import app.meters.models
import app.outbound.mail.models
import app.readings.models

metadata = SQLModel.metadata
