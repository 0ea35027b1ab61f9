"""Requests of strangers: documents of many shapes, and ways to carry them, each by a size."""

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from graphql import get_introspection_query

LONGEST: Final = 64 * 1024
"""Bytes of a request's head that are tried; the server refuses more."""


@dataclass
class Draft:
    """A document in the making."""

    selections: list[str] = field(default_factory=list)
    definitions: list[str] = field(default_factory=list)
    variables: list[str] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)

    def text(self) -> str:
        head = f"query ({' '.join(self.variables)}) " if self.variables else ""
        selections = " ".join(self.selections) or "__typename"
        return f"{head}{{ {selections} }} {' '.join(self.definitions)}"


Part = Callable[[Draft, int], None]


def repeated(selection: str) -> Part:
    """The same selection many times."""
    return lambda draft, size: draft.selections.extend([selection] * size)


def numbered(selection: str) -> Part:
    """Selections that differ by a number, which stands for `#`."""
    return lambda draft, size: draft.selections.extend(selection.replace("#", str(n)) for n in range(size))


def value(text: Callable[[int], str]) -> Part:
    """A literal as an argument."""
    return lambda draft, size: draft.selections.append(f"hostedConsentByToken(token: {text(size)}) {{ id }}")


def definitions(selection: str, each: str) -> Part:
    """Definitions that name each other by number: `#`, and `+` for the next."""

    def add(draft: Draft, size: int) -> None:
        draft.selections.append(selection)
        draft.definitions.extend(each.replace("#", str(n)).replace("+", str(n + 1)) for n in range(size))
        draft.definitions.append(f"fragment F{size} on Query {{ __typename }}")

    return add


def spreads(draft: Draft, size: int) -> None:
    draft.selections.extend(f"...S{n}" for n in range(size))
    draft.definitions.extend(f"fragment S{n} on Query {{ eventTypes {{ name type }} }}" for n in range(size))


def cycle(draft: Draft, size: int) -> None:
    draft.selections.append("...C0")
    draft.definitions.extend(
        f"fragment C{n} on Query {{ ...C{(n + 1) % size} ...C{(n + 7) % size} }}" for n in range(size)
    )


def nested(opening: str, closing: str) -> Part:
    return lambda draft, size: draft.selections.append(f"{opening * size} __typename {closing * size}")


def variables(kind: str, given: Callable[[int], Any]) -> Part:
    def add(draft: Draft, size: int) -> None:
        draft.variables.extend(f"$v{n}: {kind}" for n in range(min(size, 100)))
        draft.values.update({f"v{n}": given(size) for n in range(min(size, 3))})

    return add


def consent(draft: Draft, size: int) -> None:
    draft.variables.append("$token: String!")
    draft.values["token"] = "vw_consent_" + "x" * size
    draft.selections.append("hostedConsentByToken(token: $token) { id status customer { name } }")


def many_consents(draft: Draft, size: int) -> None:
    draft.selections.extend(
        f'a{n}: hostedConsentByToken(token: "vw_consent_{n}") {{ id }}' for n in range(size)
    )


def deep_list(size: int) -> Any:
    found: Any = 1
    for _ in range(min(size, 900)):
        found = [found]
    return found


INTROSPECTION: Final = "fields { name description args { name type { ...T } } type { ...T } }"
TYPE: Final = "fragment T on __Type { kind name ofType { kind name ofType { kind name } } }"


def introspection(selection: str) -> Part:
    def add(draft: Draft, size: int) -> None:
        inner = " ".join(selection.replace("#", str(n)) for n in range(size))
        draft.selections.append(f"__schema {{ {inner} }}")
        if TYPE not in draft.definitions:
            draft.definitions.append(TYPE)

    return add


def standard(draft: Draft, size: int) -> None:
    query = get_introspection_query(specified_by_url=True, input_value_deprecation=True, type_depth=size % 12)
    draft.selections.append(
        query[query.index("{") + 1 : query.index("\nfragment")].rstrip().removesuffix("}")
    )
    draft.definitions.append(query[query.index("fragment") :])


def comments(draft: Draft, size: int) -> None:
    draft.selections.append("\n" + "#\n" * size + "__typename")


