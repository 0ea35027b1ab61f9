"""Signatures: the specification's vector, the reference library, and secrets that cannot be used."""

import base64
import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook, WebhookVerificationError

from app.delivery.destinations.webhook.signing import (
    SecretError,
    decode_secret,
    new_key_pair,
    new_secret,
    sign,
)

VECTOR_SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_specification_vector() -> None:
    signature = sign([VECTOR_SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_specification_vector_of_a_key_pair() -> None:
    key = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
    body = b'{"test": 2432232314}'
    signature = sign([VECTOR_SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body, [key])
    assert signature.split() == [
        "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    ]


def test_a_key_pair_holds_together() -> None:
    private, public = new_key_pair()
    assert (private[:5], public[:5]) == ("whsk_", "whpk_")
    content = base64.b64decode(private[5:])
    assert (len(content), base64.b64encode(content[32:]).decode()) == (64, public[5:])


@pytest.mark.parametrize("key", ["whsk_", "whsk_?", "whsk_AAAA"])
def test_a_signing_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(SecretError):
        sign([VECTOR_SECRET], "evt_1", 1, b"", [key])


@given(st.text(alphabet="abcXYZ019_", min_size=1), st.text())
def test_signs_as_the_reference_library_does(message_id: str, body: str) -> None:
    secret = new_secret()
    at = datetime(2026, 11, 24, 22, 29, 55, tzinfo=UTC)
    expected = Webhook(secret).sign(message_id, at, body)
    assert sign([secret], message_id, int(at.timestamp()), body.encode()) == expected


def test_both_secrets_verify_during_a_rotation() -> None:
    old, new, other = new_secret(), new_secret(), new_secret()
    timestamp = int(datetime.now(UTC).timestamp())
    body = b'{"type": "meter.created"}'
    headers = {
        "webhook-id": "evt_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign([new, old], "evt_1", timestamp, body),
    }
    assert headers["webhook-signature"].count("v1,") == 2
    for secret in (old, new):
        assert Webhook(secret).verify(body, headers) == {"type": "meter.created"}
    with pytest.raises(WebhookVerificationError):
        Webhook(other).verify(body, headers)


def test_a_body_that_is_not_text_is_signed_as_it_is() -> None:
    assert sign([VECTOR_SECRET], "evt_1", 1, b"\xff\x00") != sign([VECTOR_SECRET], "evt_1", 1, b"\xff")


def test_new_secrets_hold_32_bytes_and_differ() -> None:
    secret = new_secret()
    assert re.fullmatch(r"whsec_[A-Za-z0-9+/]{43}=", secret)
    assert len(decode_secret(secret)) == 32
    assert secret != new_secret()


def _secret_of(size: int) -> str:
    return "whsec_" + base64.b64encode(b"k" * size).decode()


@pytest.mark.parametrize("size", [24, 32, 64])
def test_secrets_of_allowed_sizes(size: int) -> None:
    assert decode_secret(_secret_of(size)) == b"k" * size


@pytest.mark.parametrize(
    ("secret", "sentence"),
    [
        ("", "A signing secret starts with whsec_."),
        ("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "A signing secret starts with whsec_."),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa*w", "After whsec_ a signing secret is base64."),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "After whsec_ a signing secret is base64."),
        ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSé", "After whsec_ a signing secret is base64."),
        ("whsec_", "A signing secret holds 24 to 64 bytes; this one holds 0."),
        (_secret_of(23), "A signing secret holds 24 to 64 bytes; this one holds 23."),
        (_secret_of(65), "A signing secret holds 24 to 64 bytes; this one holds 65."),
    ],
)
def test_secrets_that_cannot_be_used(secret: str, sentence: str) -> None:
    with pytest.raises(SecretError) as caught:
        sign([secret], "evt_1", 1, b"")
    assert str(caught.value) == sentence


def test_at_least_one_secret() -> None:
    with pytest.raises(SecretError, match="At least one"):
        sign([], "evt_1", 1, b"")


@pytest.mark.parametrize("message_id", ["", "evt.1"])
def test_ids_that_would_make_the_signed_text_ambiguous(message_id: str) -> None:
    with pytest.raises(ValueError, match="no dot"):
        sign([VECTOR_SECRET], message_id, 1, b"")
