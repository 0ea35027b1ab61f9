"""Actions on feeds, the feeds of meters, and backfills. Each is a script, and none commits."""

from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import bindparam, func, select
from sqlalchemy import delete as delete_from
from sqlmodel import col

from app.auth.actor import Actor, Scoped
from app.consents.coverage import effective_consents
from app.consents.models import ConsentFlowType
from app.core import clock, validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal, not_found
from app.db.raw_statements import Script
from app.db.rows import Table
from app.db.scripts import InTransaction
from app.events.models import Stream
from app.feeds import backfill_plans
from app.feeds.credentials import BASE_URL, SourceKinds, credential_keys, sealed
from app.feeds.enums import BackfillStatus, FeedKind, FeedStatus
from app.feeds.half_hours import half_hour_of, start_of
from app.feeds.models import Backfill, Feed, MeterFeed
from app.feeds.settings_rules import checked_credentials, checked_settings, known_kind, require_meter_type
from app.feeds.source import SettingType, SourceKind
from app.meters.enums import MeterType
from app.meters.models import Meter
from app.outbound.http.ssrf_guard import Networks
from app.outbound.mail.models import TransactionalMail

MOST_FEEDS: Final = 100
LONGEST_BACKFILL: Final = timedelta(days=3653)

FEEDS: Final = Table(Feed)
_METERS: Final = Table(Meter)
_LINKS: Final = Table(MeterFeed)
_BACKFILLS: Final = Table(Backfill)

# Under the log's lock two creations count the feeds one after the other.
_LOCK_LOG: Final = (
    select(col(Stream.last_sequence))
    .where(col(Stream.account_id) == bindparam("account_id"))
    .with_for_update()
)
_COUNT: Final = select(func.count()).where(col(Feed.account_id) == bindparam("account_id"))
_SHARED_KEY: Final = (
    select(col(Feed.credential_key))
    .where(col(Feed.credential_key).in_(bindparam("credential_keys", expanding=True)))
    .limit(1)
)
_LOCK_FEED: Final = Scoped(
    select(*FEEDS.columns).where(col(Feed.id) == bindparam("wanted_id")).with_for_update()
)
# It may be changed meanwhile, but not deleted.
_KEEP_FEED: Final = Scoped(
    select(*FEEDS.columns)
    .where(col(Feed.id) == bindparam("wanted_id"))
    .with_for_update(read=True, key_share=True)
)
_SAVE: Final = FEEDS.updating(
    "name",
    "status",
    "attention",
    "settings",
    "credentials_encrypted",
    "credential_key",
    "checks_until",
    "updated_at",
)
_NOTE_CHECK: Final = FEEDS.updating("checks_until")
_DELETE_FEED: Final = delete_from(FEEDS.table).where(col(Feed.id) == bindparam("wanted_id"))
_FORGET_MAILS: Final = delete_from(TransactionalMail).where(
    col(TransactionalMail.about_id) == bindparam("wanted_id")
)
# Meters are locked before their feeds and backfills, as by a worker that records.
_LOCK_METER: Final = Scoped(
    select(*_METERS.columns).where(col(Meter.id) == bindparam("wanted_id")).with_for_update()
)
_TOUCH: Final = _METERS.updating("updated_at")
_LINK: Final = select(*_LINKS.columns).where(col(MeterFeed.meter_id) == bindparam("wanted_id"))
_UNLINK: Final = delete_from(_LINKS.table).where(col(MeterFeed.meter_id) == bindparam("wanted_id"))
_UNFINISHED: Final = select(col(Backfill.id)).where(
    col(Backfill.meter_id) == bindparam("wanted_id"), col(Backfill.completed_at).is_(None)
)
_BACKFILL: Final = Scoped(select(*_BACKFILLS.columns).where(col(Backfill.id) == bindparam("wanted_id")))


