"""Enums of meters that the tables and the API share."""

import enum


class MeterType(enum.Enum):
    """The energy that a meter measures."""

    ELECTRICITY = "ELECTRICITY"
    """Electricity; its number is an MPAN."""
    GAS = "GAS"
    """Gas; its number is an MPRN."""


class MeterStatus(enum.Enum):
    """ACTIVE: valid consent and enabled. PENDING: only an undecided consent. INACTIVE: otherwise."""

    PENDING = "PENDING"
    """The consent that counts for it is not decided yet."""
    ACTIVE = "ACTIVE"
    """Enabled, with a valid consent."""
    INACTIVE = "INACTIVE"
    """Neither: no consent, one that ended, or disabled."""


class DataSource(enum.Enum):
    """The source that an account names for a meter's readings."""

    API = "API"
    """The account's own, sent to this API."""
    ELECTRALINK = "ELECTRALINK"
    """ElectraLink, the hub of Britain's electricity market."""
    DCC = "DCC"
    """The Data Communications Company of Britain's smart meters."""
