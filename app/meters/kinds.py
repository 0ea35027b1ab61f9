"""The kinds of meters: plain enums that the tables and the API share."""

import enum


class MeterType(enum.Enum):
    ELECTRICITY = "ELECTRICITY"
    GAS = "GAS"


class MeterStatus(enum.Enum):
    """ACTIVE: valid consent and enabled. PENDING: only an undecided consent. INACTIVE: otherwise."""

    PENDING = "PENDING"
    ACTIVE = "ACTIVE"
    INACTIVE = "INACTIVE"


class DataSource(enum.Enum):
    API = "API"
    ELECTRALINK = "ELECTRALINK"
    DCC = "DCC"
