"""The file of a request: its body, or the one file of a form, in pieces as they arrive."""

from collections.abc import AsyncIterator
from typing import Any, Final

from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from app.core.errors import ErrorCode, Refusal
from app.graphql.http.body import BodyCutOff, BodyTooLarge

MAX_BYTES: Final = 256 * 1024 * 1024
FORM_BYTES: Final = 64 * 1024
"""Bytes of a form around its file."""
MAX_PARTS: Final = 100
"""Parts of a form; each takes the event loop a moment."""
FORM: Final = "multipart/form-data"
_NO_FORM: Final = "This is no form: send the file as it is, or multipart/form-data with one file."


class Upload:
    """`name` is known when the first piece has come, if a form names the file."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.name: str | None = None
        media_type = request.headers.get("content-type", "")
        self._is_form = media_type.partition(";")[0].strip().lower() == FORM
        self._media_type = media_type

    @property
    def declared(self) -> int:
        """The bytes that the request says that it has; 0 if it does not say."""
        text = self._request.headers.get("content-length", "")
        return int(text[:20]) if text.isdecimal() else 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """Raises BodyTooLarge, BodyCutOff, or Refusal for a form without exactly one file."""
        if self.declared > MAX_BYTES + (FORM_BYTES if self._is_form else 0):
            raise BodyTooLarge
        size = 0
        async for piece in self._form_pieces() if self._is_form else self._body():
            size += len(piece)
            if size > MAX_BYTES:
                raise BodyTooLarge
            yield piece

    async def _body(self) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._request.stream():
                if chunk:
                    yield chunk
        except ClientDisconnect:
            raise BodyCutOff from None

    async def _form_pieces(self) -> AsyncIterator[bytes]:
        boundary = parse_options_header(self._media_type)[1].get(b"boundary", b"")
        if not boundary:
            raise Refusal(ErrorCode.INVALID, _NO_FORM)
        form = _Form()
        total = 0
        try:
            parser = MultipartParser(boundary, form.callbacks())  # type: ignore[arg-type]
            async for chunk in self._body():
                total += len(chunk)
                if total > MAX_BYTES + FORM_BYTES:
                    raise BodyTooLarge
                parser.write(chunk)
                self.name = form.file_name
                for piece in form.take():
                    yield piece
            parser.finalize()
        except ValueError:
            raise Refusal(ErrorCode.INVALID, _NO_FORM) from None
        if form.files != 1 or not form.has_ended:
            raise Refusal(ErrorCode.INVALID, f"Send a form with one file; this one has {form.files}.")


class _Form:
    """Takes the bytes of the file out of a form."""

    def __init__(self) -> None:
        self.files = 0
        self.file_name: str | None = None
        self.has_ended = False
        self._field, self._value = b"", b""
        self._is_in_file = False
        self._parts = 0
        self._pieces: list[bytes] = []

    def callbacks(self) -> dict[str, Any]:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._name,
            "on_header_value": self._take_value,
            "on_header_end": self._header,
            "on_part_data": self._data,
            "on_end": self._end,
        }

    def take(self) -> list[bytes]:
        taken, self._pieces = self._pieces, []
        return taken

    def _begin(self) -> None:
        self._is_in_file = False
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise Refusal(ErrorCode.INVALID, f"A form has at most {MAX_PARTS} parts: send one with one file.")

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _take_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        if self._field.lower() == b"content-disposition":
            options = parse_options_header(self._value)[1]
            if b"filename" in options:
                self.files += 1
                self._is_in_file = self.files == 1
                name = options[b"filename"].decode("utf-8", "replace").replace("\0", "")
                self.file_name = self.file_name or name or None
        self._field, self._value = b"", b""

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._is_in_file:
            self._pieces.append(data[start:end])

    def _end(self) -> None:
        self.has_ended = True