PARTS: Final[Mapping[str, Part]] = {
    "equal leaves": repeated("__typename"),
    "equal objects": repeated("eventTypes { name type }"),
    "what needs a key": repeated("customers { nodes { id } }"),
    "equal arguments": repeated('__type(name: "Meter") { name }'),
    "aliases": numbered("a#: __typename"),
    "aliased objects": numbered("a#: eventTypes { name schema example }"),
    "unknown fields": numbered("unknown#"),
    "nearly known fields": numbered("hostedConsentByTokenNumber#"),
    "long unknown names": lambda draft, size: draft.selections.append("x" * size),
    "unknown arguments": numbered("eventTypes(unknown#: 1) { name }"),
    "unknown fragments": numbered("...Unknown#"),
    "conflicts": numbered("same: eventTypes { name } same: __typename"),
    "fragments side by side": spreads,
    "a chain of fragments": definitions("...F0", "fragment F# on Query { ...F+ }"),
    "doubling fragments": definitions("...F0", "fragment F# on Query { ...F+ ...F+ }"),
    "a cycle of fragments": cycle,
    "operations": definitions("...F0", "query Q# { ...F0 } fragment F# on Query { ...F+ }"),
    "nested inline fragments": nested("... {", "}"),
    "nested fields": nested("eventTypes {", "}"),
    "inline fragments": repeated("... on Query { __typename }"),
    "directives": repeated("__typename @skip(if: false)"),
    "directives on one field": lambda draft, size: draft.selections.append(
        "__typename " + "@include(if: true) " * size
    ),
    "unknown directives": numbered("__typename @unknown#"),
    "variables": variables("Int", lambda size: 1),
    "unused inputs": variables("ApproveHostedConsentInput", lambda size: {"token": "x", "no": ["y"] * size}),
    "unknown keys": variables(
        "ApproveHostedConsentInput", lambda size: {f"unknown{n}": n for n in range(size)}
    ),
    "lists for inputs": variables("ApproveHostedConsentInput", lambda size: [{}] * size),
    "deep variables": variables("JSON", deep_list),
    "decimals": variables("Float", lambda size: [n + 0.5 for n in range(size)]),
    "long texts": variables("String!", lambda size: "x\u0001é" * size),
    "deep lists": value(lambda size: "[" * size + "]" * size),
    "wide lists": value(lambda size: "[" + "1 " * size + "]"),
    "objects": value(lambda size: "{" + " ".join(f"k{n}: {n}" for n in range(size)) + "}"),
    "long strings": value(lambda size: json.dumps("x" * size)),
    "escapes": value(lambda size: '"' + "\\u00e9\\n" * size + '"'),
    "code points": value(lambda size: '"' + "\\u{1F600}" * size + '"'),
    "block strings": value(lambda size: '"""' + '\n  x\\"""' * size + '"""'),
    "long integers": value(lambda size: "9" * size),
    "long floats": value(lambda size: "9" * size + "." + "9" * size + "e99"),
    "comments": comments,
    "commas": lambda draft, size: draft.selections.append("," * size),
    "lines": lambda draft, size: draft.selections.append("\n" * size + "!"),
    "tokens of consents": consent,
    "many consents": many_consents,
    "standard introspection": standard,
    "aliased types": introspection("a#: types { " + INTROSPECTION + " }"),
    "types of fields": introspection(
        "a#: types { fields { type { fields { name type { ...T } args { name type { ...T } } } } } }"
    ),
    "possible types": introspection("a#: types { possibleTypes { interfaces { name } fields { name } } }"),
    "single types": numbered('a#: __type(name: "Query") { ' + INTROSPECTION.replace("...T", "name") + " }"),
    "inputs of types": introspection(
        "a#: types { inputFields { defaultValue type { inputFields { defaultValue name } } } }"
    ),
}

HEAD: Final = "Host: 127.0.0.1\r\nConnection: close\r\n"


def posted(body: bytes, path: str = "/graphql", kind: str = "application/json", more: str = "") -> bytes:
    head = f"POST {path} HTTP/1.1\r\n{HEAD}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def got(path: str, more: str = "") -> bytes:
    return f"GET {path[: LONGEST - 2000]} HTTP/1.1\r\n{HEAD}{more[: LONGEST - 2000 - len(path)]}\r\n".encode()


def asked(draft: Draft, **more: Any) -> bytes:
    return json.dumps({"query": draft.text(), "variables": draft.values, **more}).encode()


Carrier = Callable[[Draft, int], bytes]

