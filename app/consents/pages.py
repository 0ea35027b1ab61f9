"""The hosted consent page, on which an end customer reads the terms and decides by plain forms.

The token in the path is the only credential, so there are no cookies. Every successful form redirects; GET changes
nothing; nothing needs a script.
"""

import re
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

from app.consents import actions, codes, decisions, documents
from app.consents.codes import CodeCheck, Draft
from app.consents.evidence import document_response
from app.consents.models import ConsentMethod, ConsentStatus, HostedConsent
from app.consents.terms import PAGE_VERSION, Terms, uk_time_words
from app.core import clock
from app.core.errors import ErrorCode, Refusal, Refusals
from app.graphql.context import Services
from app.graphql.http.body import BodyTooLarge, read_body
from app.graphql.http.page_posts import own_site_only
from app.graphql.http.page_rates import rate_limited_page
from app.graphql.http.parameters import parameters_of
from app.graphql.http.rates import Rates
from app.web.render import page

MAX_FORM_BYTES: Final = 64 * 1024
FORM_TYPE: Final = "application/x-www-form-urlencoded"
SINGLE_LINE: Final = ("consenteeFullName", "consenteeEmail", "consenteeJobTitle", "reason", "code")
ENTERED: Final = (*SINGLE_LINE[:4], "meterNumbers")
ANCHORS: Final = frozenset({*SINGLE_LINE, "meterNumbers", "resend"})

# Refusals of the API in words for the person in front of the page.
FIELD_MESSAGES: Final = {
    ("consenteeFullName", ErrorCode.REQUIRED): "Enter your full name.",
    ("consenteeFullName", ErrorCode.TOO_LONG): "A name has at most 200 characters.",
    ("consenteeEmail", ErrorCode.REQUIRED): "Enter your email address.",
    ("consenteeEmail", ErrorCode.INVALID): "Enter an email address such as ada@example.com.",
    ("consenteeEmail", ErrorCode.TOO_LONG): "An email address has at most 254 characters.",
    ("consenteeJobTitle", ErrorCode.TOO_LONG): "A job title or role has at most 200 characters.",
    ("meterNumbers", ErrorCode.REQUIRED): "Enter the number of at least one meter.",
    ("reason", ErrorCode.TOO_LONG): "A reason has at most 2000 characters.",
}
HTTP_STATUS: Final = {ErrorCode.NOT_FOUND: 404, ErrorCode.TOKEN_EXPIRED: 410, ErrorCode.TOKEN_USED: 409}

Errors = dict[str, list[str]]


def routes(services: Services, rates: Rates) -> list[BaseRoute]:
    """The page, and the record of the decision."""
    pages = _Pages(services)
    return [
        Route(
            "/consents/{token}",
            rate_limited_page(rates, own_site_only(services, pages.consent)),
            methods=["GET", "POST"],
        ),
        Route("/consents/{token}/evidence", rate_limited_page(rates, pages.evidence), methods=["GET"]),
    ]