def create(
    actor: Actor,
    keyring: Keyring,
    kinds: SourceKinds,
    allow_networks: Networks,
    *,
    kind: FeedKind,
    name: str,
    credentials: Any,
    settings: Any = None,
) -> Script[Feed]:
    """Creates a feed, which fetches for the meters that are set to it.

    Raises LIMIT_REACHED; INVALID on `kind`; all at once REQUIRED or TOO_LONG on `name` and the refusals of
    `checked_settings` and `checked_credentials`.
    """
    source = known_kind(kinds, kind)
    valid = validation.validate_all(
        name=lambda: validation.required_text(name, "name"),
        settings=lambda: checked_settings(source, settings, SettingType.FEED, allow_networks),
        credentials=lambda: checked_credentials(source, credentials),
    )
    yield _LOCK_LOG, {"account_id": actor.account_id}
    [[count]] = yield _COUNT, {"account_id": actor.account_id}
    if count >= MOST_FEEDS:
        raise Refusal(
            ErrorCode.LIMIT_REACHED,
            f"An account has at most {MOST_FEEDS} feeds; delete one that is not needed.",
        )
    feed = FEEDS.new(
        account_id=actor.account_id,
        kind=kind.name,
        name=valid["name"],
        settings=valid["settings"],
        credentials_encrypted=sealed(keyring, valid["credentials"]),
        credential_key=(yield from _credential_key(keyring, source, valid["settings"], valid["credentials"])),
    )
    yield from FEEDS.insert([feed])
    return feed


def update(
    actor: Actor,
    keyring: Keyring,
    kinds: SourceKinds,
    allow_networks: Networks,
    feed_id: str,
    changes: dict[str, Any],
) -> Script[Feed]:
    """Applies the given `changes`: name, settings, credentials, status.

    A feed that needs attention goes on once it has other settings or credentials, or is set to ACTIVE.
    """
    feed = yield from lock(actor, feed_id)
    source = kinds.get(FeedKind[feed.kind])
    if {"settings", "credentials"} & changes.keys():
        source = known_kind(kinds, FeedKind[feed.kind])
    valid = validation.validate_changes(_rules(source, allow_networks), changes)
    before = feed.settings
    feed.name = valid.get("name", feed.name)
    feed.settings = valid.get("settings", feed.settings)
    if source is not None and "credentials" in valid:
        credentials = valid["credentials"]
        feed.credentials_encrypted = sealed(keyring, credentials)
        feed.credential_key = yield from _credential_key(keyring, source, feed.settings, credentials)
        # Others than those that were tried too often may be tried at once.
        feed.checks_until = None
    elif feed.settings.get(BASE_URL) != before.get(BASE_URL):
        raise Refusal(
            ErrorCode.REQUIRED,
            f"Send the credentials as well, because another {BASE_URL} gets them.",
            "credentials",
        )
    if "status" in valid:
        feed.status = valid["status"]
    elif feed.status == FeedStatus.NEEDS_ATTENTION.name and (
        "credentials" in valid or feed.settings != before
    ):
        feed.status = FeedStatus.ACTIVE.name
    if feed.status == FeedStatus.ACTIVE.name:
        feed.attention = None
    yield from save(feed)
    return feed


def delete(actor: Actor, feed_id: str) -> Script[str]:
    """Deletes a feed with its credentials, and ends its backfills; readings stay, and so do its meters."""
    yield from lock(actor, feed_id)
    yield from backfill_plans.end_backfills_of_feed(feed_id)
    yield _FORGET_MAILS, {"wanted_id": feed_id}
    yield _DELETE_FEED, {"wanted_id": feed_id}
    return feed_id


def lock(actor: Actor, feed_id: str) -> Script[Feed]:
    """Finds a feed and holds off concurrent changes. Raises NOT_FOUND on `feedId`."""
    found = yield _LOCK_FEED.by(actor, wanted_id=feed_id)
    if not found:
        raise not_found("feed", "feedId")
    return FEEDS.row(found[0])


