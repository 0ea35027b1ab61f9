import pytest
from starlette.datastructures import Headers

from app.auth.credentials import bearer_of, credential_from_headers, credential_from_init
from app.core.errors import Unauthenticated


@pytest.mark.parametrize(
    ("headers", "credential"),
    [
        ([], None),
        ([("x-api-key", "vw_live_a")], "vw_live_a"),
        ([("X-API-Key", " vw_live_a ")], "vw_live_a"),
        ([("authorization", "Bearer vw_live_a")], "vw_live_a"),
        ([("Authorization", "bEARER   vw_live_a")], "vw_live_a"),
        ([("authorization", "Basic dXNlcjpwYXNz")], None),
        ([("authorization", "vw_live_a")], None),
        ([("x-api-key", "vw_live_a"), ("authorization", "Bearer vw_live_a")], "vw_live_a"),
        ([("x-api-key", "vw_live_a"), ("authorization", "Basic dXNlcjpwYXNz")], "vw_live_a"),
        # A client that lost its key is refused, and not taken for one without a key.
        ([("x-api-key", "")], ""),
        ([("authorization", "Bearer")], ""),
        ([("authorization", "Bearer ")], ""),
    ],
)
def test_headers_carry_a_credential(headers: list[tuple[str, str]], credential: str | None) -> None:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers]
    assert credential_from_headers(Headers(raw=raw)) == credential


@pytest.mark.parametrize(
    "headers",
    [
        [(b"x-api-key", b"vw_live_a"), (b"authorization", b"Bearer vw_live_b")],
        [(b"x-api-key", b"vw_live_a"), (b"x-api-key", b"vw_live_b")],
        [(b"authorization", b"Bearer vw_live_a"), (b"authorization", b"Bearer vw_live_b")],
        [(b"x-api-key", b""), (b"authorization", b"Bearer vw_live_b")],
    ],
)
def test_two_different_credentials_are_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(Unauthenticated, match="differ"):
        credential_from_headers(Headers(raw=headers))


@pytest.mark.parametrize(
    ("payload", "credential"),
    [
        (None, None),
        ({}, None),
        ([], None),
        (3, None),
        ("vw_live_a", None),
        ({"apiKey": "vw_live_a"}, "vw_live_a"),
        ({"apiKey": None}, None),
        ({"apikey": "vw_live_a"}, "vw_live_a"),
        ({"api_key": "vw_live_a"}, "vw_live_a"),
        ({"x-api-key": "vw_live_a"}, "vw_live_a"),
        ({"X-API-KEY": "vw_live_a"}, "vw_live_a"),
        ({"authorization": "Bearer vw_live_a"}, "vw_live_a"),
        ({"Authorization": "bearer vw_live_a"}, "vw_live_a"),
        ({"authorization": "Basic abc"}, None),
        ({"apiKey": "vw_live_a", "Authorization": "Bearer vw_live_a"}, "vw_live_a"),
        ({"apiKey": ""}, ""),
        ({"other": 3}, None),
    ],
)
def test_connection_init_carries_a_credential(payload: object, credential: str | None) -> None:
    assert credential_from_init(payload) == credential


@pytest.mark.parametrize(
    "payload",
    [
        {"apiKey": 3},
        {"apiKey": ["vw_live_a"]},
        {"authorization": {"Bearer": "vw_live_a"}},
        {"apiKey": "vw_live_a", "authorization": "Bearer vw_live_b"},
    ],
)
def test_connection_init_that_is_no_credential_is_refused(payload: object) -> None:
    with pytest.raises(Unauthenticated):
        credential_from_init(payload)


def test_bearer_is_the_only_scheme() -> None:
    assert bearer_of("Bearer vw_consent_x") == "vw_consent_x"
    assert bearer_of("Digest vw_consent_x") is None
    assert bearer_of("") is None
