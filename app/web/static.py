"""The pages' own files. Their names stay the same from version to version, so browsers ask again after a while."""

from typing import Any, Final

from starlette.responses import Response
from starlette.staticfiles import StaticFiles

KEPT: Final = "public, max-age=300"


class PageFiles(StaticFiles):
    """With an ETag, as they have anyway, and how long they may be kept without asking."""

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = KEPT
        return response