class _Pages:
    def __init__(self, services: Services) -> None:
        self._services = services

    async def consent(self, request: Request) -> Response:
        if request.method != "POST":
            return await self._show(request, edit="edit" in parameters_of(request))
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM_TYPE:
            return _unknown_form(415)
        try:
            form = _form(await read_body(request, MAX_FORM_BYTES))
        except BodyTooLarge:
            answer = _message(413, "That is too much", "Shorten what you entered and try again.")
            answer.headers["Connection"] = "close"
            return answer
        except ValueError:
            return _unknown_form(400)
        return await self._decide(request, form)

    async def evidence(self, request: Request) -> Response:
        """The record of a decided consent, as a download for the end customer."""
        async with self._services.database.reading() as session:
            consent = await actions.find_by_token(session, request.path_params["token"])
            if consent is None or clock.now() >= consent.expires_at:
                return _gone() if consent else _unknown()
            kept = await documents.find_evidence(session, actions.token_holder(consent), consent.id)
            if kept is None:
                return _message(404, "There is no record yet", "It is made when the consent is given.")
            return document_response(request, kept, await documents.content(session, kept))

    async def _decide(self, request: Request, form: dict[str, str]) -> Response:
        handle = {
            "code": self._send_code,
            "resend": self._resend_code,
            "approve": self._approve,
            "decline": self._decline,
        }.get(form.get("action", ""))
        if handle is None:
            return _unknown_form(422)
        if form.get("pageVersion", PAGE_VERSION) != PAGE_VERSION:
            changed = {
                "page": ["This page has changed since you opened it. Please read it again, then decide."]
            }
            return await self._show(request, form, changed, 409)
        try:
            return await handle(request, form)
        except (Refusal, Refusals) as error:
            refusals = error.refusals if isinstance(error, Refusals) else [error]
            status = HTTP_STATUS.get(refusals[0].code, 422)
            return await self._show(
                request, form, {} if status != 422 else _field_errors(refusals, form), status
            )

    async def _send_code(self, request: Request, form: dict[str, str]) -> Response:
        async with self._services.database.transaction() as session:
            await codes.send_code(
                session,
                await actions.actor_by_token(session, request.path_params["token"]),
                self._services.keyring,
                full_name=form.get("consenteeFullName", ""),
                email=form.get("consenteeEmail", ""),
                job_title=form.get("consenteeJobTitle"),
                meter_numbers=_lines(form.get("meterNumbers", "")),
                privacy_contact=self._services.settings.privacy_contact,
            )
        return _see_other(f"{_path(request)}#code")

    async def _resend_code(self, request: Request, form: dict[str, str]) -> Response:
        try:
            async with self._services.database.transaction() as session:
                actor = await actions.actor_by_token(session, request.path_params["token"])
                draft = Draft.of(await actions.lock_undecided(session, actor))
                if draft is not None:
                    await codes.send_code(
                        session,
                        actor,
                        self._services.keyring,
                        **vars(draft),
                        privacy_contact=self._services.settings.privacy_contact,
                        again=True,
                    )
        except Refusal as error:
            if error.code is not ErrorCode.LIMIT_REACHED:
                raise
            return await self._show(request, form, {"resend": [error.message]}, 422)
        return _see_other(f"{_path(request)}#code")

    async def _approve(self, request: Request, form: dict[str, str]) -> Response:
        if not form.get("code"):
            return await self._show(request, form, {"code": ["Enter the code from the mail."]}, 422)
        async with self._services.database.transaction() as session:
            actor = await actions.actor_by_token(session, request.path_params["token"])
            consent = await actions.lock_undecided(session, actor)
            draft = Draft.of(consent)
            if draft is None:
                return _see_other(_path(request))
            verdict = await codes.verify_code(
                session, actor, self._services.keyring, draft.email, form["code"]
            )
            if verdict is CodeCheck.CORRECT:
                await decisions.approve(
                    session,
                    actor,
                    **vars(draft),
                    privacy_contact=self._services.settings.privacy_contact,
                    way=decisions.ON_PAGE,
                )
            left = codes.MAX_TRIES - consent.code_tries
        # A wrong guess is counted once the transaction commits, so the page is rendered after it.
        if verdict is CodeCheck.CORRECT:
            return _see_other(return_url(consent, "approved"))
        sentence = "This code can no longer be used. Send a new one below."
        if verdict is CodeCheck.WRONG:
            sentence = f"This is not the code we sent. You can try {left} more time{'s' if left > 1 else ''}."
        return await self._show(request, form, {"code": [sentence]}, 422)

    async def _decline(self, request: Request, form: dict[str, str]) -> Response:
        async with self._services.database.transaction() as session:
            actor = await actions.actor_by_token(session, request.path_params["token"])
            consent = await decisions.decline(session, actor, form.get("reason"))
        return _see_other(return_url(consent, "declined"))

    async def _show(
        self,
        request: Request,
        form: dict[str, str] | None = None,
        errors: Errors | None = None,
        status: int = 200,
        edit: bool = False,
    ) -> Response:
        """The page of the consent as it is now, with the entries and their errors."""
        at = clock.now()
        async with self._services.database.reading() as session:
            consent = await actions.find_by_token(session, request.path_params["token"])
            if consent is None:
                return _unknown()
            if at >= consent.expires_at:
                return _gone()
            draft = Draft.of(consent)
            entered = draft.meter_numbers if draft else ()
            terms = await Terms.of(session, consent, self._services.settings.privacy_contact, entered)
            kept = await documents.find_evidence(session, actions.token_holder(consent), consent.id)
        state = _state(consent, draft, form, edit)
        return page(
            "consent.html",
            status,
            form_target=consent.redirect_url,
            image=terms.logo_url,
            state=state,
            heading=_heading(consent, terms),
            terms=terms,
            path=_path(request),
            version=PAGE_VERSION,
            values=_values(consent, draft, form or {}),
            errors=errors or {},
            anchors=ANCHORS,
            asks_numbers=consent.names_meters and not consent.meter_numbers,
            by_document=consent.consent_method != ConsentMethod.DIGITAL_CONSENT.value,
            code_is_live=draft is not None and codes.is_code_live(consent, draft.email, at),
            outcome=_outcome(consent, terms),
            has_evidence=kept is not None,
            redirect_url=return_url(consent, consent.decision.lower()),
        )


