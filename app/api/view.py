"""GraphQL over HTTP: GET for queries, POST for both, `application/graphql-response+json` or `application/json`.

The order matters: credentials are checked before anything of the request is parsed, and without any the document is
parsed, limited and validated before it is known whether it needs them.
Source: GraphQL over HTTP, graphql.github.io/graphql-over-http/draft.
"""

import json
from decimal import Decimal
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from app.api.body import BodyCutOff, BodyTooLarge, read_body
from app.api.context import Context, Services
from app.api.engine import Engine, dumps
from app.api.failures import RequestErrors, internal_error
from app.api.limits import RateLimiter, retry_after
from app.api.live import Live
from app.api.negotiation import preferred
from app.api.sse import sse_response
from app.auth.actor import Actor
from app.auth.authenticate import Authenticator, credential_from_headers
from app.errors import BadUserInput, RateLimited, Unauthenticated

JSON = "application/json"
GRAPHQL_JSON = "application/graphql-response+json"
EVENT_STREAM = "text/event-stream"
OFFERS = (JSON, GRAPHQL_JSON, EVENT_STREAM)


class GraphQLRequest:
    """The parameters of one request, their types checked."""

    __slots__ = ("operation_name", "query", "variables")

    def __init__(self, parameters: Any) -> None:
        if not isinstance(parameters, dict):
            raise _bad("The body must be one JSON object; batches are not supported.")
        query, name = parameters.get("query"), parameters.get("operationName")
        variables, extensions = parameters.get("variables"), parameters.get("extensions")
        if not isinstance(query, str) or not query:
            raise _bad("Send the document as the string `query`.")
        if name is not None and not isinstance(name, str):
            raise _bad("operationName must be a string.")
        if variables is not None and not isinstance(variables, dict):
            raise _bad("variables must be a JSON object.")
        if extensions is not None and not isinstance(extensions, dict):
            raise _bad("extensions must be a JSON object.")
        self.query: str = query
        self.operation_name: str | None = name or None
        self.variables: dict[str, Any] | None = variables


class GraphQLView:
    def __init__(
        self,
        services: Services,
        engine: Engine,
        authenticator: Authenticator,
        limiter: RateLimiter,
        live: Live | None,
    ) -> None:
        self._services = services
        self._engine = engine
        self._authenticator = authenticator
        self._limiter = limiter
        self._live = live

    async def __call__(self, request: Request) -> Response:
        accepted = preferred(request.headers.get("accept"), OFFERS)
        if accepted is None:
            return Response(f"This offers {', '.join(OFFERS)}.", 406, media_type="text/plain")
        try:
            credential = credential_from_headers(request.headers)
            held = await self._authenticator.check(credential) if credential is not None else None
            actor = held.actor if held is not None else None
            self._require_rate(request, actor)
            asked = await self._read(request)
            prepared = self._engine.prepare(
                asked.query, asked.operation_name, authenticated=actor is not None
            )
            self._require_method(request, prepared.operation_type)
            if accepted == EVENT_STREAM and self._live is not None:
                return await sse_response(self._live, request, prepared, asked.variables, held)
            if prepared.operation_type == "subscription":
                raise RequestErrors.of(
                    BadUserInput(
                        "Subscriptions need a stream: connect by WebSocket (graphql-transport-ws), or send "
                        "Accept: text/event-stream."
                    )
                )
            response = await self._engine.execute(prepared, asked.variables, Context(self._services, actor))
        except Unauthenticated as error:
            return _failure(RequestErrors.of(error), accepted)
        except RequestErrors as error:
            return _failure(error, accepted)
        except Exception as fault:
            return _unexpected(fault, accepted)
        return Response(dumps(response), media_type=_with_charset(accepted))

    def _require_rate(self, request: Request, actor: Actor | None) -> None:
        who = actor.account_id if actor else f"ip {request.client.host if request.client else ''}"
        wait = self._limiter.take(who)
        if wait is not None:
            raise _Refused(
                [
                    {
                        "message": f"Too many requests; try again in {retry_after(wait)} s.",
                        "extensions": {"code": RateLimited.code},
                    }
                ],
                429,
                {"Retry-After": retry_after(wait)},
            )

    def _require_method(self, request: Request, operation_type: str) -> None:
        if request.method != "POST" and operation_type == "mutation":
            raise _Refused(
                RequestErrors.of(BadUserInput("Send mutations by POST.")).errors, 405, {"Allow": "POST"}
            )

    async def _read(self, request: Request) -> GraphQLRequest:
        if request.method == "POST":
            return GraphQLRequest(await self._read_body(request))
        parameters: dict[str, Any] = dict(request.query_params)
        for name in ("variables", "extensions"):
            if name in parameters:
                parameters[name] = _parse(parameters[name], name)
        return GraphQLRequest(parameters)

    async def _read_body(self, request: Request) -> Any:
        media, _, parameters = request.headers.get("content-type", "").partition(";")
        if media.strip().lower() != JSON:
            raise _Refused(
                RequestErrors.of(BadUserInput("Send the request as Content-Type: application/json.")).errors,
                415,
            )
        charset = parameters.lower().partition("charset=")[2].strip('" ')
        if charset not in ("", "utf-8", "utf8"):
            raise _Refused(RequestErrors.of(BadUserInput("Send the body as UTF-8.")).errors, 415)
        limit = self._services.settings.max_body
        try:
            body = await read_body(request, limit)
        except BodyCutOff as error:
            raise _bad(error.detail) from None
        except BodyTooLarge:
            raise _Refused(
                RequestErrors.of(
                    BadUserInput(f"The body is longer than {limit} bytes; send less at once.")
                ).errors,
                413,
                {"Connection": "close"},
            ) from None
        return _parse(body, "body")


class _Refused(RequestErrors):
    def __init__(
        self, errors: list[dict[str, Any]], status: int, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(errors, status)
        self.headers = headers or {}


class _NotJson(RequestErrors):
    """Not even JSON: 400 whatever media type the answer has."""


def _parse(text: str | bytes, what: str) -> Any:
    # Python's own parser, because it hands over the digits of a decimal as they were written.
    try:
        return json.loads(text, parse_float=_Exact, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise _NotJson(RequestErrors.of(BadUserInput(f"The {what} is not valid JSON.")).errors) from None


class _Exact(Decimal):
    """A number with a point, shown in errors as it was sent."""

    def __inspect__(self) -> str:
        return str(self)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bad(message: str) -> RequestErrors:
    return _NotJson(RequestErrors.of(BadUserInput(message)).errors)


def _failure(error: RequestErrors, media: str) -> Response:
    """An error before execution. Legacy `application/json` clients get a well-formed answer with 200."""
    headers = dict(getattr(error, "headers", {}))
    status = error.status
    if status == 400 and media == JSON and not isinstance(error, _NotJson):
        status = 200
    if status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="voltwire"'
    media = JSON if media == EVENT_STREAM else media
    return Response(dumps({"errors": error.errors}), status, headers, _with_charset(media))


def _unexpected(fault: Exception, media: str) -> Response:
    """A fault of ours outside of any field."""
    media = JSON if media == EVENT_STREAM else media
    return Response(dumps({"errors": [internal_error(fault)]}), 500, media_type=_with_charset(media))


def _with_charset(media: str) -> str:
    return f"{media}; charset=utf-8"