def save(feed: Feed) -> Script[None]:
    """Writes a locked feed."""
    feed.updated_at = clock.now()
    yield from _SAVE(feed)


def note_check(feed: Feed) -> Script[None]:
    """Writes how often a locked feed may be checked."""
    yield from _NOTE_CHECK(feed)


def set_meter_feed(
    transaction: InTransaction,
    actor: Actor,
    kinds: SourceKinds,
    meter_id: str,
    feed_id: str | None,
    settings: Any = None,
) -> Script[Meter]:
    """Has a meter fetched by this feed alone, or by none; with a valid consent a backfill begins.

    Nothing changes where the meter has this feed with these settings already. Raises NOT_FOUND on `meterId` or
    `feedId`, INVALID on `feedId` where its source has no meters of this type, and the refusals of `checked_settings`.
    """
    meter = yield from _lock_meter(actor, meter_id)
    before = yield from _feed_of(meter_id)
    if feed_id is None:
        if settings:
            raise Refusal(
                ErrorCode.INVALID,
                "Settings belong to a feed: give its feedId, or leave them out.",
                "settings",
            )
        if before is not None:
            yield from _remove_feed(meter)
        return meter
    feed = yield from _keep_feed(actor, feed_id)
    source = kinds.get(FeedKind[feed.kind])
    valid = {}
    if source is not None:
        require_meter_type(source, MeterType[meter.type])
        valid = checked_settings(source, settings, SettingType.METER)
    if before is not None and before.feed_id == feed_id and before.settings == valid:
        return meter
    if before is not None:
        yield from _remove_feed(meter)
    yield from _LINKS.insert(
        [_LINKS.new(meter_id=meter_id, feed_id=feed_id, account_id=meter.account_id, settings=valid)]
    )
    yield from _touch(meter)
    yield from backfill_plans.begin_where_consented(transaction, [meter_id])
    return meter


def start_backfill(
    transaction: InTransaction,
    actor: Actor,
    meter_id: str,
    start: datetime | None = None,
    end: datetime | None = None,
) -> Script[Backfill]:
    """Begins a backfill over `[start, end)`, widened to half-hours and up to the start of today in the UK.

    Raises NOT_FOUND on `meterId`, CONSENT_REQUIRED; CONFLICT without a feed, or while a backfill of the meter is under
    way; OUT_OF_RANGE on `from` or `to`.
    """
    meter = yield from _lock_meter(actor, meter_id)
    now = clock.now()
    consent = (yield from effective_consents([meter_id], now)).get(meter_id)
    if consent is None or not consent.is_valid(now):
        raise Refusal(
            ErrorCode.CONSENT_REQUIRED,
            "This meter has no valid consent: have one approved, then start the backfill again.",
            "meterId",
        )
    link = yield from _feed_of(meter_id)
    if link is None:
        raise Refusal(ErrorCode.CONFLICT, "This meter has no feed: give it one with setMeterFeed.", "meterId")
    if (yield _UNFINISHED, {"wanted_id": meter_id}):
        raise Refusal(
            ErrorCode.CONFLICT,
            "A backfill of this meter is under way: wait for its end, or cancel it with cancelBackfill.",
            "meterId",
        )
    start, end = _checked_period(start, end, now)
    parts = backfill_plans.plan(ConsentFlowType[consent.flow_type], end, start)
    return (yield from backfill_plans.begin_backfill(transaction, meter, link.feed_id, start, end, parts))


