"""Extracts the credential from a request or a socket; `authenticate` checks it."""

from collections.abc import Iterable, Sequence

from starlette.datastructures import Headers

from app.auth.stream_tokens import PREFIX
from app.core.errors import Unauthenticated


def bearer_of(authorization: str) -> str | None:
    """The token of an Authorization value, or None if its scheme is another one than Bearer."""
    scheme, _, token = authorization.strip().partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def credential_from_headers(headers: Headers) -> str | None:
    """The credential in `x-api-key` or `Authorization: Bearer`; None if both are missing.

    An empty one counts: a client that has lost its key is refused, and not taken for a stranger.
    Raises Unauthenticated when the two differ.
    """
    bearers = (bearer_of(value) for value in headers.getlist("authorization"))
    return _only_one([*(value.strip() for value in headers.getlist("x-api-key")), *bearers])


def credential_from_url(tokens: Sequence[str], headers: Headers) -> str | None:
    """The stream token in a request's address. Raises Unauthenticated for an API key there, or a second credential.

    Addresses stay in histories and in proxies' logs, where a token soon expires and a key would be valid for years.
    """
    if not all(token.startswith(PREFIX) for token in tokens):
        raise Unauthenticated("access_token takes a stream token only; never put a key into an address.")
    return _only_one([*tokens, credential_from_headers(headers)])


def credential_from_init(payload: object) -> str | None:
    """The credential in the payload of `connection_init`: `{"apiKey"}` or `{"authorization": "Bearer …"}`.

    The spelling of headers (`x-api-key`, `Authorization`) works as well; null counts as absent.
    Raises Unauthenticated when values differ or are no strings.
    """
    if not isinstance(payload, dict):
        return None
    given: list[str | None] = []
    for name, value in payload.items():
        key = str(name).lower().replace("-", "").replace("_", "")
        if value is None or key not in ("apikey", "xapikey", "authorization"):
            continue
        if not isinstance(value, str):
            raise Unauthenticated(f"{name} in connection_init must be a string.")
        given.append(bearer_of(value) if key == "authorization" else value.strip())
    return _only_one(given)


def _only_one(values: Iterable[str | None]) -> str | None:
    distinct = {value for value in values if value is not None}
    if len(distinct) > 1:
        raise Unauthenticated("Send one credential: x-api-key, Authorization and access_token differ.")
    return distinct.pop() if distinct else None
