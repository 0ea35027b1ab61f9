"""Literals are told from the rest of a document as graphql-core's lexer tells them."""

import pytest
from graphql import GraphQLSyntaxError, Source
from graphql.language import Lexer, TokenKind
from hypothesis import example, given
from hypothesis import strategies as st

from app.graphql.literals import Literals, literals_of

LITERALS = (TokenKind.STRING, TokenKind.INT, TokenKind.FLOAT)
PIECES = (
    *("{", "}", "(", ")", "[", "]", ":", ",", " ", "\n", "\r", "\t", "...", "$", "@", "!", "|", "&", "="),
    *("a", "b1", "_9", "é", "query", "id:", "first:", "true", "null", "E5", "e", "\ufeff", "\x00", "\ud800"),
    *('"', '""', '"""', '"x"', '"x y"', '"é\\n"', '"\\u0041"', '"\\u{1F600}"', '"\\ud800"', '"\\q"', "\\"),
    *(
        "0",
        "1",
        "-1",
        "-0",
        "01",
        "1.0",
        "1.",
        ".5",
        "1e3",
        "1E+3",
        "1e",
        "-",
        "--1",
        "1a",
        "1.5.2",
        "9" * 30,
    ),
    *("#", '# "x"', "# 1\n", "#\r"),
)
TEXTS = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)


def lexed(text: str) -> list[tuple[TokenKind, int, str | None]] | None:
    """Kinds, places and values of all tokens but comments; None for an invalid text."""
    lexer, found = Lexer(Source(text)), []
    try:
        while (token := lexer.advance()).kind is not TokenKind.EOF:
            found.append((token.kind, token.start, token.value))
    except GraphQLSyntaxError:
        return None
    return found


def literals(text: str) -> Literals:
    found = literals_of(text)
    assert found is not None, text
    return found


@given(TEXTS)
def test_a_document_is_the_sum_of_its_pieces(text: str) -> None:
    found = literals_of(text)
    if found is not None:
        assert found.text == text
        assert len(found.values) == len(found.places)


@given(TEXTS, st.lists(st.sampled_from(PIECES), min_size=12, max_size=12))
@example('{a(b:"a""b")}', ['""', '"b"'] * 6)
@example("{a(b:1-2)}", ["1.5", "-2"] * 6)
def test_texts_of_one_form_have_the_same_tokens_where_their_literals_are_told_right(
    text: str, others: list[str]
) -> None:
    found, tokens = literals_of(text), lexed(text)
    if found is None or tokens is None:
        return
    told = [(start, value) for kind, start, value in tokens if kind in LITERALS]
    if [start for start, _ in told] != found.places:
        # Such a document gets no template.
        return
    assert [value for _, value in told] == found.values
    pieces = list(found.pieces)
    for at, other in zip(range(1, len(pieces), 2), others, strict=False):
        pieces[at] = other
    same = literals_of("".join(pieces))
    if same is None or same.form[:2] != found.form[:2]:
        return
    again = lexed("".join(pieces))
    assert again is not None
    assert [kind for kind, _, _ in again] == [kind for kind, _, _ in tokens]
    assert [value for kind, _, value in again if kind in LITERALS] == same.values
    assert [start for kind, start, _ in again if kind in LITERALS] == same.places


def test_only_strings_and_numbers_are_literals() -> None:
    found = literals(
        '{ a1: meters(first: 5, x: -1.5e3, type: MPAN, on: true, no: null) { b(s: "é\\u0041") } }'
    )
    assert found.values == ["5", "-1.5e3", "éA"]
    assert found.form.kinds == ("int", "float", "string")
    assert found.form.equals == ()


@pytest.mark.parametrize(
    ("text", "other"),
    [
        # Equal literals, among them strings that are written in two ways.
        ('{ a(x: "1", y: "1") }', '{ a(x: "1", y: "2") }'),
        ('{ a(x: "A", y: "\\u0041") }', '{ a(x: "A", y: "B") }'),
        ("{ a(x: 1, y: 1) }", "{ a(x: 1, y: 2) }"),
        # Kinds.
        ("{ a(x: 1) }", "{ a(x: 1.0) }"),
        ("{ a(x: 1) }", '{ a(x: "1") }'),
        # Everything else.
        ("{ a(x: 1, y: 2) }", "{ a(x: 1, y: A) }"),
        ("{ a(x: 1, y: true) }", "{ a(x: 1, y: false) }"),
        ("{ a(x: 1) }", "{ a (x: 1) }"),
        ("{ a(x: 1) } # one", "{ a(x: 1) } # two"),
    ],
)
def test_a_form_tells_documents_apart(text: str, other: str) -> None:
    assert literals(text).form != literals(other).form


@pytest.mark.parametrize(
    ("text", "other"),
    [
        ('{ a(x: "1", y: "2") }', '{ a(x: "", y: "# not a comment") }'),
        ('{ a(x: "1") }', '{ a(x: "\\"2\\"") }'),
        ("{ a(x: 1, y: 1.5) }", "{ a(x: -20, y: -1e9) }"),
        ('{ a(x: "1", y: 1) }', '{ a(x: "2", y: 2) }'),
        ('# "quoted" 5\n{ a(x: "1") }', '# "quoted" 5\n{ a(x: "2") }'),
        ("{ a(x: 1, y: 1, z: 2) }", "{ a(x: 7, y: 7, z: 8) }"),
    ],
)
def test_a_form_holds_for_all_literals(text: str, other: str) -> None:
    assert literals(text).form == literals(other).form


@pytest.mark.parametrize(
    "text",
    [
        "{ a }",
        "{ a(x: $y, z: true) }",
        '{ a(x: """1""") }',
        '{ a(x: "open) }',
        '{ a(x: "open\\") }',
        '{ a(x: "two\nlines") }',
        '{ a(x: "\\q") }',
        '{ a(x: "\\u0000") }',
        '{ a(x: "\ud800") }',
        '{ a(x: "\\ud800") }',
        f"{{ a(x: {'1' * 101}) }}",
    ],
)
def test_other_documents_are_left_alone(text: str) -> None:
    assert literals_of(text) is None
