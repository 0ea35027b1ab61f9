"""The pages behind the links in mails: confirm a subscription, end it.

GET only shows what will happen, because mail programs and virus scanners follow links. A bare POST acts, without a
cookie or a form token, since the link's own token is the credential; that is also what RFC 8058's one-click
unsubscribe sends. Both may be repeated.
"""

from contextlib import AbstractAsyncContextManager

from sqlmodel.ext.asyncio.session import AsyncSession
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.api.context import Services
from app.delivery import subscriptions
from app.delivery.mails import account_name
from app.delivery.models import EmailSubscription, EmailSubscriptionStatus
from app.delivery.subscriptions import Confirmation
from app.delivery.tokens import verified_subscription
from app.web.render import page

TEMPLATE = "email_subscription.html"


def routes(services: Services) -> list[BaseRoute]:
    """`/email-subscriptions/confirm/{token}` and `/email-subscriptions/unsubscribe/{token}`."""
    pages = _Pages(services)
    return [
        Route("/email-subscriptions/confirm/{token}", pages.confirm, methods=["GET", "POST"]),
        Route("/email-subscriptions/unsubscribe/{token}", pages.unsubscribe, methods=["GET", "POST"]),
    ]


class _Pages:
    def __init__(self, services: Services) -> None:
        self._database = services.database
        self._keyring = services.keyring

    async def confirm(self, request: Request) -> Response:
        token, acts = request.path_params["token"], request.method == "POST"
        async with self._session(acts) as session:
            find = subscriptions.confirm if acts else subscriptions.find_by_confirmation
            found, subscription = await find(session, token)
            account = await _account(session, subscription)
        if found is Confirmation.UNKNOWN:
            return _page("unknown", 404)
        if subscription is None:
            return _page("expired", 410)
        state = "confirmed" if found is Confirmation.DONE else "confirm"
        return _page(state, subscription=subscription, account=account)

    async def unsubscribe(self, request: Request) -> Response:
        subscription_id = verified_subscription(self._keyring, request.path_params["token"])
        if subscription_id is None:
            return _page("unknown", 404)
        acts = request.method == "POST"
        async with self._session(acts) as session:
            find = subscriptions.unsubscribe if acts else subscriptions.find_to_unsubscribe
            subscription = await find(session, subscription_id)
            account = await _account(session, subscription)
        state = "unsubscribe" if _still_subscribed(subscription) else "unsubscribed"
        return _page(state, subscription=subscription, account=account)

    def _session(self, acts: bool) -> AbstractAsyncContextManager[AsyncSession]:
        return self._database.transaction() if acts else self._database.reading()


async def _account(session: AsyncSession, subscription: EmailSubscription | None) -> str | None:
    return None if subscription is None else await account_name(session, subscription.account_id)


def _still_subscribed(subscription: EmailSubscription | None) -> bool:
    """A subscription that was deleted gets no mails either, which is all that its address wants to hear."""
    return subscription is not None and subscription.status != EmailSubscriptionStatus.UNSUBSCRIBED.value


def _page(
    state: str, status: int = 200, subscription: EmailSubscription | None = None, account: str | None = None
) -> Response:
    return page(TEMPLATE, status, state=state, subscription=subscription, account=account)
