"""The bounded cache of prepared operations, of their compiled reads, and of documents by their hashes.

It is bounded by bytes: a parsed document of 2,000 tokens takes more than a megabyte, and the plan of a list with all
columns tens of kilobytes. Requests without credentials have a small cache of their own, so that
strangers push out nothing of the accounts'.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from graphql import DocumentNode

from app.core.lru import WeightedLru
from app.graphql.persisted import PersistedDocuments
from app.graphql.prepared_operation import PreparedOperation

# A longer document is executed, but neither it nor its compiled reads are cached.
LONGEST: Final = 20_000
OWN_PLANS: Final = (64, 2_000_000)
# Measured bytes: of a document, and of each of its tokens with what was parsed from it.
DOCUMENT_WEIGHT, TOKEN_WEIGHT = 16_000, 620


@dataclass(frozen=True)
class Bounds:
    """The greatest number and bytes of each."""

    operations: tuple[int, int]
    # Of all operations together: plans and their statements.
    plans: tuple[int, int]
    # Documents by their hashes.
    persisted: tuple[int, int]


ACCOUNTS_BOUNDS: Final = Bounds((1000, 32_000_000), (4000, 48_000_000), (1000, 16_000_000))
STRANGERS_BOUNDS: Final = Bounds((100, 4_000_000), (100, 4_000_000), (100, 1_000_000))


class DocumentCache:
    """`allowed`: the only documents that may be executed, by their hashes; None allows any."""

    def __init__(self, bounds: Bounds, allowed: Mapping[str, str] | None) -> None:
        self.operations: WeightedLru[tuple[str, str | None], PreparedOperation] = WeightedLru(
            *bounds.operations
        )
        self.plans: WeightedLru[Any, Any] = WeightedLru(*bounds.plans)
        self.persisted = PersistedDocuments(allowed, *bounds.persisted)

    def get(self, query: str, operation_name: str | None) -> PreparedOperation | None:
        return self.operations.get((query, operation_name))

    def put(self, query: str, operation_name: str | None, prepared: PreparedOperation) -> None:
        """Caches the operation unless its document is too long."""
        if len(query) <= LONGEST:
            weight = _weight_of(prepared.document) + sys.getsizeof(query)
            self.operations.put((query, operation_name), prepared, weight)

    def plans_for(self, query: str) -> WeightedLru[Any, Any]:
        """The LRU for plans of a document: the shared one, or for a long document one that goes with it."""
        return self.plans if len(query) <= LONGEST else WeightedLru(*OWN_PLANS)


def _weight_of(document: DocumentNode) -> int:
    tokens, token = 0, document.loc.start_token if document.loc else None
    while token is not None:
        tokens, token = tokens + 1, token.next
    return DOCUMENT_WEIGHT + TOKEN_WEIGHT * tokens
