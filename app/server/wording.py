"""The wording of every mail about an event, registered by importing the features' `emails`."""

from app.accounts import emails as accounts
from app.consents import emails as consents
from app.customers import emails as customers
from app.meters import emails as meters
from app.readings import emails as readings

ROOMS = (accounts, customers, meters, consents, readings)
