"""The pages behind the links in mails: confirm a subscription, end it.

GET changes nothing, because mail programs and virus scanners follow links. A bare POST acts, without a cookie or a form
token, since the link's own token is the credential; RFC 8058's one-click unsubscribe sends such a POST. Only forms that
a browser sends from another site are refused. Both may be repeated.
"""

from contextlib import AbstractAsyncContextManager

from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.accounts.letterhead import account_name
from app.delivery.destinations.email import link_actions
from app.delivery.destinations.email.link_actions import Confirmation
from app.delivery.destinations.email.models import EmailSubscription
from app.events.event_type_filter import in_words
from app.graphql.context import Services
from app.graphql.http.page_posts import own_site_only
from app.graphql.http.page_rates import rate_limited_page
from app.graphql.http.rates import Rates
from app.outbound.mail.link_tokens import verified_unsubscribe
from app.web.render import page

TEMPLATE = "email_subscription.html"


def routes(services: Services, rates: Rates) -> list[BaseRoute]:
    """`/email-subscriptions/confirm/{token}` and `/email-subscriptions/unsubscribe/{token}`."""
    pages = _Pages(services)
    return [
        Route(
            "/email-subscriptions/confirm/{token}",
            rate_limited_page(rates, own_site_only(services, pages.confirm)),
            methods=["GET", "POST"],
        ),
        Route(
            "/email-subscriptions/unsubscribe/{token}",
            rate_limited_page(rates, own_site_only(services, pages.unsubscribe)),
            methods=["GET", "POST"],
        ),
    ]


class _Pages:
    def __init__(self, services: Services) -> None:
        self._database = services.database
        self._keyring = services.keyring

    async def confirm(self, request: Request) -> Response:
        token, acts = request.path_params["token"], request.method == "POST"
        async with self._session(acts) as session:
            find = link_actions.confirm if acts else link_actions.find_confirmation
            found = await find(session, self._keyring, token)
            account = await _account(session, found.account_id)
        if found.state is Confirmation.UNKNOWN:
            return _page("unknown", 404)
        if found.state is Confirmation.EXPIRED:
            return _page("expired", 410)
        return _page(found.state.value, subscription=found.subscription, account=account)

    async def unsubscribe(self, request: Request) -> Response:
        link = verified_unsubscribe(self._keyring, request.path_params["token"])
        if link is None:
            return _page("unknown", 404)
        acts = request.method == "POST"
        async with self._session(acts) as session:
            if acts:
                found = await link_actions.unsubscribe(session, self._keyring, link)
            else:
                found = await link_actions.find_to_unsubscribe(session, link)
            account = await _account(session, found.account_id)
        state = "unsubscribed" if found.is_ended else "unsubscribe"
        return _page(state, subscription=found.subscription, account=account)

    def _session(self, acts: bool) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.transaction() if acts else self._database.reading()


async def _account(session: AsyncSession, account_id: str | None) -> str | None:
    return None if account_id is None else await account_name(session, account_id)


def _page(
    state: str, status: int = 200, subscription: EmailSubscription | None = None, account: str | None = None
) -> Response:
    about = [] if subscription is None else in_words(subscription.event_types)
    return page(TEMPLATE, status, state=state, subscription=subscription, account=account, about=about)
