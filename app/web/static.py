"""Static files of pages. Their names stay the same in all versions, so browsers revalidate them after a while."""

from typing import Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

CACHE_CONTROL: Final = "public, max-age=300"


class PageFiles(StaticFiles):
    """Static files with a `Cache-Control` header beside Starlette's ETag."""

    async def respond(self, request: Request) -> Response:
        """The file of a route's `path`."""
        return await self.get_response(request.path_params["path"], request.scope)

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = CACHE_CONTROL
        return response
