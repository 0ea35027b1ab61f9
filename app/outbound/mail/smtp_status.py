"""Reads the enhanced status code of an SMTP refusal, also where the server gives its meaning in words only."""

import re

import aiosmtplib

MAILBOX_UNAVAILABLE = 550
NO_SUCH_MAILBOX_CODE = "5.1.1"

POLICY_WORDS = (
    "allowed",
    "auth",
    "banned",
    "black",
    "block",
    "denied",
    "permitted",
    "policy",
    "prohibit",
    "relay",
    "reputation",
    "sender",
    "spam",
)
"""Parts of words that show a refusal to be about us or the mail, and not about the mailbox."""

_ENHANCED = re.compile(r"\s*([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])")


def enhanced_status(failure: aiosmtplib.SMTPResponseException, announced: bool) -> str | None:
    """RFC 3463's code of a refusal; a bare 550 to RCPT TO may be read as 5.1.1, no such mailbox.

    A bare 550 can also mean no access or a policy (RFC 5321, 4.2.3), such as a blacklist with our relay on it, which
    must not suspend every subscriber. A server that announced ENHANCEDSTATUSCODES (`announced`) gives a code where it
    has one (RFC 2034), so its bare 550 is not about the mailbox. Any other server's is, unless one of the POLICY_WORDS
    is in the text. In doubt the mailbox is taken to exist: one more mail to a dead one costs little. Other bare codes,
    such as 551 and 553, are not read.
    """
    if found := _ENHANCED.match(failure.message):
        return found[1]
    is_recipient = isinstance(failure, aiosmtplib.SMTPRecipientRefused)
    if announced or not is_recipient or failure.code != MAILBOX_UNAVAILABLE:
        return None
    text = failure.message.lower()
    return None if any(word in text for word in POLICY_WORDS) else NO_SUCH_MAILBOX_CODE
