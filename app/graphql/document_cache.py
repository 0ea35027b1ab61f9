"""The bounded cache of prepared operations, of their compiled reads and templates, and of documents by their hashes.

It is bounded by bytes: a parsed document of 2,000 tokens takes more than a megabyte, and the plan of a list with all
columns tens of kilobytes. Requests without credentials have a small cache of their own, so that
strangers push out nothing of the accounts'.
"""

import enum
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from graphql import DocumentNode

from app.core.lru import WeightedLru
from app.graphql.literals import Form, Literals
from app.graphql.operation_template import Template
from app.graphql.persisted import PersistedDocuments
from app.graphql.prepared_operation import PreparedOperation

# A longer document is executed, but neither it nor its compiled reads are cached.
LONGEST: Final = 20_000
OWN_PLANS: Final = (64, 2_000_000)
# Measured bytes: of a document, and of each of its tokens with what was parsed from it; of a form, and of each literal
# in it.
DOCUMENT_WEIGHT, TOKEN_WEIGHT = 1000, 620
FORM_WEIGHT, LITERAL_WEIGHT = 500, 24


@dataclass(frozen=True)
class Bounds:
    """The greatest number and bytes of each."""

    operations: tuple[int, int]
    # Of all operations together: plans and their statements.
    plans: tuple[int, int]
    # Documents by their hashes.
    persisted: tuple[int, int]
    # Forms of documents, with the templates of those that came twice.
    templates: tuple[int, int]


ACCOUNTS_BOUNDS: Final = Bounds(
    (1000, 32_000_000), (4000, 48_000_000), (1000, 16_000_000), (1000, 16_000_000)
)
# Strangers have no templates: the second document of a form costs more than the first.
STRANGERS_BOUNDS: Final = Bounds((100, 4_000_000), (100, 4_000_000), (100, 1_000_000), (0, 0))


class FormState(enum.Enum):
    """The state of a form without a template: of its first document, or that it can have none."""

    ONCE = enum.auto()
    UNFIT = enum.auto()


class OperationTemplate(NamedTuple):
    """The operation of a template, which takes the parameters of other documents of its form."""

    prepared: PreparedOperation
    template: Template


class DocumentCache:
    """`allowed`: the only documents that may be executed, by their hashes; None allows any."""

    def __init__(self, bounds: Bounds, allowed: Mapping[str, str] | None) -> None:
        self.operations: WeightedLru[tuple[str, str | None], PreparedOperation] = WeightedLru(
            *bounds.operations
        )
        self.plans: WeightedLru[Any, Any] = WeightedLru(*bounds.plans)
        self.persisted = PersistedDocuments(allowed, *bounds.persisted)
        self.templates: WeightedLru[tuple[str | None, Form], OperationTemplate | FormState] = WeightedLru(
            *bounds.templates
        )

    def get(self, query: str, operation_name: str | None) -> PreparedOperation | None:
        return self.operations.get((query, operation_name))

    def put(self, query: str, operation_name: str | None, prepared: PreparedOperation) -> None:
        """Caches the operation unless its document is too long."""
        if len(query) <= LONGEST:
            weight = _weight_of(prepared.document) + sys.getsizeof(query)
            self.operations.put((query, operation_name), prepared, weight)

    def filled(self, literals: Literals, operation_name: str | None) -> PreparedOperation | None:
        """The operation of a document by the template of its form, if there is one and the document is valid."""
        known = self.templates.get((operation_name, literals.form))
        if not isinstance(known, OperationTemplate):
            return None
        parameters = known.template.parameters(literals)
        return None if parameters is None else replace(known.prepared, parameters=parameters)

    def put_template(
        self, literals: Literals, operation_name: str | None, known: OperationTemplate | FormState
    ) -> None:
        pieces = literals.pieces
        weight = FORM_WEIGHT + sum(map(sys.getsizeof, pieces)) + LITERAL_WEIGHT * len(pieces)
        if isinstance(known, OperationTemplate):
            weight = 2 * weight + _weight_of(known.prepared.document)
        self.templates.put((operation_name, literals.form), known, weight)

    def plans_for(self, query: str) -> WeightedLru[Any, Any]:
        """The LRU for plans of a document: the shared one, or for a long document one that goes with it."""
        return self.plans if len(query) <= LONGEST else WeightedLru(*OWN_PLANS)


def _weight_of(document: DocumentNode) -> int:
    tokens, token = 0, document.loc.start_token if document.loc else None
    while token is not None:
        tokens, token = tokens + 1, token.next
    return DOCUMENT_WEIGHT + TOKEN_WEIGHT * tokens
