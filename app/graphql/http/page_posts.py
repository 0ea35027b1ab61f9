"""Refuses forms that a browser sends to our pages from another site."""

from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response

from app.graphql.context import Services
from app.graphql.http.page_rates import Handler
from app.web.render import page

TITLE: Final = "This form came from another site"
ADVICE: Final = "Open the link you were sent and try again."


def own_site_only(services: Services, handler: Handler) -> Handler:
    """The handler of a page; a POST from a page of another site is answered with 403.

    Programs, such as those of mail providers that unsubscribe by one click (RFC 8058), send neither header and go on.
    """

    async def checked(request: Request) -> Response:
        if request.method == "POST" and _is_cross_site(request.headers, services.public_url):
            return page("message.html", 403, title=TITLE, paragraphs=[ADVICE])
        return await handler(request)

    return checked


def _is_cross_site(headers: Headers, public_url: str) -> bool:
    """Whether a browser's headers say that another site sent the form.

    Sec-Fetch-Site decides where it is sent. Origin may be "null" for our pages' own forms, as they send no referrer.
    """
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site not in ("same-origin", "none")
    origin = headers.get("origin", "null")
    own = urlsplit(public_url)
    return origin not in ("null", f"{own.scheme}://{own.netloc}", f"{own.scheme}://{headers.get('host')}")
