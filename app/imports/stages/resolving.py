"""Finds the meters that a file names: by our id, by number, or by the serial number in a meter's metadata."""

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from sqlalchemy import bindparam, select
from sqlmodel import col

from app.auth.actor import Actor, Scoped
from app.consents.models import HostedConsent
from app.core import clock
from app.db.database import Database
from app.db.raw_statements import pad_to_power_of_two
from app.db.rows import Table
from app.db.sql import Sql, rows
from app.imports.formats.interface import MeterKey
from app.imports.problems import ImportProblem
from app.meters import numbers
from app.meters.models import Meter

AT_ONCE: Final = 400
SERIALS: Final = ("serial", "serialNumber", "serial_number", "meterSerial", "meterSerialNumber", "msn")
"""The keys of a meter's metadata under which its serial number is looked for."""


def _by(column: Any) -> Scoped:
    return Scoped(
        select(col(column), col(Meter.id), col(Meter.customer_id), col(Meter.number)).where(
            col(column).in_(bindparam("texts", expanding=True))
        )
    )


_BY_ID: Final = _by(Meter.id)
_BY_NUMBER: Final = _by(Meter.number)
_ONLY_METERS: Final = (
    select(col(Meter.id), col(Meter.number))
    .where(col(Meter.customer_id) == bindparam("customer_id"))
    .order_by(Meter.id)
    .limit(2)
)
_BY_SERIAL: Final = """
    WITH known AS MATERIALIZED ({serials})
    SELECT DISTINCT given.serial, known.id, known.customer_id, known.number FROM @rows(serial text)
    JOIN known ON known.serial = given.serial
"""
# One pass over the account's meters, however many serial numbers are given.
_KNOWN_BY_SERIAL: Final = Sql(
    _BY_SERIAL.format(
        serials=f"""
        SELECT named.serial, meters.id, meters.customer_id, meters.number FROM meters
        CROSS JOIN LATERAL (VALUES {", ".join(f"(meters.metadata ->> '{key}')" for key in SERIALS)}) AS named(serial)
        WHERE meters.account_id = :account_id AND named.serial IS NOT NULL"""  # noqa: S608 - our own keys
    ),
    sqlite=_BY_SERIAL.format(
        serials=f"""
        SELECT CAST(named.value AS TEXT) AS serial, meters.id, meters.customer_id, meters.number
        FROM meters, json_each(meters.metadata) AS named
        WHERE meters.account_id = :account_id AND named.key IN ({", ".join(f"'{key}'" for key in SERIALS)})"""  # noqa: S608
    ),
)
_CONSENTS: Final = Table(HostedConsent)
_IN_FORCE: Final = select(*_CONSENTS.columns).where(
    col(HostedConsent.customer_id) == bindparam("customer_id"),
    HostedConsent.in_force(bindparam("at", type_=HostedConsent.__table__.c.expires_at.type)),  # type: ignore[attr-defined]
)


class Named(NamedTuple):
    """A meter that a file names for the first time, and where."""

    key: MeterKey
    line: int
    file: str | None


class Found(NamedTuple):
    """A meter that is there, or else one that is to be created for a customer."""

    meter_id: str | None
    customer_id: str | None
    number: str


class MeterFinder:
    """Finds meters of an account; with a customer only theirs. `creates`: missing ones are to be created for them."""

    def __init__(self, database: Database, actor: Actor, customer_id: str | None, *, creates: bool) -> None:
        self._database = database
        self._actor = actor
        self._customer_id = customer_id
        self._creates = creates and customer_id is not None

    async def find(self, named: Sequence[Named]) -> list[Found | ImportProblem]:
        """For each name the meter, or the problem with it."""
        found: list[Found | ImportProblem] = []
        for at in range(0, len(named), AT_ONCE):
            found += await self._find_some(named[at : at + AT_ONCE])
        return found

    async def _find_some(self, named: Sequence[Named]) -> list[Found | ImportProblem]:
        texts: dict[str, set[str]] = {}
        for one in named:
            texts.setdefault(one.key.kind, set()).add(one.key.text)
        known = {
            "id": await self._known(_BY_ID, texts.get("id", ())),
            "serial": await self._known_serials(texts.get("serial", ())),
            "mpan": await self._known(_BY_NUMBER, texts.get("mpan", ())),
            "mprn": await self._known(_BY_NUMBER, texts.get("mprn", ())),
            "none": await self._only_meter() if "none" in texts else {},
        }
        return [self._chosen(one, known[one.key.kind].get(one.key.text, [])) for one in named]

    def _chosen(self, named: Named, found: list[Found]) -> Found | ImportProblem:
        (kind, text), line, file = named
        if len(found) == 1:
            return found[0]
        if kind == "none":
            sentence = "The file names no meter: give meter=, or the customerId of a customer with one meter."
            return ImportProblem("UNKNOWN_METER", sentence, line, file=file)
        if found:
            sentence = (
                f"Several meters of this customer have the serial number {text} in their metadata."
                if kind == "serial" and self._customer_id is not None
                else f"Several customers have a meter {text}: say whose it is with customerId."
            )
            return ImportProblem("CONFLICT", sentence, line, file=file)
        if self._creates and kind in ("mpan", "mprn"):
            try:
                return Found(None, self._customer_id, numbers.parse(text).core)
            except numbers.InvalidMeterNumber as error:
                return ImportProblem("INVALID_METER_NUMBER", f"{text}: {error}", line, file=file)
        of = "This customer has" if self._customer_id is not None else "There is"
        name = f"meter with the serial number {text} in its metadata" if kind == "serial" else f"meter {text}"
        advice = (
            "create it first"
            if self._creates or kind not in ("mpan", "mprn")
            else "create it first, or import with createMissing=true and customerId"
        )
        return ImportProblem("UNKNOWN_METER", f"{of} no {name}: {advice}.", line, file=file)

    async def _known(self, statement: Scoped, texts: Iterable[str]) -> dict[str, list[Found]]:
        wanted = sorted(texts)
        if not wanted:
            return {}
        found = await self._database.read(*statement.by(self._actor, texts=pad_to_power_of_two(wanted)))
        return self._grouped(found)

    async def _known_serials(self, texts: Iterable[str]) -> dict[str, list[Found]]:
        if not texts:
            return {}
        given = {"rows": rows({"serial": one} for one in texts), "account_id": self._actor.account_id}
        return self._grouped(await self._database.read(_KNOWN_BY_SERIAL.of(self._database.is_sqlite), given))

    async def _only_meter(self) -> dict[str, list[Found]]:
        if self._customer_id is None:
            return {}
        found = await self._database.read(_ONLY_METERS, {"customer_id": self._customer_id})
        return {"": [Found(meter_id, None, number) for meter_id, number in found]}

    def _grouped(self, found: Any) -> dict[str, list[Found]]:
        grouped: dict[str, list[Found]] = {}
        for text, meter_id, customer_id, number in found:
            if self._customer_id in (None, customer_id):
                grouped.setdefault(text, []).append(Found(meter_id, None, number))
        return grouped


async def covering_consents(database: Database, customer_id: str) -> list[HostedConsent]:
    """The customer's valid consents, which decide over meters that are to be created."""
    given = {"customer_id": customer_id, "at": clock.now()}
    return [_CONSENTS.row(one) for one in await database.read(_IN_FORCE, given)]
