"""Settings, all from the environment; the README's table lists them."""

import ipaddress
import os
import secrets
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


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
    trusted_proxies: Annotated[list[Network], NoDecode] = []
    smtp_url: str | None = None
    mail_from: str = "Voltwire <events@localhost>"
    dkim_domain: str | None = None
    dkim_selector: str | None = None
    dkim_key: str | None = None
    privacy_contact: str = "privacy@localhost"
    webhook_allow_networks: Annotated[list[Network], NoDecode] = []
    webhook_retry_schedule: Annotated[list[float], NoDecode] = [
        5, 300, 1800, 7200, 18000, 36000, 50400, 72000, 86400,
    ]  # fmt: skip
    webhook_timeout: float = Field(default=15, gt=0, le=300)
    event_retention_days: int = Field(default=90, ge=1)
    max_body: int = Field(default=1_048_576, ge=1024)
    max_depth: int = Field(default=12, ge=1)
    max_tokens: int = Field(default=2000, ge=10)
    max_aliases: int = Field(default=30, ge=0)
    max_cost: int = Field(default=5000, ge=1)
    max_sockets: int = Field(default=10_000, ge=1)
    max_subscriptions: int = Field(default=100, ge=1)
    rate_limit: float = Field(default=100, gt=0)

    @field_validator(
        "allowed_origins",
        "trusted_proxies",
        "webhook_allow_networks",
        "webhook_retry_schedule",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return _comma_list(value)

    @field_validator("database_url")
    @classmethod
    def _known_database(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("must be sqlite:///path or postgresql://user:password@host:port/name")
        return value

    @field_validator("broadcast_url")
    @classmethod
    def _known_broadcaster(cls, value: str) -> str:
        if not value.startswith(("memory://", "redis://", "rediss://", "postgresql://")):
            raise ValueError(
                "must be memory://, redis://host:port or postgresql://user:password@host:port/name"
            )
        return value

    @field_validator("webhook_retry_schedule")
    @classmethod
    def _positive(cls, value: list[float]) -> list[float]:
        if any(delay < 0 for delay in value):
            raise ValueError("must be seconds of 0 or more, separated by commas")
        return value

    @cached_property
    def database(self) -> str:
        """The database's URL, the default one made absolute."""
        return self.database_url or f"sqlite:///{self.data_dir.absolute() / 'voltwire.db'}"

    @cached_property
    def secret_keys(self) -> list[str]:
        """The secret keys; on SQLite the first start writes one into the data directory."""
        if self.secret_key:
            return _comma_list(self.secret_key)  # type: ignore[no-any-return]
        if self.database.startswith("postgresql"):
            raise ValueError(
                "VOLTWIRE_SECRET_KEY is required with PostgreSQL: set it to 32 random characters or more."
            )
        return [_kept_key(self.data_dir / "secret.key")]


def _kept_key(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f".{os.getpid()}")
    draft.touch(mode=0o600)
    draft.write_text(secrets.token_urlsafe(48))
    # A hard link fails when the file is there, so that two processes starting at once agree on one key.
    try:
        os.link(draft, path)
    except FileExistsError:
        pass
    finally:
        draft.unlink()
    return path.read_text().strip()
