"""The token in the unsubscribe link of every mail: derived from the subscription's id, so nothing is stored for it."""

import base64
import binascii

from app.crypto import Keyring

_PURPOSE = "unsubscribe"
_BYTES = 18


def unsubscribe_token(keyring: Keyring, subscription_id: str) -> str:
    """`ems_….signature`, fit for a URL's path."""
    signature = keyring.sign(_PURPOSE, subscription_id.encode(), _BYTES)
    return f"{subscription_id}.{base64.urlsafe_b64encode(signature).decode()}"


def unsubscribe_url(keyring: Keyring, public_url: str, subscription_id: str) -> str:
    """Where a mail's recipient, or the mail program for them (RFC 8058), ends the subscription."""
    return f"{public_url}/email-subscriptions/unsubscribe/{unsubscribe_token(keyring, subscription_id)}"


def verified_subscription(keyring: Keyring, token: str) -> str | None:
    """The id of the subscription that the token ends, or None when it was not made with one of our keys."""
    subscription_id, _, encoded = token.rpartition(".")
    try:
        signature = base64.b64decode(encoded.encode(), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    genuine = len(signature) == _BYTES and keyring.verifies(_PURPOSE, subscription_id.encode(), signature)
    return subscription_id if genuine else None
