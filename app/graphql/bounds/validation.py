"""Parsing and validation of a document at a bounded price.

Both take time in proportion to the tokens, except for two things that are bounded here: long texts in few tokens, and
the comparison of selections that merge, each with each.
"""

from functools import lru_cache
from typing import Any

from graphql import (
    DocumentNode,
    GraphQLError,
    GraphQLSchema,
    parse,
    specified_rules,
    validate,
)
from graphql.validation import OverlappingFieldsCanBeMergedRule

from app.core.errors import QueryTooComplex
from app.graphql.bounds.limits import Limits, check_shape
from app.graphql.failures import document_errors


def parse_document(query: str, limits: Limits) -> DocumentNode:
    """Raises QueryTooComplex, RequestErrors."""
    if len(query) > limits.characters:
        raise QueryTooComplex(
            f"The document has {len(query)} characters; at most {limits.characters} are allowed. "
            "Send long values as variables.",
            characters=len(query),
            limit=limits.characters,
        )
    try:
        return parse(query, max_tokens=limits.tokens)
    except GraphQLError as error:
        if "more than" in error.message and "tokens" in error.message:
            raise QueryTooComplex(
                f"The document has more than {limits.tokens} tokens; ask in several requests.",
                limit=limits.tokens,
            ) from None
        if "nested too deeply" in error.message:
            raise QueryTooComplex("The document is nested too deeply; ask in several requests.") from None
        raise document_errors([error]) from None


def validate_document(schema: GraphQLSchema, document: DocumentNode, limits: Limits) -> None:
    """Checks the limits, then the rules of the language. Raises QueryTooComplex, RequestErrors."""
    check_shape(document, limits)
    errors = validate(
        schema, document, _rules(limits.comparisons), max_errors=limits.errors, hide_suggestions=True
    )
    # graphql-core gives up on documents that would take it too long.
    if any(error.message == "Validation aborted." for error in errors):
        raise QueryTooComplex("The document selects too many fields; ask in several requests.")
    if errors:
        raise document_errors(errors, document, schema)


@lru_cache(16)
def _rules(comparisons: int) -> tuple[Any, ...]:
    """The specified rules, with a bound on how many selections are compared."""

    class BoundedOverlap(OverlappingFieldsCanBeMergedRule):
        def __init__(self, context: Any) -> None:
            super().__init__(context)
            self.rule_context.remaining_complexity_budget = comparisons

    return tuple(
        BoundedOverlap if rule is OverlappingFieldsCanBeMergedRule else rule for rule in specified_rules
    )
