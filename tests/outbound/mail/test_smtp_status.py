"""Refusals in words: which of them say that there is no such mailbox."""

import pytest
from aiosmtplib import SMTPDataError, SMTPRecipientRefused, SMTPSenderRefused

from app.outbound.mail.smtp_status import POLICY_WORDS, enhanced_status


@pytest.mark.parametrize(
    "text",
    [
        "No such user here",
        "<ann@example.com>: Recipient address rejected: User unknown in virtual mailbox table",
        "Requested action not taken: mailbox unavailable",
        "Unrouteable address",
        "Invalid recipient",
    ],
)
def test_a_bare_550_may_be_about_the_mailbox(text: str) -> None:
    assert enhanced_status(SMTPRecipientRefused(550, text, "ann@example.com"), announced=False) == "5.1.1"
    assert enhanced_status(SMTPRecipientRefused(550, text, "ann@example.com"), announced=True) is None


@pytest.mark.parametrize(
    "text",
    [
        "Your IP address is blacklisted",
        "Service unavailable; client [192.0.2.1] blocked using zen.spamhaus.example",
        "Access denied",
        "Rejected for POLICY reasons",
        "Bad reputation",
        "Relay not permitted",
        "Relaying denied",
        "Administrative prohibition",
        "Sender verify failed",
        "Authentication required",
        "Mail from your network\nis not allowed",
        *POLICY_WORDS,
    ],
)
def test_or_about_a_policy(text: str) -> None:
    for announced in (False, True):
        assert enhanced_status(SMTPRecipientRefused(550, text, "ann@example.com"), announced) is None


@pytest.mark.parametrize("announced", [False, True])
def test_a_code_that_is_given_counts_whatever_the_words(announced: bool) -> None:
    refused = SMTPRecipientRefused(550, "5.1.1 Access denied, no such user", "ann@example.com")
    assert enhanced_status(refused, announced) == "5.1.1"
    assert enhanced_status(SMTPSenderRefused(550, "5.1.8 Bad sender", "us@example.com"), announced) == "5.1.8"


def test_nothing_is_read_from_other_bare_refusals() -> None:
    others = [
        SMTPSenderRefused(550, "No such user", "us@example.com"),
        SMTPDataError(550, "No such user"),
        *(SMTPRecipientRefused(code, "No such user", "ann@example.com") for code in (450, 551, 553, 554)),
    ]
    assert [enhanced_status(one, announced=False) for one in others] == [None] * len(others)
