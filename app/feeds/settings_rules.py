"""Rules on settings and credentials of feeds: the names that a kind takes, and the hosts that a feed may reach."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from app.core.errors import ErrorCode, Refusal, Refusals
from app.feeds.credentials import BASE_URL, SourceKinds
from app.feeds.enums import FeedKind
from app.feeds.source import Setting, SettingType, SourceKind
from app.meters.enums import MeterType
from app.outbound.http.ssrf_guard import AddressRefused, Networks, UrlRefused, check_url, parse_url
from app.outbound.text import quotable

MOST_CHARACTERS: Final = 500
"""Characters of a setting or a credential."""
MOST_NAMED: Final = 10
"""Unknown names that are refused one by one."""

_ASCII: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?")
# Sent in the body of a request, or encoded, so that it need not be fit for a header.
_PASSWORD: Final = "password"  # noqa: S105 - a name, not a password


def known_kind(kinds: SourceKinds, kind: FeedKind) -> SourceKind:
    """The kind of source. Raises INVALID at `kind` where this server has none."""
    found = kinds.get(kind)
    if found is None:
        names = ", ".join(sorted(one.name for one in kinds)) or "none"
        raise Refusal(
            ErrorCode.INVALID, f"This server has no sources of the kind {kind.name}; it has: {names}.", "kind"
        )
    return found


def checked_credentials(kind: SourceKind, given: Any) -> dict[str, str]:
    """Credentials with exactly the names of the kind. Raises Refusals, in which no value stands."""
    example = ", ".join(f'"{name}": "…"' for name in kind.credentials)
    if not isinstance(given, dict):
        raise Refusal(ErrorCode.INVALID, f"credentials is an object: {{{example}}}.", "credentials")
    refusals: list[Refusal] = []
    if given.keys() - set(kind.credentials):
        # Unlike settings they are not named: one may be a credential in the place of its name.
        names = ", ".join(kind.credentials)
        refusals.append(
            Refusal(
                ErrorCode.INVALID, f"This kind takes these credentials and no others: {names}.", "credentials"
            )
        )
    for name in kind.credentials:
        value = given.get(name)
        if not isinstance(value, str) or not value:
            refusals.append(
                Refusal(ErrorCode.REQUIRED, f"{name} needs a text as its value.", "credentials", name)
            )
        elif len(value) > MOST_CHARACTERS:
            refusals.append(
                Refusal(
                    ErrorCode.TOO_LONG,
                    f"{name} has at most {MOST_CHARACTERS} characters.",
                    "credentials",
                    name,
                )
            )
        elif not (value.isprintable() if name == _PASSWORD else _ASCII.fullmatch(value)):
            refusals.append(
                Refusal(ErrorCode.INVALID, f"{name} must be printable text on one line.", "credentials", name)
            )
    if refusals:
        raise Refusals(refusals)
    return {name: given[name] for name in kind.credentials}


def checked_settings(
    kind: SourceKind, given: Any, of: SettingType, allow_networks: Networks = ()
) -> dict[str, str]:
    """Settings of a feed or of a meter, of those that the kind takes; None is none.

    Raises Refusals with INVALID, TOO_LONG, REQUIRED and URL_NOT_ALLOWED, each at the setting's name.
    """
    given = {} if given is None else given
    if not isinstance(given, dict):
        raise Refusal(
            ErrorCode.INVALID, "settings is an object from names to texts, or null for none.", "settings"
        )
    known = {one.name: one for one in kind.settings if one.of is of}
    names = [*known, BASE_URL] if of is SettingType.FEED else [*known]
    refusals, found = _unknown(given, names), {}
    for name in names:
        try:
            if name in given and given[name] is not None:
                found[name] = _checked_setting(name, known.get(name), given[name], allow_networks)
            elif name in known and known[name].is_required:
                raise Refusal(
                    ErrorCode.REQUIRED, f"{name} is needed: {known[name].description}", "settings", name
                )
        except Refusal as refusal:
            refusals.append(refusal)
    if refusals:
        raise Refusals(refusals)
    return found


def require_meter_type(kind: SourceKind, type: MeterType) -> None:
    """Raises INVALID at `feedId` where a kind's sources have no meters of this type, and would be asked in vain."""
    if type not in kind.meter_types:
        names = " and ".join(one.name.lower() for one in kind.meter_types)
        raise Refusal(
            ErrorCode.INVALID,
            f"{kind.kind.name} has {names} meters only: give this {type.name.lower()} meter a feed of another kind.",
            "feedId",
        )


def checked_base_url(url: str, allow_networks: Networks) -> str:
    """The base URL of a source: https, or http within the operator's networks. Raises URL_NOT_ALLOWED."""
    url = url.strip().rstrip("/")
    try:
        check_url(url, allow_networks)
        parsed = parse_url(url)
    except AddressRefused:
        raise _url_refused(
            "This address is not public: feeds reach public addresses only, unless the operator lists its network in "
            "VOLTWIRE_FEED_ALLOW_NETWORKS."
        ) from None
    except UrlRefused:
        raise _url_refused(
            f"{BASE_URL} is the URL that a source's paths begin with, such as https://api.example.com/v1, without "
            "user name or fragment."
        ) from None
    if parsed.raw_query_string:
        raise _url_refused(f"{BASE_URL} has no query: remove everything from ? on.")
    if parsed.scheme != "https" and not _is_inside(parsed.raw_host or "", allow_networks):
        raise _url_refused(
            f"{BASE_URL} must begin with https://, as credentials are sent to it; http is for networks that the "
            "operator lists in VOLTWIRE_FEED_ALLOW_NETWORKS."
        )
    return url


def _checked_setting(name: str, setting: Setting | None, value: Any, allow_networks: Networks) -> str:
    if not isinstance(value, str):
        raise Refusal(ErrorCode.INVALID, f"{name} needs a text as its value.", "settings", name)
    if setting is None:
        return checked_base_url(value, allow_networks)
    if len(value) > MOST_CHARACTERS:
        raise Refusal(
            ErrorCode.TOO_LONG, f"{name} has at most {MOST_CHARACTERS} characters.", "settings", name
        )
    if not setting.pattern.fullmatch(value):
        raise Refusal(
            ErrorCode.INVALID,
            f"{name} does not have the form that it needs: {setting.description}",
            "settings",
            name,
        )
    return value


def _unknown(given: Mapping[Any, Any], names: Sequence[str]) -> list[Refusal]:
    known = ", ".join(names) or "none"
    unknown = [name for name in given if name not in names]
    return [
        Refusal(
            ErrorCode.INVALID,
            f"There is no {quotable(str(name))[:40]} among the settings of this kind; there are: {known}.",
            "settings",
            quotable(str(name))[:40],
        )
        for name in unknown[:MOST_NAMED]
    ]


def _url_refused(sentence: str) -> Refusal:
    return Refusal(ErrorCode.URL_NOT_ALLOWED, sentence, "settings", BASE_URL)


def _is_inside(host: str, allow_networks: Networks) -> bool:
    """Whether a host can only be in the operator's networks: an address of them, or a name without a domain.

    A name with a domain may lead anywhere, so it needs https.
    """
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return bool(allow_networks) and ("." not in host or host.endswith(".localhost"))
    return any(address in network for network in allow_networks)
