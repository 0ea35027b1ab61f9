"""Settings, all from the environment; the README's table lists them."""

import difflib
import ipaddress
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from email.utils import parseaddr
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Self
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.core.crypto import KEY_FORM

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Networks = Annotated[list[Network], NoDecode]

# Read by `voltwire listen` and `trigger`, which call a server.
_OF_CLIENTS = "api_key"
PRIVATE_NETWORKS = ("127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")

_DATABASE_FORM = "must be sqlite:///path or postgresql://user:password@host:port/name"
_BROADCAST_FORM = "must be memory://, redis://host:port or postgresql://user:password@host:port/name"
_SCHEDULE_FORM = "must be seconds of 0 to 2592000 (30 days), separated by commas"
_LONGEST_DELAY = 30 * 86_400.0
_LONGEST_MESSAGE = 1_048_576
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://[^\s/?#@]+")


def _comma_list(value: Any) -> Any:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    return value


class Settings(BaseSettings):
    """`VOLTWIRE_…` variables. Wrong values stop the program at start with a sentence that names the variable."""

    model_config = SettingsConfigDict(
        env_prefix="VOLTWIRE_", extra="ignore", frozen=True, env_ignore_empty=True
    )

    database_url: str | None = None
    broadcast_url: str = "memory://"
    data_dir: Path = Path(".voltwire")
    public_url: str | None = None
    secret_key: str | None = None
    allowed_origins: Annotated[list[str], NoDecode] = []
    trusted_proxies: Networks = []
    smtp_url: str | None = None
    mail_from: str = "Voltwire <events@localhost>"
    dkim_domain: str | None = None
    dkim_selector: str | None = None
    dkim_key: str | None = None
    privacy_contact: str = "privacy@localhost"
    webhook_allow_networks: Networks = []
    webhook_retry_schedule: Annotated[list[float], NoDecode] = [
        5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400,
    ]  # fmt: skip
    webhook_timeout: float = Field(default=15, gt=0, le=300)
    feed_allow_networks: Networks = []
    event_retention_days: int = Field(default=90, ge=1, le=36_500)
    max_body: int = Field(default=4_194_304, ge=1024)
    max_depth: int = Field(default=12, ge=1)
    max_tokens: int = Field(default=2000, ge=10)
    max_aliases: int = Field(default=30, ge=0)
    # Costs are counted up to 2^53 - 1, which must exceed every limit.
    max_cost: int = Field(default=5000, ge=1, lt=2**53 - 1)
    max_sockets: int = Field(default=10_000, ge=1)
    max_subscriptions: int = Field(default=100, ge=1)
    max_connections_per_address: int = Field(default=10_000, ge=1)
    rate_limit: float = Field(default=100, gt=0, allow_inf_nan=False)
    operations_file: Path | None = None
    metrics_networks: Networks = [ipaddress.ip_network(one) for one in PRIVATE_NETWORKS]

    @field_validator("allowed_origins", "webhook_retry_schedule", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _comma_list(value)

    @field_validator(
        "trusted_proxies", "webhook_allow_networks", "feed_allow_networks", "metrics_networks", mode="before"
    )
    @classmethod
    def _networks(cls, value: Any) -> Any:
        return [_network(part) for part in _comma_list(value)]

    @field_validator("allowed_origins")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        # Normalised to the form that browsers send, so that they compare as strings.
        origins = [origin.rstrip("/").lower() for origin in value]
        for origin in origins:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"must be origins such as https://app.example.com, separated by commas; got {origin!r}"
                )
        return origins

    @field_validator("public_url")
    @classmethod
    def _public(cls, value: str | None) -> str | None:
        if value is not None and (not _is_server(value, ("http", "https")) or not urlsplit(value).hostname):
            raise ValueError("must be a link such as https://voltwire.example.com")
        return value

    @field_validator("mail_from")
    @classmethod
    def _sender(cls, value: str) -> str:
        local, _, domain = parseaddr(value)[1].rpartition("@")
        if not local or not domain or any(character.isspace() for character in local + domain):
            raise ValueError("must be an address such as Voltwire <events@example.com>")
        return value

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is None:
            return value
        if value.startswith("sqlite:///"):
            # Every connection would open a database of its own.
            if value.removeprefix("sqlite:///") in ("", ":memory:"):
                raise ValueError(f"{_DATABASE_FORM}; a database in memory is none for several connections")
        elif not _is_server(value, ("postgresql",)):
            raise ValueError(_DATABASE_FORM)
        return value

    @field_validator("broadcast_url")
    @classmethod
    def _known_broadcaster(cls, value: str) -> str:
        if value != "memory://" and not _is_server(value, ("redis", "rediss", "postgresql")):
            raise ValueError(_BROADCAST_FORM)
        return value

    @field_validator("webhook_retry_schedule")
    @classmethod
    def _delays(cls, value: list[float]) -> list[float]:
        if not all(0 <= delay <= _LONGEST_DELAY for delay in value):
            raise ValueError(_SCHEDULE_FORM)
        return value

    @model_validator(mode="after")
    def _dkim(self) -> Self:
        parts = (self.dkim_domain, self.dkim_selector, self.dkim_key)
        if any(parts) and not all(parts):
            raise ValueError(
                "VOLTWIRE_DKIM_DOMAIN, VOLTWIRE_DKIM_SELECTOR and VOLTWIRE_DKIM_KEY go together: set all three or none."
            )
        return self

    @cached_property
    def database(self) -> str:
        """The database's URL, the default one made absolute."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'voltwire.db'}"

    @property
    def max_message(self) -> int:
        """Bytes of one message on a socket: 1 MiB at most, since a server holds thousands of sockets."""
        return min(self.max_body, _LONGEST_MESSAGE)

    @property
    def mail_folder(self) -> Path:
        """The folder for mails where no SMTP server is set."""
        return self.data_dir / "mail"

    @cached_property
    def secret_keys(self) -> list[str]:
        """The secret keys; on SQLite the first start writes one into the data directory."""
        if self.secret_key:
            return _comma_list(self.secret_key)  # type: ignore[no-any-return]
        if self.database.startswith("postgresql"):
            raise ValueError(f"VOLTWIRE_SECRET_KEY is required with PostgreSQL: must be {KEY_FORM}.")
        return [_stored_key(self.data_dir / "secret.key")]


def unknown_variables(environment: Mapping[str, str]) -> Iterator[str]:
    """A sentence for each unknown `VOLTWIRE_…` variable, with the closest known name."""
    known = [name.upper() for name in (*Settings.model_fields, _OF_CLIENTS)]
    for variable in sorted(environment):
        prefix, _, name = variable.upper().partition("_")
        if prefix != "VOLTWIRE" or name in known:
            continue
        close = difflib.get_close_matches(name, known, 1)
        meant = f"Did you mean VOLTWIRE_{close[0]}?" if close else "The README lists those that there are."
        yield f"{variable} is no setting and changes nothing. {meant}"


def _network(text: Any) -> Any:
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        raise ValueError(
            f"must be networks such as 10.0.0.0/8 or 2001:db8::/32, separated by commas; got {str(text)!r}"
        ) from None


def _is_server(text: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in schemes and "://" in text and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _stored_key(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A random name: processes in two containers can have the same id.
    draft = path.with_suffix(f".{secrets.token_hex(8)}")
    with open(draft, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
        file.write(secrets.token_urlsafe(48))
        file.flush()
        os.fsync(file.fileno())
    # A hard link fails when the file exists, so that two processes starting at once agree on one key.
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip()
