"""The tokens in the links of mails: signed, so that a link says by itself whose it is, also once that is deleted."""

import base64
import binascii
from dataclasses import dataclass
from typing import Final

from app.core.crypto import Keyring, random_token
from app.outbound.mail.addresses import Remembered

CONFIRM_PREFIX: Final = "vw_confirm_"
_UNSUBSCRIBE, _CONFIRM, _USER = "unsubscribe", "confirm", "confirm user"
_BYTES: Final = 18


@dataclass(frozen=True)
class Unsubscribe:
    """The content of an unsubscribe link. Links of earlier versions say nothing of the address."""

    subscription_id: str
    address: Remembered | None


def unsubscribe_token(keyring: Keyring, mailed_for: str, address: Remembered) -> str:
    """`ems_….acc_….hash.signature`, fit for a URL's path; `mailed_for` is a subscription's id, or a user's."""
    return _signed(keyring, _UNSUBSCRIBE, mailed_for, address.account_id, address.hash)


def unsubscribe_url(keyring: Keyring, public_url: str, mailed_for: str, address: Remembered) -> str:
    """Where a mail's recipient, or the mail program for them (RFC 8058), ends the mails of an account."""
    return f"{public_url}/email-subscriptions/unsubscribe/{unsubscribe_token(keyring, mailed_for, address)}"


def verified_unsubscribe(keyring: Keyring, token: str) -> Unsubscribe | None:
    """The content of the token, or None when it was not made with one of our keys."""
    match _verified(keyring, _UNSUBSCRIBE, token):
        case [subscription_id]:
            return Unsubscribe(subscription_id, None)
        case [mailed_for, account_id, address_hash]:
            return Unsubscribe(mailed_for, Remembered(account_id, address_hash))
    return None


def confirm_token(keyring: Keyring, address: Remembered) -> str:
    """A random token, which is stored by its digest, and which tells who was asked."""
    return _signed(keyring, _CONFIRM, random_token(CONFIRM_PREFIX), address.account_id, address.hash)


def asked_address(keyring: Keyring, token: str) -> Remembered | None:
    """The address that the link with this token was mailed to; None for links of earlier versions, and made-up ones."""
    match _verified(keyring, _CONFIRM, token):
        case [_, account_id, address_hash]:
            return Remembered(account_id, address_hash)
    return None


def user_token(keyring: Keyring, user_id: str, address: Remembered) -> str:
    """`usr_….hash.signature`: proves that its bearer reads the mails of the address."""
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
    """The parts that were signed; none when none of our keys made the signature."""
    text, _, encoded = token.rpartition(".")
    try:
        signature = base64.b64decode(encoded.encode(), altchars=b"-_", validate=True)
        genuine = len(signature) == _BYTES and keyring.verifies(purpose, text.encode(), signature)
    except (binascii.Error, ValueError):
        return []
    return text.split(".") if genuine else []
