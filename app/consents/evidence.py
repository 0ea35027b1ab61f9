"""`/hosted-consents/{id}/evidence`: download with an API key or the consent's token, upload with a WRITE key.

Errors are JSON, `{"code", "message"}`.
"""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.auth.actor import Actor, Scope
from app.auth.authenticate import Authenticator
from app.auth.credentials import bearer_of
from app.consents import actions, decisions, documents
from app.consents.documents import MAX_BYTES, DocumentType
from app.consents.models import Evidence
from app.core import clock
from app.core.clock import format_utc
from app.core.errors import ErrorCode, Forbidden, Refusal, Unauthenticated, not_found
from app.graphql.context import Services
from app.graphql.http.body import BodyTooLarge, read_body
from app.graphql.http.plain_json import PlainJson, access_refused, plain_error
from app.graphql.http.rates import Rates, TooManyRequests

WRONG_TOKEN: Final = "This consent token is wrong or expired: open the link again, or ask for a new one."  # noqa: S105


def routes(services: Services, authenticator: Authenticator, rates: Rates) -> list[BaseRoute]:
    endpoint = _EvidenceEndpoint(services, authenticator, rates)
    return [Route("/hosted-consents/{id}/evidence", endpoint.handle, methods=["GET", "PUT"])]


def evidence_url(services: Services, consent_id: str) -> str:
    return f"{services.public_url}/hosted-consents/{consent_id}/evidence"


def document_response(request: Request, evidence: Evidence, content: bytes) -> Response:
    """The document as a download in which no browser runs anything."""
    headers = {
        "Cache-Control": "private, no-store",
        "Content-Disposition": f'attachment; filename="{evidence.file_name}"',
        "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; sandbox",
        "Content-Type": evidence.content_type,
        "ETag": f'"{evidence.sha256}"',
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    known = {one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")}
    if known & {headers["ETag"], "*"}:
        return Response(status_code=304, headers=headers)
    return Response(content, headers=headers)


class _EvidenceEndpoint:
    def __init__(self, services: Services, authenticator: Authenticator, rates: Rates) -> None:
        self._services = services
        self._authenticator = authenticator
        self._rates = rates

    async def handle(self, request: Request) -> Response:
        try:
            actor = await self._authenticate(request)
            self._rates.require(actor)
            if request.method == "PUT":
                return await self._upload(request, actor)
            return await self._download(request, actor)
        except (Unauthenticated, TooManyRequests, Forbidden) as error:
            return access_refused(error)
        except Refusal as error:
            return plain_error(
                404 if error.code is ErrorCode.NOT_FOUND else 409, error.code.value, error.message
            )

    async def _authenticate(self, request: Request) -> Actor:
        """The actor of a request. A consent's token alone decides, whatever key is sent too. Raises Unauthenticated."""
        bearers = [bearer_of(one) or "" for one in request.headers.getlist("authorization")]
        token = next((one for one in bearers if one.startswith(actions.TOKEN_PREFIX)), None)
        if token is not None:
            return await self._token_holder(request, token)
        advice = "Send an API key in x-api-key or Authorization: Bearer, or the consent's token as Bearer."
        credential = self._rates.require_credential(request, advice)
        return (await self._rates.authenticated(self._authenticator, credential, request)).actor

    async def _token_holder(self, request: Request, token: str) -> Actor:
        self._rates.require_stranger(request)
        async with self._services.database.reading() as session:
            consent = await actions.find_by_token(session, token)
        if consent is None or clock.now() >= consent.expires_at:
            raise Unauthenticated(WRONG_TOKEN)
        return actions.token_holder(consent)

    async def _download(self, request: Request, actor: Actor) -> Response:
        async with self._services.database.reading() as session:
            evidence = await documents.find_evidence(session, actor, request.path_params["id"])
            if evidence is None:
                raise not_found("evidence")
            content = await documents.content(session, evidence)
        return document_response(request, evidence, content)

    async def _upload(self, request: Request, actor: Actor) -> Response:
        actor.require(Scope.WRITE)
        consent_id: str = request.path_params["id"]
        async with self._services.database.reading() as session:
            await actions.load(session, actor, consent_id)
        document_type = DocumentType.named(request.headers.get("content-type", ""))
        if document_type is None:
            types = ", ".join(one.content_type for one in DocumentType)
            return plain_error(415, "INVALID", f"Send the document with one of these content types: {types}.")
        try:
            content = await read_body(request, MAX_BYTES)
        except BodyTooLarge:
            message = f"A document has at most {MAX_BYTES} bytes; send a smaller one."
            return plain_error(413, "TOO_LONG", message, Connection="close")
        if not content.startswith(document_type.magic):
            return plain_error(
                415,
                "INVALID",
                f"The document is not what its content type says, {document_type.content_type}.",
            )
        async with self._services.database.transaction() as session:
            evidence, is_new = await decisions.approve_by_document(
                session, actor, consent_id, document_type, content
            )
        return PlainJson(
            {
                "id": evidence.id,
                "hostedConsentId": evidence.hosted_consent_id,
                "fileName": evidence.file_name,
                "contentType": evidence.content_type,
                "size": evidence.size,
                "sha256": evidence.sha256,
                "createdAt": format_utc(evidence.created_at),
                "url": evidence_url(self._services, evidence.hosted_consent_id),
            },
            201 if is_new else 200,
        )
