"""Responses of an engine to documents, and their comparison where a fault takes all data."""

from dataclasses import replace

import orjson
from graphql import FieldNode, OperationDefinitionNode, parse

from app.auth.actor import Actor
from app.graphql.context import Context
from app.graphql.engine import Engine, dumps
from app.graphql.failures import RequestErrors
from tests.graphql.compiled.documents import Document
from tests.support import World


async def answer(world: World, engine: Engine, document: Document, viewer: Actor) -> str:
    context = Context(world.services, viewer)
    try:
        prepared = engine.prepare(document.text, None, authenticated=True)
        response = await engine.execute(prepared, document.variables, context)
    except RequestErrors as error:
        response = {"errors": error.errors}
    # Errors are in the order in which fields happened to fail.
    if "errors" in response:
        response["errors"].sort(key=lambda error: orjson.dumps(error))
    return dumps(response).decode()


async def is_another_fault(
    world: World, engine: Engine, document: Document, viewer: Actor, given: str, expected: str
) -> bool:
    """Whether a document has both of the faults that two responses without data tell of.

    The first fault that takes all data is told, and which of several is first is chance. The engine must give the same
    fault once the other fields are skipped.
    """
    responses = orjson.loads(given), orjson.loads(expected)
    if any(one.get("data", ...) is not None or len(one["errors"]) != 1 for one in responses):
        return False
    error = responses[0]["errors"][0]
    alone = orjson.loads(await answer(world, engine, only(document, error["path"][0]), viewer))
    # Locations move with the directives.
    known = ("message", "path", "extensions")
    return [[one[key] for key in known] for one in alone["errors"]] == [[error[key] for key in known]]


def only(document: Document, key: str) -> Document:
    """The document with all fields of the operation skipped but those of one response key."""
    text = document.text
    [operation] = [one for one in parse(text).definitions if isinstance(one, OperationDefinitionNode)]
    others = [
        one
        for one in operation.selection_set.selections
        if isinstance(one, FieldNode) and (one.alias or one.name).value != key
    ]
    for one in reversed(others):
        assert one.loc is not None
        at = one.selection_set.loc.start if one.selection_set and one.selection_set.loc else one.loc.end
        text = f"{text[:at]} @skip(if: true) {text[at:]}"
    return replace(document, text=text)