CARRIERS: Final[Mapping[str, Carrier]] = {
    "POST": lambda draft, size: posted(asked(draft)),
    "POST for gzip": lambda draft, size: posted(asked(draft), more="Accept-Encoding: gzip\r\n"),
    "POST for events": lambda draft, size: posted(asked(draft), more="Accept: text/event-stream\r\n"),
    "GET": lambda draft, size: got(
        "/graphql?" + urlencode({"query": draft.text(), "variables": json.dumps(draft.values)})
    ),
    "many parameters": lambda draft, size: got("/graphql?" + "a&" * size + "query=" + quote(draft.text())),
    "escaped parameters": lambda draft, size: got("/graphql?query=" + "%7B" * size),
    "padded": lambda draft, size: posted(asked(draft) + b" " * size),
    "a batch": lambda draft, size: posted(b"[" + b",".join([asked(draft)] * min(size, 500)) + b"]"),
    "deep JSON": lambda draft, size: posted(
        asked(draft)[:-1] + b', "x": ' + b"[" * size + b"]" * size + b"}"
    ),
    "decimals in JSON": lambda draft, size: posted(asked(draft, extra=[n + 0.5 for n in range(size)])),
    "integers in JSON": lambda draft, size: posted(asked(draft)[:-1] + b', "x": ' + b"9" * size + b"}"),
    "exponents in JSON": lambda draft, size: posted(
        asked(draft)[:-1] + b', "x": [' + b"1e999999999," * size + b"1]}"
    ),
    "keys in JSON": lambda draft, size: posted(asked(draft, **{f"k{n}": n for n in range(size)})),
    "escapes in JSON": lambda draft, size: posted(asked(draft, x="\u0000\u20ac" * size)),
    "a hash": lambda draft, size: posted(
        asked(draft, extensions={"persistedQuery": {"version": 1, "sha256Hash": f"{size:064x}"}})
    ),
    "many ranges": lambda draft, size: posted(
        asked(draft), more=f"Accept: {'a/b;q=0.1,' * min(size, 6000)}*/*\r\n"
    ),
    "many codings": lambda draft, size: posted(
        asked(draft), more=f"Accept-Encoding: {'a;q=0.1,' * min(size, 7000)}gzip\r\n"
    ),
    "many headers": lambda draft, size: posted(
        asked(draft), more="".join(f"X-{n}: {n}\r\n" for n in range(min(size, 4000)))
    ),
    "many keys": lambda draft, size: posted(asked(draft), more="X-Api-Key: a\r\n" * min(size, 4000)),
    "a long key": lambda draft, size: posted(asked(draft), more=f"X-Api-Key: {'x' * min(size, 60_000)}\r\n"),
    "a consent's page": lambda draft, size: got(f"/consents/{'x' * size}"),
    "a form": lambda draft, size: posted(
        b"action=approve" + b"&a=%20" * size,
        "/consents/vw_consent_x",
        "application/x-www-form-urlencoded",
        "Sec-Fetch-Site: same-origin\r\n",
    ),
    "an unsubscription": lambda draft, size: posted(b"", f"/email-subscriptions/unsubscribe/{'x' * size}"),
    "a long path": lambda draft, size: got("/" + "a/" * size, "Accept: text/html\r\n"),
}


@dataclass(frozen=True)
class Shape:
    """Parts by their sizes, and a carrier by its own."""

    parts: tuple[tuple[str, int], ...]
    carrier: str = "POST"
    size: int = 10

    def request(self) -> bytes:
        draft = Draft()
        for name, size in self.parts:
            PARTS[name](draft, size)
        return CARRIERS[self.carrier](draft, self.size)

    def __str__(self) -> str:
        parts = " + ".join(f"{name} {size}" for name, size in self.parts)
        return f"{parts}, by {self.carrier} {self.size}"


def first_shapes(sizes: tuple[int, ...]) -> list[Shape]:
    """Each part and each carrier alone, in these sizes."""
    plain = ("tokens of consents", 32)
    return [
        *(Shape(((name, size),)) for name in PARTS for size in sizes),
        *(Shape((plain,), name, size * 10) for name in CARRIERS for size in sizes),
    ]


def mutated(shape: Shape, chance: random.Random) -> Shape:
    """A shape beside this one: another size, one part more or less, or another carrier."""
    parts = list(shape.parts)
    at = chance.randrange(len(parts))
    way = chance.random()
    if way < 0.5:
        name, size = parts[at]
        parts[at] = (name, resized(size, chance))
    elif way < 0.7 and len(parts) < 4:
        parts.append((chance.choice([*PARTS]), int(10 ** chance.uniform(0, 3))))
    elif way < 0.8 and len(parts) > 1:
        parts.pop(at)
    elif way < 0.9:
        return replace(shape, size=resized(shape.size, chance))
    else:
        return replace(shape, carrier=chance.choice([*CARRIERS]), size=int(10 ** chance.uniform(0, 4.3)))
    return replace(shape, parts=tuple(parts))


def resized(size: int, chance: random.Random) -> int:
    return max(1, min(30_000, int(size * 10 ** chance.uniform(-0.3, 0.3)) + chance.choice((-1, 0, 1))))
