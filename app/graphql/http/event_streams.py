"""The part of the GraphQL endpoint that answers by Server-Sent Events, as the view sees it."""

from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from app.auth.authenticate import Credential
from app.graphql.prepared_operation import PreparedOperation


class EventStreams(Protocol):
    async def respond(
        self,
        request: Request,
        prepared: PreparedOperation,
        variables: dict[str, Any] | None,
        credential: Credential | None,
    ) -> Response:
        """The answer to a request that prefers `text/event-stream`. Raises RequestErrors before anything is sent."""

    def refuse(self, errors: list[dict[str, Any]]) -> Response:
        """The errors of a refused request, in the form of a stream."""
