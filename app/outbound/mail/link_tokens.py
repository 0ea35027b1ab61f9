"""The signed tokens in the links of mails, which name their owner even after its row is deleted."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from app.core.crypto import Keyring, random_token
from app.outbound.mail.addresses import HashedAddress
from app.outbound.mail.suppressions import SuppressionList

CONFIRM_PREFIX: Final = "vw_confirm_"
_UNSUBSCRIBE, _CONFIRM, _USER = "unsubscribe", "confirm", "confirm user"
_BYTES: Final = 18


@dataclass(frozen=True)
class MailLinks:
    """The keys that links in mails are signed with, their beginning, and the list of the people who left by them."""

    keyring: Keyring
    public_url: str
    suppressions: SuppressionList

    def unsubscribe_url(self, mailed_for: str, address: HashedAddress) -> str:
        """The link by which a recipient, or their mail program (RFC 8058), ends the mails of an account."""
        token = unsubscribe_token(self.keyring, mailed_for, address)
        return f"{self.public_url}/email-subscriptions/unsubscribe/{token}"


@dataclass(frozen=True)
class Unsubscribe:
    """The content of an unsubscribe link. Links of earlier versions do not hold the address."""

    subscription_id: str
    address: HashedAddress | None


def unsubscribe_token(keyring: Keyring, mailed_for: str, address: HashedAddress) -> str:
    """`ems_….acc_….hash.signature`, fit for a URL's path; `mailed_for` is a subscription's id, or a user's."""
    return _signed(keyring, _UNSUBSCRIBE, mailed_for, address.account_id, address.hash)


def verified_unsubscribe(keyring: Keyring, token: str) -> Unsubscribe | None:
    """The content of the token; None if none of our keys made its signature."""
    match _verified(keyring, _UNSUBSCRIBE, token):
        case [subscription_id]:
            return Unsubscribe(subscription_id, None)
        case [mailed_for, account_id, address_hash]:
            return Unsubscribe(mailed_for, HashedAddress(account_id, address_hash))
    return None


def confirm_token(keyring: Keyring, address: HashedAddress) -> str:
    """A random token, which is stored by its digest and holds the address that was asked."""
    return _signed(keyring, _CONFIRM, random_token(CONFIRM_PREFIX), address.account_id, address.hash)


def asked_address(keyring: Keyring, token: str) -> HashedAddress | None:
    """The address that a link was mailed to, from its token; None for links of earlier versions and forged ones."""
    match _verified(keyring, _CONFIRM, token):
        case [_, account_id, address_hash]:
            return HashedAddress(account_id, address_hash)
    return None


def user_token(keyring: Keyring, user_id: str, address: HashedAddress) -> str:
    """`usr_….hash.signature`: proves that its bearer reads the address's mails."""
    return _signed(keyring, _USER, user_id, address.hash)


def verified_user(keyring: Keyring, token: str) -> tuple[str, str] | None:
    """The user's id and the hash of the address that the link was mailed to."""
    match _verified(keyring, _USER, token):
        case [user_id, address_hash]:
            return user_id, address_hash
    return None


def _signed(keyring: Keyring, purpose: str, *parts: str) -> str:
    text = ".".join(parts)
    signature = keyring.sign(purpose, text.encode(), _BYTES)
    return f"{text}.{base64.urlsafe_b64encode(signature).decode()}"


def _verified(keyring: Keyring, purpose: str, token: str) -> list[str]:
    """The signed parts; empty if none of our keys made the signature."""
    text, _, encoded = token.rpartition(".")
    try:
        signature = base64.b64decode(encoded.encode(), altchars=b"-_", validate=True)
        genuine = len(signature) == _BYTES and keyring.verifies(purpose, text.encode(), signature)
    except (binascii.Error, ValueError):
        return []
    return text.split(".") if genuine else []
