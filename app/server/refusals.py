"""Answers to requests that never reach the application."""

from typing import Final


def refusal(status: bytes, sentence: bytes, more: bytes = b"") -> bytes:
    """A whole response, after which the connection closes; `more` are lines of its head."""
    length = b"content-length: %d\r\n" % len(sentence)
    kind = b"content-type: text/plain; charset=utf-8\r\n"
    return b"".join(
        (b"HTTP/1.1 ", status, b"\r\n", kind, length, more, b"connection: close\r\n\r\n", sentence)
    )


INVALID: Final = refusal(b"400 Bad Request", b"Invalid HTTP request received.\n")
NOT_ONE_HOST: Final = refusal(b"400 Bad Request", b"A request needs one Host header.\n")
TOO_SLOW: Final = refusal(b"408 Request Timeout", b"The request came too slowly; send it again.\n")
TOO_LONG: Final = refusal(b"431 Request Header Fields Too Large", b"The headers are too long.\n")
