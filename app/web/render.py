"""HTML from the templates, and the headers of all pages.

Pages load only this server's files, and all but the start page work without scripts; the policies below make browsers
enforce it.
"""

from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse

TEMPLATES: Final = Path(__file__).parent / "templates"

_environment = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=select_autoescape(["html"]),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_HOST_CHARACTERS: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-")


def render(template: str, **values: Any) -> str:
    """The template with the values, escaped in `.html`. Raises UndefinedError for a missing value."""
    return _environment.get_template(template).render(**values)


def page(
    template: str,
    status: int = 200,
    *,
    form_target: str | None = None,
    image: str | None = None,
    **values: Any,
) -> HTMLResponse:
    """A page that may not be cached, framed or indexed; its forms may lead to this server and to `form_target`.

    `image`: the URL of one image that the page may load; the template gets it as `image`, or None where a policy cannot
    express its host.
    """
    allowed = image and exact_source(image)
    html = render(template, image=image if allowed else None, **values)
    targets = "'self'" if form_target is None else f"'self' {source(form_target)}"
    images = f"; img-src {allowed}" if allowed else ""
    return HTMLResponse(html, status, headers=_headers(f"form-action {targets}{images}"))


def page_with_scripts(html: bytes) -> HTMLResponse:
    """A page that runs this server's scripts, which may call this server alone; its forms lead nowhere."""
    policy = "script-src 'self'; connect-src 'self'; img-src 'self'; form-action 'none'"
    return HTMLResponse(html, headers=_headers(policy))


def _headers(policy: str) -> dict[str, str]:
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'self'; {policy}; frame-ancestors 'none'; base-uri 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }


def exact_source(url: str) -> str | None:
    """The link as a Content-Security-Policy source that matches its path alone; None where its host has no form there.

    Policies ignore queries: the same path with any query matches as well.
    """
    origin = source(url)
    path = quote(urlsplit(url).path or "/", safe="/%:@!$&'()*+=~")
    return f"{origin}{path}" if "://" in origin else None


def source(url: str) -> str:
    """The link's origin as a Content-Security-Policy source; the bare scheme where its host has no form there."""
    parts = urlsplit(url)
    try:
        host = (parts.hostname or "").encode("idna").decode()
    except UnicodeError:
        host = ""
    # Policies have no form for IPv6 addresses, and no part of a link may end up in one as a directive.
    if not host or not _HOST_CHARACTERS.issuperset(host):
        return f"{parts.scheme}:"
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
