"""GraphQL over HTTP: GET for queries, POST for both, `application/graphql-response+json` or `application/json`.

The order matters: credentials are checked before anything of the request is parsed. Without credentials, the document
is parsed, limited and validated before it is known whether it needs them.
Source: GraphQL over HTTP, graphql.github.io/graphql-over-http/draft.
"""

from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from app.auth.actor import Actor
from app.auth.authenticate import Authenticator, Credential
from app.auth.credentials import credential_from_headers, credential_from_url
from app.core.errors import BadUserInput, Unauthenticated
from app.graphql.bounds.limits import STRANGERS_BODY
from app.graphql.context import Context, Services
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.http.event_streams import EventStreams
from app.graphql.http.negotiation import preferred
from app.graphql.http.parameters import parameters_of
from app.graphql.http.rates import Rates, TooManyRequests
from app.graphql.http.request import JSON, GraphQLRequest, Refused, read_request
from app.graphql.http.responses import EVENT_STREAM, GRAPHQL_JSON, failure, success, unexpected
from app.graphql.prepared_operation import PreparedOperation

HTML = "text/html"
OFFERS = (JSON, GRAPHQL_JSON, EVENT_STREAM)


class GraphQLView:
    def __init__(
        self,
        services: Services,
        engine: Engine,
        authenticator: Authenticator,
        rates: Rates,
        streams: EventStreams | None,
    ) -> None:
        self._services = services
        self._engine = engine
        self._authenticator = authenticator
        self._rates = rates
        self._streams = streams

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The view as an ASGI application."""
        response = await self(Request(scope, receive, send))
        await response(scope, receive, send)

    async def __call__(self, request: Request) -> Response:
        accept = request.headers.get("accept")
        if _is_page_visit(request, accept):
            return RedirectResponse("/", 303, {"Vary": "Accept"})
        accepted = preferred(accept, OFFERS)
        if accepted is None:
            offered = f"This offers {', '.join(OFFERS)}.\n"
            return Response(offered, 406, {"Vary": "Accept"}, media_type="text/plain")
        try:
            return await self._answer(request, accepted)
        except Unauthenticated as error:
            return failure(RequestErrors.of(error), accepted)
        except TooManyRequests as error:
            errors = RequestErrors.of(error).errors
            return failure(Refused(errors, 429, {"Retry-After": error.retry_after}), accepted)
        except RequestErrors as error:
            # Clients of event streams take any other response for a broken connection, and hide the error.
            if accepted == EVENT_STREAM and error.status == 400 and self._streams is not None:
                return self._streams.refuse(error.errors)
            return failure(error, accepted)
        except Exception as fault:
            return unexpected(fault, accepted)

    async def _answer(self, request: Request, accepted: str) -> Response:
        credential = await self._authenticate(request, accepted)
        actor = credential.actor if credential is not None else None
        parameters, prepared = await self._read(request, accepted, actor)
        if accepted == EVENT_STREAM and self._streams is not None:
            return await self._streams.respond(request, prepared, parameters.variables, credential)
        if prepared.operation_type == "subscription":
            raise RequestErrors.of(
                BadUserInput(
                    "Subscriptions need a stream: connect by WebSocket (graphql-transport-ws), or send "
                    "Accept: text/event-stream."
                )
            )
        answer = await self._engine.execute(prepared, parameters.variables, Context(self._services, actor))
        return await success(request, prepared, answer, accepted)

    async def _authenticate(self, request: Request, accepted: str) -> Credential | None:
        """Raises Unauthenticated, TooManyRequests."""
        try:
            credential = _credential(request, accepted)
        except Unauthenticated:
            self._rates.require_stranger(request)
            raise
        if credential is None:
            return None
        return await self._rates.authenticated(self._authenticator, credential, request)

    async def _read(
        self, request: Request, accepted: str, actor: Actor | None
    ) -> tuple[GraphQLRequest, PreparedOperation]:
        """Reads and prepares the request once it is within the rate.

        An account's subscriptions by cached documents are free, as they are on a socket: after a deploy all clients
        come back at once, and browsers do not try again after a refusal.
        """
        may_be_free = actor is not None and accepted == EVENT_STREAM and self._streams is not None
        counted = False

        def count() -> None:
            nonlocal counted
            if not counted:
                self._require_rate(request, actor)
                counted = True

        if not may_be_free:
            count()
        try:
            parameters = await read_request(request, self._longest(actor))
            prepared = self._prepare(request, parameters, actor, count)
        except RequestErrors:
            count()
            raise
        if prepared.operation_type != "subscription":
            count()
        return parameters, prepared

    def _prepare(
        self,
        request: Request,
        parameters: GraphQLRequest,
        actor: Actor | None,
        before_parsing: Callable[[], None],
    ) -> PreparedOperation:
        prepared = self._engine.prepare(
            parameters.query,
            parameters.operation_name,
            authenticated=actor is not None,
            document_hash=parameters.document_hash,
            before_parsing=before_parsing,
        )
        if request.method != "POST" and prepared.operation_type == "mutation":
            raise Refused(
                RequestErrors.of(BadUserInput("Send mutations by POST.")).errors, 405, {"Allow": "POST"}
            )
        return prepared.telling_cost() if parameters.tells_cost else prepared

    def _longest(self, actor: Actor | None) -> int:
        """Bytes of a body at most."""
        longest = self._services.settings.max_body
        return longest if actor is not None else min(longest, STRANGERS_BODY)

    def _require_rate(self, request: Request, actor: Actor | None) -> None:
        if actor is None:
            self._rates.require_stranger(request)
        else:
            self._rates.require(actor)


def _credential(request: Request, accepted: str) -> str | None:
    """The request's credential. A browser's EventSource can only send it in the URL."""
    if b"access_token=" not in request.scope["query_string"]:
        return credential_from_headers(request.headers)
    if request.method == "POST" or accepted != EVENT_STREAM:
        raise Unauthenticated(
            "access_token counts for event streams by GET only; send the credential in a header."
        )
    return credential_from_url(parameters_of(request).getlist("access_token"), request.headers)


def _is_page_visit(request: Request, accept: str | None) -> bool:
    """Whether a browser opened the endpoint as a page; the start page has an explorer."""
    if accept is None or HTML not in accept or request.method == "POST":
        return False
    given = parameters_of(request)
    is_asking = "query" in given or "extensions" in given
    return not is_asking and preferred(accept, (*OFFERS, HTML)) == HTML
