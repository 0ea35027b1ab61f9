"""Imports every feature's events, so that the catalogue is whole. They bring the database's models along, which takes
most of a second: commands import this module on demand.
"""

from app.accounts import events as accounts
from app.consents import events as consents
from app.customers import events as customers
from app.meters import events as meters
from app.readings import events as readings

FEATURES = (accounts, consents, customers, meters, readings)
