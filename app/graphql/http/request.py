"""Reads a GraphQL request over HTTP: its parameters, from the URL or from a JSON body, with their types checked."""

from typing import Any

from starlette.requests import Request

from app.core import json_decimals
from app.core.errors import BadUserInput
from app.graphql.failures import RequestErrors
from app.graphql.http.body import BodyCutOff, BodyTooLarge, read_body
from app.graphql.http.parameters import parameters_of
from app.graphql.persisted import requested_hash

JSON = "application/json"


class Refused(RequestErrors):
    """Errors with a status and headers of their own."""

    def __init__(
        self, errors: list[dict[str, Any]], status: int, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(errors, status)
        self.headers = headers or {}


class NotGraphQL(RequestErrors):
    """The request is not one of GraphQL: the status is 400 for every media type."""


class GraphQLRequest:
    """The parameters of one request; `document_hash` may stand in place of `query`."""

    __slots__ = ("document_hash", "operation_name", "query", "tells_cost", "variables")

    def __init__(self, parameters: Any) -> None:
        if not isinstance(parameters, dict):
            raise _bad("The body must be one JSON object; batches are not supported.")
        query, name = parameters.get("query"), parameters.get("operationName")
        variables, extensions = parameters.get("variables"), parameters.get("extensions")
        if extensions is not None and not isinstance(extensions, dict):
            raise _bad("extensions must be a JSON object.")
        self.document_hash: str | None = requested_hash(extensions) if extensions else None
        if query == "" and self.document_hash is not None:
            query = None
        if (query is not None or self.document_hash is None) and (not isinstance(query, str) or not query):
            raise _bad("Send the document as the string `query`.")
        if name is not None and not isinstance(name, str):
            raise _bad("operationName must be a string.")
        if variables is not None and not isinstance(variables, dict):
            raise _bad("variables must be a JSON object.")
        self.query: str | None = query
        self.operation_name: str | None = name or None
        self.variables: dict[str, Any] | None = variables
        self.tells_cost = extensions is not None and extensions.get("cost") is True


async def read_request(request: Request, max_body: int) -> GraphQLRequest:
    """Raises RequestErrors."""
    if request.method == "POST":
        return GraphQLRequest(await _read_body(request, max_body))
    parameters: dict[str, Any] = dict(parameters_of(request))
    for name in ("variables", "extensions"):
        if name in parameters:
            parameters[name] = _parse(parameters[name], name)
    return GraphQLRequest(parameters)


async def _read_body(request: Request, limit: int) -> Any:
    media, _, parameters = request.headers.get("content-type", "").partition(";")
    if media.strip().lower() != JSON:
        raise _refused("Send the request as Content-Type: application/json.", 415)
    charset = parameters.lower().partition("charset=")[2].strip('" ')
    if charset not in ("", "utf-8", "utf8"):
        raise _refused("Send the body as UTF-8.", 415)
    try:
        body = await read_body(request, limit)
    except BodyCutOff as error:
        raise _bad(error.detail) from None
    except BodyTooLarge:
        message = (
            f"The body is longer than {limit} bytes; send less at once, and many readings by POST /readings."
        )
        raise _refused(message, 413, {"Connection": "close"}) from None
    return _parse(body, "body")


def _parse(text: str | bytes, what: str) -> Any:
    try:
        return json_decimals.loads(text)
    except ValueError as error:
        raise _bad(f"The {what} {error}.") from None


def _bad(message: str) -> RequestErrors:
    return NotGraphQL(RequestErrors.of(BadUserInput(message)).errors)


def _refused(message: str, status: int, headers: dict[str, str] | None = None) -> RequestErrors:
    return Refused(RequestErrors.of(BadUserInput(message)).errors, status, headers)
