"""Foreign text made fit for the database, for a header, or for a sentence of ours."""

import codecs
from typing import Final

_MOST_IN_SENTENCE: Final = 500


def storable_text(data: bytes, *, cut: bool = False) -> str:
    """Any bytes as text that a database takes: bad UTF-8 replaced, NUL removed.

    `cut` says that more followed: a character split by the bound is dropped and not replaced.
    """
    if not data:
        return ""
    text = codecs.getincrementaldecoder("utf-8")("replace").decode(data, final=not cut)
    return text.replace("\0", "")


def printable_line(text: str) -> str:
    """A line of printable text: each run of white space, line breaks and control characters is a space."""
    return " ".join("".join(one if one.isprintable() else " " for one in text).split())


def quotable(text: str) -> str:
    """A printable line of 500 characters at most, for use inside a sentence."""
    return printable_line(text)[:_MOST_IN_SENTENCE]
