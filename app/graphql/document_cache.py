"""What an engine keeps of documents between requests.

It is bounded by bytes: a document of 2,000 tokens takes more than a megabyte once it is parsed, and what is compiled of
a list with all columns of its rows a few hundred kilobytes. Who has shown no credential has a small memory apart, so
that nothing is pushed out by strangers.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from graphql import DocumentNode

from app.core.lru import Kept
from app.graphql.persisted import PersistedDocuments

if TYPE_CHECKING:
    from app.graphql.engine import Prepared

# A document longer than this is executed, but not kept; nor is what was compiled of it, once it is gone.
LONGEST: Final = 20_000
OWN_PLANS: Final = (64, 2_000_000)
# Bytes, as measured: of a document, and of each of its tokens with what was parsed from it.
DOCUMENT_WEIGHT, TOKEN_WEIGHT = 16_000, 620


@dataclass(frozen=True)
class Bounds:
    """How many of each at most, and how many bytes of them."""

    documents: tuple[int, int]
    # Of all documents together: plans, and their statements of ten kilobytes a column.
    plans: tuple[int, int]
    # Texts by their hashes.
    named: tuple[int, int]


OF_ACCOUNTS: Final = Bounds((1000, 32_000_000), (4000, 96_000_000), (1000, 16_000_000))
OF_STRANGERS: Final = Bounds((100, 4_000_000), (100, 4_000_000), (100, 1_000_000))


class Memory:
    """What is kept of the documents of some: of all accounts, or of all strangers."""

    def __init__(self, bounds: Bounds, operations: Mapping[str, str] | None) -> None:
        self.documents: Kept[tuple[str, str | None], Prepared] = Kept(*bounds.documents)
        self.plans: Kept[Any, Any] = Kept(*bounds.plans)
        self.named = PersistedDocuments(operations, *bounds.named)

    def get(self, query: str, operation_name: str | None) -> "Prepared | None":
        return self.documents.get((query, operation_name))

    def put(self, query: str, operation_name: str | None, prepared: "Prepared") -> None:
        """Keep it, if it is not too long."""
        if len(query) <= LONGEST:
            weight = _weight_of(prepared.document) + sys.getsizeof(query)
            self.documents.put((query, operation_name), prepared, weight)

    def plans_for(self, query: str) -> Kept[Any, Any]:
        """Where to keep what is compiled of a document: where that of the others is, or where it goes with it."""
        return self.plans if len(query) <= LONGEST else Kept(*OWN_PLANS)


def _weight_of(document: DocumentNode) -> int:
    tokens, token = 0, document.loc.start_token if document.loc else None
    while token is not None:
        tokens, token = tokens + 1, token.next
    return DOCUMENT_WEIGHT + TOKEN_WEIGHT * tokens
