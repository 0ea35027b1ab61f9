"""Signing, encryption and hashing, and the replacement of keys."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.crypto import Keyring, digest, random_token

OLD, NEW, OTHER = ("old key " * 4, "new key " * 4, "other key " * 4)
messages = st.binary(max_size=100)


def test_the_first_key_signs_and_all_of_them_verify() -> None:
    before, during, after = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    made_before, made_during = before.sign("cursor", b"it"), during.sign("cursor", b"it")
    assert made_during == after.sign("cursor", b"it") != made_before
    assert during.verifies("cursor", b"it", made_before)
    assert during.verifies("cursor", b"it", made_during)
    assert after.verifies("cursor", b"it", made_during)
    assert not after.verifies("cursor", b"it", made_before)
    assert not before.verifies("cursor", b"it", made_during)


def test_the_first_key_encrypts_and_all_of_them_decrypt() -> None:
    before, during, after = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    made_before, made_during = before.encrypt("whsec_é"), during.encrypt("whsec_é")
    assert during.decrypt(made_before) == during.decrypt(made_during) == "whsec_é"
    assert after.decrypt(made_during) == "whsec_é"
    with pytest.raises(ValueError, match="VOLTWIRE_SECRET_KEY"):
        after.decrypt(made_before)
    with pytest.raises(ValueError, match="VOLTWIRE_SECRET_KEY"):
        before.decrypt(made_during)


def test_the_first_key_seals_and_all_of_them_open() -> None:
    before, during, after = Keyring([OLD]), Keyring([NEW, OLD]), Keyring([NEW])
    made_before, made_during = before.seal("cursor", b"it", b"me"), during.seal("cursor", b"it", b"me")
    assert made_during == after.seal("cursor", b"it", b"me") != made_before
    assert during.unseal("cursor", made_before, b"me") == during.unseal("cursor", made_during, b"me") == b"it"
    for keyring, sealed, purpose, context in (
        (after, made_before, "cursor", b"me"),
        (before, made_before, "else", b"me"),
        (before, made_before, "cursor", b"you"),
        (before, made_before[:-1], "cursor", b"me"),
        (before, b"", "cursor", b"me"),
    ):
        with pytest.raises(ValueError, match="VOLTWIRE_SECRET_KEY"):
            keyring.unseal(purpose, sealed, context)


@pytest.mark.parametrize("keys", [[], ["short"], [OLD, ""], [OLD, "fifteen letters"]])
def test_keys_that_are_too_short_are_refused(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="VOLTWIRE_SECRET_KEY: must be keys of at least 16 characters each"):
        Keyring(keys)


@given(messages, messages, st.sampled_from([16, 20, 32]))
def test_a_signature_counts_for_its_message_and_purpose_alone(one: bytes, two: bytes, size: int) -> None:
    keyring = Keyring([OLD])
    signature = keyring.sign("cursor", one, size)
    assert len(signature) == size
    assert keyring.verifies("cursor", one, signature)
    assert keyring.verifies("cursor", two, signature) == (one == two)
    assert not keyring.verifies("stream token", one, signature)
    assert not Keyring([OTHER]).verifies("cursor", one, signature)


@given(st.data())
def test_a_changed_or_shortened_signature_does_not_count(data: st.DataObject) -> None:
    keyring = Keyring([OLD])
    signature = bytearray(keyring.sign("cursor", b"it"))
    bit = data.draw(st.integers(0, 255))
    signature[bit // 8] ^= 1 << bit % 8
    assert not keyring.verifies("cursor", b"it", bytes(signature))
    short = data.draw(st.integers(0, 15))
    assert not keyring.verifies("cursor", b"it", keyring.sign("cursor", b"it")[:short])
    assert not keyring.verifies("cursor", b"it", keyring.sign("cursor", b"it") + b"\0")


@given(st.text(alphabet=st.characters(codec="utf-8")))
def test_encrypted_text_decrypts_and_never_looks_the_same(text: str) -> None:
    keyring = Keyring([NEW, OLD])
    token = keyring.encrypt(text)
    assert keyring.decrypt(token) == text
    assert keyring.encrypt(text) != token


@given(st.text(max_size=200))
def test_invented_tokens_are_not_decrypted(token: str) -> None:
    with pytest.raises(ValueError, match="None of the keys"):
        Keyring([NEW, OLD]).decrypt(token)


def test_random_tokens_hold_256_bits_and_are_stored_as_sha256() -> None:
    tokens = {random_token("vw_live_") for _ in range(1000)}
    assert len(tokens) == 1000
    assert {len(token) for token in tokens} == {len("vw_live_") + 43}
    assert digest("vw_live_a") == hashlib.sha256(b"vw_live_a").hexdigest()
