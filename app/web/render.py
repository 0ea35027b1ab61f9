"""HTML from the templates, and the headers that every page of ours has.

Pages work without scripts and load nothing but our own style sheet; the policy below says so to the browser.
"""

from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

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
    """The template with the values, each escaped in `.html`. Raises for a value it names and nobody gave."""
    return _environment.get_template(template).render(**values)


def page(template: str, status: int = 200, *, form_target: str | None = None, **values: Any) -> HTMLResponse:
    """A page that nothing stores, frames or is told about; its forms may lead to this server and to `form_target`."""
    return HTMLResponse(render(template, **values), status, headers=page_headers(form_target))


def page_headers(form_target: str | None = None) -> dict[str, str]:
    targets = "'self'" if form_target is None else f"'self' {source(form_target)}"
    return {
        "Cache-Control": "no-store",
        "Content-Security-Policy": (
            f"default-src 'none'; style-src 'self'; form-action {targets}; frame-ancestors 'none'; base-uri 'none'"
        ),
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
        "X-Frame-Options": "DENY",
        "X-Robots-Tag": "noindex, nofollow",
    }


def source(url: str) -> str:
    """The link's origin as a Content-Security-Policy source; the bare scheme where the host cannot be written there."""
    parts = urlsplit(url)
    try:
        host = (parts.hostname or "").encode("idna").decode()
    except UnicodeError:
        host = ""
    # A policy knows no IPv6 addresses, and nothing of a link may end up in it as a directive.
    if not host or not _HOST_CHARACTERS.issuperset(host):
        return f"{parts.scheme}:"
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
