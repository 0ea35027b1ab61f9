"""Removes links from names that are shown to people who have confirmed nothing."""

import re
import unicodedata
from typing import Final

_LINK_REMOVED: Final = "[link removed]"
_DOT: Final = "[.\u3002\uff0e\uff61\u2024]"
_WORD: Final = re.compile(r"\S+")
# Matches a scheme, a mail address or a host name. A host's last label has two letters or more, unlike an initial, and a
# single letter before capitals is a company ("E.ON") rather than a host, unless a path follows.
_LINK: Final = re.compile(
    rf""":/ | @ | \bwww{_DOT}
        | (?:[^\W_]|-){{2}}{_DOT}[^\W\d_]{{2}}
        | \w{_DOT}(?:[a-z]{{2}} | [^\W\d_]{{2,}}[/:?#])
        | \bxn-- | \d+(?:{_DOT}\d+){{3}}
    """,
    re.VERBOSE,
)


def without_links(name: str) -> str:
    """The name without anything that a mail program makes a link of, for people who have confirmed nothing.

    Otherwise anyone could have us send their links to anyone, in the name of an account.
    """
    return _WORD.sub(lambda word: _LINK_REMOVED if _LINK.search(_seen(word[0])) else word[0], name)


def _seen(word: str) -> str:
    """The word as people see it: without invisible characters such as a zero-width space."""
    return "".join(one for one in word if unicodedata.category(one) != "Cf")
