"""What an SMTP server's refusal says of the recipient, also where it says it in words only."""

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
"""Any of them, in whatever word, says that a refusal is about us or the mail and not about the mailbox."""

_ENHANCED = re.compile(r"\s*([245]\.[0-9]{1,3}\.[0-9]{1,3})(?![0-9.])")


def enhanced_status(failure: aiosmtplib.SMTPResponseException, announced: bool) -> str | None:
    """RFC 3463's code of a refusal; 5.1.1, no such mailbox, is also read from a bare 550 to RCPT TO that means it.

    550 alone may as well mean no access or a policy (RFC 5321, 4.2.3), such as a blacklist that the relay is on,
    which must not suspend every subscriber. `announced`: the server announced ENHANCEDSTATUSCODES, and so gives
    the code where it has one to give (RFC 2034); what it refuses without is not the mailbox. From any other
    server it is, unless one of the POLICY_WORDS is in the text. In doubt the mailbox is there: to write to a
    dead one again costs one mail. Nothing is read from other bare codes, such as 551 and 553.
    """
    if found := _ENHANCED.match(failure.message):
        return found[1]
    is_recipient = isinstance(failure, aiosmtplib.SMTPRecipientRefused)
    if announced or not is_recipient or failure.code != MAILBOX_UNAVAILABLE:
        return None
    text = failure.message.lower()
    return None if any(word in text for word in POLICY_WORDS) else NO_SUCH_MAILBOX_CODE
