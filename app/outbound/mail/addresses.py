"""Mail addresses as they are compared and remembered: by keyed hashes, never as they are."""

from dataclasses import dataclass
from typing import Final, Self

from app.core import validation
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal
from app.outbound.mail.mime import plain_address

_ADDRESS, _MAILBOX = "mail address", "mailbox"
_BYTES = 18
# Its mailboxes have both domains, and dots in a name mean nothing to it: one mailbox has thousands of spellings.
_GMAIL: Final = ("gmail.com", "googlemail.com")


@dataclass(frozen=True)
class Remembered:
    """An address of an account, as links in mails and the suppression list know it: `hash` is that of one key."""

    account_id: str
    hash: str

    @classmethod
    def of(cls, keyring: Keyring, account_id: str, address: str) -> Self:
        return cls(account_id, address_hashes(keyring, address)[0])


def checked(value: str, field: str = "email") -> str:
    """An address that mails can be sent to: as the rules want it, and as the mailer does. Raises as `rules.email`."""
    address = validation.email(value, field)
    try:
        return plain_address(address)
    except ValueError as error:
        raise Refusal(ErrorCode.INVALID, str(error), field) from None


def address_hashes(keyring: Keyring, address: str) -> list[str]:
    """The hash of an address by each key, newest first; upper and lower case are one."""
    return _hashes(keyring, _ADDRESS, address.casefold())


def mailbox_hashes(keyring: Keyring, address: str) -> list[str]:
    """The same for the mailbox behind an address."""
    return _hashes(keyring, _MAILBOX, mailbox_of(address))


def mailbox_of(address: str) -> str:
    """The plainest address of a mailbox: `ada+news@example.com` is read where `ada@example.com` is."""
    local, _, domain = address.casefold().rpartition("@")
    local = local.partition("+")[0] or local
    if domain in _GMAIL:
        local, domain = local.replace(".", ""), _GMAIL[0]
    return f"{local}@{domain}"


def _hashes(keyring: Keyring, purpose: str, text: str) -> list[str]:
    return [one.hex() for one in keyring.signatures(purpose, text.encode(), _BYTES)]