def cancel_backfill(actor: Actor, backfill_id: str) -> Script[Backfill]:
    """Ends a backfill that is under way; what it has fetched stays. A cancelled one stays as it is.

    Raises NOT_FOUND, and CONFLICT for one that has ended otherwise.
    """
    known = yield from _find_backfill(actor, backfill_id)
    yield from _lock_meter(actor, known.meter_id)
    backfill = yield from _find_backfill(actor, backfill_id)
    if backfill.status == BackfillStatus.CANCELLED.name:
        return backfill
    if backfill.completed_at is not None:
        raise Refusal(
            ErrorCode.CONFLICT, "This backfill has ended: nothing of it is left to cancel.", "backfillId"
        )
    yield from backfill_plans.cancel_backfill(backfill.meter_id)
    return (yield from _find_backfill(actor, backfill_id))


def _rules(source: SourceKind | None, allow_networks: Networks) -> dict[str, validation.Rule]:
    rules: dict[str, validation.Rule] = {
        "name": lambda value: validation.required_text(validation.not_cleared(value, "name"), "name"),
        "status": lambda value: _status(validation.not_cleared(value, "status")),
    }
    if source is not None:
        rules["settings"] = lambda value: checked_settings(source, value, SettingType.FEED, allow_networks)
        rules["credentials"] = lambda value: checked_credentials(
            source, validation.not_cleared(value, "credentials")
        )
    return rules


def _status(status: FeedStatus) -> str:
    if status is FeedStatus.NEEDS_ATTENTION:
        raise Refusal(
            ErrorCode.INVALID,
            "Set a feed to ACTIVE or PAUSED: Voltwire alone says that it needs attention.",
            "status",
        )
    return status.name


def _credential_key(
    keyring: Keyring, source: SourceKind, settings: dict[str, str], credentials: dict[str, str]
) -> Script[str]:
    """The key that feeds with these credentials share, also those from before the deployment's key was rotated."""
    keys = credential_keys(keyring, source.kind, settings.get(BASE_URL, source.base_url), credentials)
    found = yield _SHARED_KEY, {"credential_keys": keys}
    return found[0][0] if found else keys[0]


def _checked_period(start: datetime | None, end: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    today = backfill_plans.start_of_today()
    if end is not None and end > now:
        raise Refusal(ErrorCode.OUT_OF_RANGE, "to must not be in the future.", "to")
    until = today if end is None else min(start_of(half_hour_of(end)), today)
    since = (
        backfill_plans.months_before(until, backfill_plans.MONTHS)
        if start is None
        else start_of(half_hour_of(start))
    )
    if since >= until:
        raise Refusal(
            ErrorCode.OUT_OF_RANGE,
            f"from must be before to, and before today in the UK ({clock.format_utc(today)}).",
            "from",
        )
    if until - since > LONGEST_BACKFILL:
        raise Refusal(ErrorCode.OUT_OF_RANGE, "A backfill goes back ten years at most.", "from")
    return since, until


def _lock_meter(actor: Actor, meter_id: str) -> Script[Meter]:
    found = yield _LOCK_METER.by(actor, wanted_id=meter_id)
    if not found:
        raise not_found("meter", "meterId")
    return _METERS.row(found[0])


def _feed_of(meter_id: str) -> Script[MeterFeed | None]:
    found = yield _LINK, {"wanted_id": meter_id}
    return _LINKS.row(found[0]) if found else None


def _keep_feed(actor: Actor, feed_id: str) -> Script[Feed]:
    found = yield _KEEP_FEED.by(actor, wanted_id=feed_id)
    if not found:
        raise not_found("feed", "feedId")
    return FEEDS.row(found[0])


def _remove_feed(meter: Meter) -> Script[None]:
    yield from backfill_plans.end_backfills([meter.id])
    yield _UNLINK, {"wanted_id": meter.id}
    yield from _touch(meter)


def _touch(meter: Meter) -> Script[None]:
    meter.updated_at = clock.now()
    yield from _TOUCH(meter)


def _find_backfill(actor: Actor, backfill_id: str) -> Script[Backfill]:
    found = yield _BACKFILL.by(actor, wanted_id=backfill_id)
    if not found:
        raise not_found("backfill", "backfillId")
    return _BACKFILLS.row(found[0])
