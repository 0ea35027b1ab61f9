"""A client of Voltwire for the terminal: GraphQL over HTTP. `stream.py` adds the events over WebSocket.

`voltwire listen`, `voltwire trigger` and the demo call a server through this, as any consumer does over the network.
"""

import ipaddress
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx

from app.core.errors import CommandError
from app.outbound.text import printable_line

ANSWER_WITHIN: Final = 30.0
WRONG_KEY: Final = "The server refuses this key: give a live one with --key or VOLTWIRE_API_KEY."


class ClientError(CommandError):
    """A failure as a sentence for the person at the terminal, which says what to do about it."""


@dataclass(frozen=True)
class Address:
    """The base URL of a server, without a slash at the end: `http://127.0.0.1:8000`."""

    base: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse an address with or without scheme, trailing slash or `/graphql`. Raises ClientError."""
        given = text.strip()
        if "//" not in given:
            given = f"http://{given}"
        try:
            parts = urlsplit(given)
            named = bool(parts.hostname) and (parts.port is None or parts.port > 0)
        except ValueError:
            raise ClientError(f"{text} is not an address: write it as http://127.0.0.1:8000.") from None
        scheme = {"ws": "http", "wss": "https"}.get(parts.scheme, parts.scheme)
        plain = not (parts.query or parts.fragment or "@" in parts.netloc)
        if not named or not plain or scheme not in ("http", "https"):
            raise ClientError(f"{text} is not an address of a server: write it as http://127.0.0.1:8000.")
        path = parts.path.rstrip("/").removesuffix("/graphql").rstrip("/")
        return cls(f"{scheme}://{parts.netloc}{path}")

    @property
    def graphql(self) -> str:
        return f"{self.base}/graphql"

    @property
    def socket(self) -> str:
        return f"ws{self.graphql.removeprefix('http')}"

    @property
    def is_local(self) -> bool:
        """Whether it is this machine, which no proxy leads to."""
        host = urlsplit(self.base).hostname or ""
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost" or host.endswith(".localhost")


class Api:
    """GraphQL over HTTP with a key, as an async context manager."""

    def __init__(self, address: Address, key: str | None) -> None:
        self.address = address
        self.key = _sendable(key)
        self._http = httpx.AsyncClient(
            headers={"x-api-key": self.key, "accept": "application/json"},
            timeout=ANSWER_WITHIN,
            trust_env=not address.is_local,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def ask(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        """The data of an answer without errors. Raises ClientError for any other answer."""
        content = {"query": query, "variables": variables or {}}
        response = await self._send("POST", self.address.graphql, json=content)
        return self._data(response)

    async def change(self, mutation: str, selection: str, **values: Any) -> dict[str, Any]:
        """Run one mutation on its input; returns its payload. Raises ClientError with the sentences of `userErrors`."""
        kind = f"{mutation[0].upper()}{mutation[1:]}Input"
        answer = await self.ask(
            f"mutation ($input: {kind}!) {{ {mutation}(input: $input) {{ {selection} userErrors {{ message }} }} }}",
            {"input": values},
        )
        payload: dict[str, Any] = answer[mutation]
        if payload["userErrors"]:
            reasons = " ".join(one["message"] for one in payload["userErrors"])
            raise ClientError(f"{mutation} was refused: {reasons}")
        return payload

    async def upload(self, content: bytes | AsyncIterator[bytes], **parameters: str) -> str:
        """POST a file of readings; returns the id of its import. Raises ClientError."""
        headers = {"content-type": "application/octet-stream"}
        answer = await self._plain("POST", "/imports", content=content, params=parameters, headers=headers)
        return str(answer["fileImportId"])

    async def report_of(self, import_id: str, wait: int) -> dict[str, Any]:
        """How an import stands, at the latest after so many seconds. Raises ClientError."""
        return await self._plain("GET", f"/imports/{import_id}", params={"wait": wait})

    async def _plain(self, method: str, path: str, **request: Any) -> dict[str, Any]:
        """The JSON of a plain route. Raises ClientError."""
        response = await self._send(method, f"{self.address.base}{path}", **request)
        answer = _json(response)
        if not isinstance(answer, dict):
            raise self._is_another(response)
        if response.is_error:
            raise ClientError(printable_line(str(answer.get("message", f"HTTP {response.status_code}"))))
        return answer

    async def _send(self, method: str, url: str, **request: Any) -> httpx.Response:
        """The answer to a request with a good key and within the rate. Raises ClientError."""
        try:
            response = await self._http.request(method, url, **request)
        except httpx.TimeoutException:
            raise ClientError(
                f"{self.address.base} took longer than {ANSWER_WITHIN:.0f} s to answer; try again."
            ) from None
        except httpx.HTTPError as error:
            raise ClientError(
                f"Nothing answers at {self.address.base} ({str(error) or type(error).__name__}): start the server with "
                "./scripts/serve, or say where it is with --url."
            ) from None
        if response.status_code == 401:
            raise ClientError(WRONG_KEY)
        if response.status_code == 429:
            wait = response.headers.get("retry-after", "a few")
            raise ClientError(f"Too many requests with this account's keys: try again in {wait} seconds.")
        return response

    def _is_another(self, response: httpx.Response) -> ClientError:
        return ClientError(
            f"What answers at {self.address.graphql} is not Voltwire (HTTP {response.status_code}): "
            "check the address given with --url."
        )

    async def latest_cursor(self) -> str:
        """The cursor of the event log's end."""
        answer = await self.ask("{ eventStream { latestCursor } }")
        return str(answer["eventStream"]["latestCursor"])

    def _data(self, response: httpx.Response) -> dict[str, Any]:
        answer = _json(response)
        if not isinstance(answer, dict) or not {"data", "errors"} & answer.keys():
            raise self._is_another(response)
        if answer.get("errors"):
            raise ClientError(sentences(answer["errors"]))
        data: dict[str, Any] = answer["data"]
        return data


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError:
        return None


def _sendable(key: str | None) -> str:
    """The key as it can be sent in a header. Raises ClientError."""
    text = (key or "").strip()
    if not text:
        raise ClientError("Give an API key with --key or in VOLTWIRE_API_KEY.")
    if not (text.isascii() and text.isprintable()):
        raise ClientError(WRONG_KEY)
    return text


def sentences(errors: list[dict[str, Any]]) -> str:
    return " ".join(dict.fromkeys(str(one["message"]) for one in errors))
