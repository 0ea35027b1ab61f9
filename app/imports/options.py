"""The choices of an import as its query gives them, checked before anything of the file is read."""

import json
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from itertools import chain
from typing import Any, Final, NamedTuple

from app.core import clock
from app.core.errors import ErrorCode, Refusal
from app.core.ids import is_id
from app.imports.enums import ImportProblemRule
from app.imports.formats.interface import Options
from app.imports.formats.parsed_file import profiles
from app.imports.problems import printable
from app.readings.enums import ReadingChannel

LONGEST: Final = 255
TIMEZONES: Final = ("utc", "london", "settlement")
PARAMETERS: Final = (
    "profile", "fileName", "dryRun", "onProblem", "channel", "customerId", "createMissing", "timezone", "unit",
    "calorificValue", "columns", "meter",
)  # fmt: skip


class ImportOptions(NamedTuple):
    """`stored` are the choices that the row keeps for the worker."""

    file_name: str | None
    dry_run: bool
    on_problem: ImportProblemRule
    stored: dict[str, Any]


def parse_options(given: Mapping[str, str]) -> ImportOptions:
    """Checks the parameters of a query. Raises Refusal, whose field is the parameter."""
    for name in given:
        if name not in PARAMETERS:
            raise Refusal(
                ErrorCode.INVALID,
                f"There is no parameter {name[:60]}: there are {', '.join(PARAMETERS)}.",
                name,
            )
        if name != "columns" and len(given[name]) > LONGEST:
            raise Refusal(ErrorCode.TOO_LONG, f"{name} has at most {LONGEST} characters.", name)
        _require_storable(name, given[name])
    names = [name for name, _ in profiles()]
    customer_id = given.get("customerId")
    if customer_id is not None and not is_id(customer_id, "cus"):
        raise Refusal(ErrorCode.NOT_FOUND, "There is no such customer; check the id.", "customerId")
    creates = _flag(given, "createMissing")
    if creates and customer_id is None:
        raise Refusal(
            ErrorCode.REQUIRED,
            "createMissing needs customerId: the customer whom the new meters belong to.",
            "customerId",
        )
    stored = {
        "profile": _one_of(given, "profile", names),
        "channel": _one_of(given, "channel", list(ReadingChannel.__members__)),
        "customerId": customer_id,
        "createMissing": creates,
        "timezone": _one_of(given, "timezone", TIMEZONES),
        "unit": given.get("unit"),
        "calorificValue": _calorific_value(given.get("calorificValue")),
        "columns": _columns(given.get("columns")),
        "meter": given.get("meter"),
    }
    rule = _one_of(given, "onProblem", [one.name.lower() for one in ImportProblemRule])
    return ImportOptions(
        printable(given.get("fileName", "")) or None,
        _flag(given, "dryRun"),
        ImportProblemRule[(rule or ImportProblemRule.REFUSE.name).upper()],
        {name: value for name, value in stored.items() if value not in (None, False, {})},
    )


def format_options(stored: Mapping[str, Any], file_name: str | None) -> Options:
    """The choices as the formats take them."""
    channel = stored.get("channel")
    return Options(
        now=clock.now(),
        profile=stored.get("profile"),
        file_name=file_name or "",
        channel=None if channel is None else ReadingChannel[channel],
        timezone=stored.get("timezone"),
        unit=stored.get("unit"),
        calorific_value=stored.get("calorificValue"),
        columns=stored.get("columns", {}),
        meter=stored.get("meter"),
    )


def _one_of(given: Mapping[str, str], name: str, known: Any) -> str | None:
    value = given.get(name)
    if value is not None and value not in known:
        raise Refusal(ErrorCode.INVALID, f"{name} must be one of {', '.join(known)}.", name)
    return value


def _flag(given: Mapping[str, str], name: str) -> bool:
    return _one_of(given, name, ("true", "false")) == "true"


def _calorific_value(text: str | None) -> str | None:
    if text is None:
        return None
    try:
        if Decimal(20) <= Decimal(text) <= Decimal(60):
            return text
    except InvalidOperation:
        pass
    raise Refusal(
        ErrorCode.OUT_OF_RANGE, "calorificValue must be MJ/m³, between 20 and 60, as 39.5.", "calorificValue"
    )


def _columns(text: str | None) -> dict[str, str]:
    if text is None:
        return {}
    try:
        columns = json.loads(text) if len(text) <= 20_000 else None
    except (ValueError, RecursionError):
        columns = None
    if not isinstance(columns, dict) or not all(isinstance(one, str) for one in columns.values()):
        raise Refusal(
            ErrorCode.INVALID,
            'columns must be a JSON object of roles and headers, {"date": "Day"}.',
            "columns",
        )
    for text in chain.from_iterable(columns.items()):
        _require_storable("columns", text)
    return columns


def _require_storable(name: str, text: str) -> None:
    """Refuses NUL and lone surrogates, which no database takes."""
    if "\0" in text or any("\ud800" <= one <= "\udfff" for one in text):
        raise Refusal(
            ErrorCode.INVALID, f"{name} must be valid Unicode without the character U+0000; remove it.", name
        )
