"""The page of a user's mailed link. GET only shows it, a bare POST confirms; both may be repeated."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from app.accounts import confirmation
from app.accounts.letterhead import account_name
from app.graphql.context import Services
from app.graphql.http.page_posts import own_site_only
from app.graphql.http.page_rates import rate_limited_page
from app.graphql.http.rates import Rates
from app.web.render import page


def routes(services: Services, rates: Rates) -> list[BaseRoute]:
    """`/users/confirm/{token}`."""

    async def confirm(request: Request) -> Response:
        token, acts = request.path_params["token"], request.method == "POST"
        find = confirmation.confirm if acts else confirmation.find
        async with services.database.transaction() if acts else services.database.reading() as session:
            user = await find(session, services.mail_links, token)
            if user is None:
                return page("user_address.html", 404, user=None)
            account = await account_name(session, user.account_id)
            is_confirmed = await confirmation.receives_notices(session, services.mail_links, user)
        return page("user_address.html", user=user, account=account, is_confirmed=is_confirmed)

    handler = rate_limited_page(rates, own_site_only(services, confirm))
    return [Route("/users/confirm/{token}", handler, methods=["GET", "POST"])]
