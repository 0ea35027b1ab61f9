"""Tells the literals of a document from the rest of its text, without parsing it.

Two documents of one form differ in their strings and numbers only. A form is a key: texts between literals, kinds of
literals, and which of them are equal. Names, among them enum values, `true`, `false` and `null`, belong to the texts.

A valid document and any text of its form have the same tokens, because each literal is a whole token of its kind and is
followed by the same character. The expression consumes each character once, so that no text takes long.
"""

import re
from dataclasses import dataclass
from itertools import accumulate
from typing import Final, NamedTuple

from graphql import GraphQLSyntaxError, Source
from graphql.language import Lexer, TokenKind

from app.graphql.bounds.plain_values import require_storable
from app.graphql.failures import RequestErrors

_LITERAL: Final = re.compile(
    # A string, or the rest of its line where it does not end; a comment, which may hold quotes; a number.
    r'("(?:[^"\\\r\n]++|\\[^\r\n])*+"?'
    r"|#[^\r\n]*+"
    r"|(?<![A-Za-z0-9_])-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+(?![A-Za-z0-9_.]))"
)
STRING, INT, FLOAT = "string", "int", "float"
# Python does not read integers of thousands of digits, which the document's own check refuses.
LONGEST_NUMBER: Final = 100


class Form(NamedTuple):
    """Texts between the literals, kinds of the literals, and for each its first equal where some are equal.

    A comment is a literal whose kind is its text.
    """

    texts: tuple[str, ...]
    kinds: tuple[str, ...]
    equals: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Literals:
    """Form and literals of one document."""

    form: Form
    # Strings without quotes and escapes, numbers as they stand.
    values: list[str]
    # Texts and literals in turn, beginning and ending with a text.
    pieces: list[str]

    @property
    def text(self) -> str:
        """The document."""
        return "".join(self.pieces)

    @property
    def starts(self) -> list[int]:
        """The offset of each piece, and that of the end."""
        return list(accumulate(map(len, self.pieces), initial=0))

    @property
    def places(self) -> list[int]:
        """The offsets of strings and numbers."""
        return [
            start
            for start, kind in zip(self.starts[1::2], self.form.kinds, strict=False)
            if not kind.startswith("#")
        ]


def literals_of(query: str) -> Literals | None:
    """The literals of a document; None if it has none, or an invalid one, a block string or a huge number."""
    if '"""' in query:
        return None
    pieces = _LITERAL.split(query)
    kinds: list[str] = []
    values: list[str] = []
    # Validation compares strings by their values, and numbers by their digits.
    compared: list[str] = []
    for literal in pieces[1::2]:
        first = literal[0]
        if first == "#":
            kinds.append(literal)
            continue
        if first == '"':
            value = _string(literal)
            if value is None:
                return None
            kinds.append(STRING)
            compared.append(f'"{value}')
        else:
            if len(literal) > LONGEST_NUMBER:
                return None
            value = literal
            kinds.append(INT if literal.lstrip("-").isdigit() else FLOAT)
            compared.append(literal)
        values.append(value)
    if not values:
        return None
    equals: tuple[int, ...] = ()
    if len(set(compared)) < len(compared):
        firsts: dict[str, int] = {}
        equals = tuple([firsts.setdefault(one, number) for number, one in enumerate(compared)])
    return Literals(Form(tuple(pieces[::2]), tuple(kinds), equals), values, pieces)


def _string(literal: str) -> str | None:
    """The value of a string; None if it is none, or cannot be stored."""
    if literal.isprintable() and "\\" not in literal:
        return literal[1:-1] if len(literal) > 1 and literal[-1] == '"' else None
    try:
        token = Lexer(Source(literal)).advance()
        require_storable(token.value)
    except (GraphQLSyntaxError, RequestErrors):
        return None
    return token.value if token.kind is TokenKind.STRING and token.end == len(literal) else None
