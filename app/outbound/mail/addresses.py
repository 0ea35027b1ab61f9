"""Mail addresses: their checks, and the keyed hashes by which they are compared and stored."""

from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Self

from sqlalchemy import Select, bindparam, func, select

from app.core import validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.db.raw_statements import Script
from app.outbound.mail.mime import plain_address

_ADDRESS, _MAILBOX = "mail address", "mailbox"
_BYTES = 18
# Gmail ignores dots in a name and serves both domains: one mailbox has thousands of spellings.
_GMAIL: Final = ("gmail.com", "googlemail.com")


@dataclass(frozen=True)
class HashedAddress:
    """An address of an account by its hash, as in links of mails and on the suppression list; `hash` is by one key."""

    account_id: str
    hash: str

    @classmethod
    def of(cls, keyring: Keyring, account_id: str, address: str) -> Self:
        return cls(account_id, address_hashes(keyring, address)[0])


def checked_address(value: str) -> str:
    """The address, fit for an account and for the mailer. Raises as `validation.email` does."""
    address = validation.email(value, "email")
    try:
        return plain_address(address)
    except ValueError as error:
        raise Refusal(ErrorCode.INVALID, str(error), "email") from None


def require_unique(row: Any, noun: str, email: str) -> Script[None]:
    """Raises TAKEN if another row of this kind and account has the address, whatever its case."""
    model: Any = type(row)
    mine = {"account_id": row.account_id, "email": email.lower(), "id": row.id}
    if (yield _others(model), mine):
        raise Refusal(
            ErrorCode.TAKEN, f"Another {noun} of this account has this email; use another.", "email"
        )


@cache
def _others(model: Any) -> Select[Any]:
    table = model.__table__.c
    return select(table.id).where(
        table.account_id == bindparam("account_id"),
        func.lower(table.email) == bindparam("email"),
        table.id != bindparam("id"),
    )


def address_hashes(keyring: Keyring, address: str) -> list[str]:
    """The hash of an address by each key, newest first, whatever its case."""
    return _hashes(keyring, _ADDRESS, address.casefold())


def mailbox_hashes(keyring: Keyring, address: str) -> list[str]:
    """The hash of the mailbox behind an address by each key, newest first."""
    return _hashes(keyring, _MAILBOX, mailbox_of(address))


def mailbox_of(address: str) -> str:
    """The plain address of a mailbox: `ada@example.com` for `ada+news@example.com`."""
    local, _, domain = address.casefold().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in _GMAIL:
        local, domain = local.replace(".", ""), _GMAIL[0]
    return f"{local}@{domain}"


def _hashes(keyring: Keyring, purpose: str, text: str) -> list[str]:
    return [one.hex() for one in keyring.signatures(purpose, text.encode(), _BYTES)]