def return_url(consent: HostedConsent, status: str) -> str:
    """The request's redirect link with `hosted_consent_id` and `status` appended to its query."""
    parts = urlsplit(consent.redirect_url)
    added = urlencode({"hosted_consent_id": consent.id, "status": status})
    query = f"{parts.query}&{added}" if parts.query else added
    return quote(parts._replace(query=query).geturl(), safe="%/:?#[]@!$&'()*+,;=~")


def _state(consent: HostedConsent, draft: Draft | None, form: dict[str, str] | None, edit: bool) -> str:
    if consent.decision != ConsentStatus.PENDING.value:
        return "outcome"
    if draft is None or edit or (form or {}).get("action") == "code":
        return "enter"
    return "code"


def _heading(consent: HostedConsent, terms: Terms) -> str:
    if consent.decision == ConsentStatus.PENDING.value:
        return f"{terms.account} asks to collect your meter data"
    return f"Your answer to {terms.account}"


def _outcome(consent: HostedConsent, terms: Terms) -> dict[str, Any] | None:
    if consent.decided_at is None:
        return None
    decided = uk_time_words(consent.decided_at)
    if consent.decision == ConsentStatus.DECLINED.value:
        sentence = f"Declined on {decided}. {terms.account} may not collect this data."
        return {"kind": "declined", "sentence": sentence, "reason": consent.decline_reason}
    if consent.revoked_at is not None:
        sentence = f"Given on {decided} and withdrawn on {uk_time_words(consent.revoked_at)}."
        return {"kind": "revoked", "sentence": sentence, "reason": None}
    who = f" by {consent.consentee_full_name}" if consent.consentee_full_name else ""
    return {"kind": "approved", "sentence": f"Approved on {decided}{who}.", "reason": None}


def _values(consent: HostedConsent, draft: Draft | None, form: dict[str, str]) -> dict[str, str]:
    """Values of the form's fields: from this form, else from the draft, else from the request."""
    known = {
        "consenteeFullName": draft.full_name if draft else consent.consentee_full_name or "",
        "consenteeEmail": draft.email if draft else consent.consentee_email or "",
        "consenteeJobTitle": (draft.job_title if draft else consent.consentee_job_title) or "",
        "meterNumbers": "\n".join(draft.meter_numbers) if draft else "",
        "reason": "",
    }
    return {name: form.get(name, known[name]) for name in ENTERED}


def _field_errors(refusals: Iterable[Refusal], form: dict[str, str]) -> Errors:
    errors: Errors = {}
    lines = _lines(form.get("meterNumbers", ""))
    for one in refusals:
        name = one.field[0] if one.field else "page"
        sentence = FIELD_MESSAGES.get((name, one.code), one.message)
        if name == "meterNumbers" and len(one.field) > 1:
            sentence = f"“{lines[int(one.field[1])]}”: {sentence}"
        errors.setdefault(name, []).append(sentence)
    return errors


def _form(body: bytes) -> dict[str, str]:
    """Parses the fields, without control characters. Raises ValueError for more fields than any form here has."""
    pairs = parse_qsl(
        body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=20, errors="replace"
    )
    return {name: _printable(value, keep_lines=name not in SINGLE_LINE) for name, value in pairs}


def _printable(text: str, keep_lines: bool) -> str:
    kept = "".join(one if one.isprintable() or (keep_lines and one == "\n") else " " for one in text)
    return kept.strip() if keep_lines else " ".join(kept.split())


def _lines(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"[\n,;]", text) if line.strip()]


def _path(request: Request) -> str:
    return f"/consents/{quote(request.path_params['token'], safe='')}"


def _see_other(url: str) -> Response:
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return RedirectResponse(url, 303, headers)


def _unknown_form(status: int) -> Response:
    return _message(status, "This is not a form of this page", "Open the link you were sent and try again.")


def _unknown() -> Response:
    return _message(
        404, "There is no such request", "Check that you opened the whole link that you were sent."
    )


def _gone() -> Response:
    return _message(
        410,
        "This request has expired",
        "Nothing can be decided here any more. Whoever sent you the link can ask again.",
    )


def _message(status: int, title: str, *paragraphs: str) -> Response:
    return page("message.html", status, title=title, paragraphs=paragraphs)
