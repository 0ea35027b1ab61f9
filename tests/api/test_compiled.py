"""The compiled reads answer what the ordinary way answers, in every letter."""

import random

import orjson
import pytest

from app.api.context import Context
from app.api.engine import Engine
from app.api.failures import RequestErrors
from app.api.limits import Limits
from app.auth.actor import Actor
from tests.api.compiled_scene import random_account
from tests.api.documents import Document, Documents
from tests.support import World, the_schema

WIDE = Limits(tokens=100_000, depth=100, aliases=10_000, cost=10**9)
DOCUMENTS = 150


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
    return orjson.dumps(response, option=orjson.OPT_INDENT_2).decode()


async def test_random_documents_have_the_same_answer_as_the_ordinary_way(world: World) -> None:
    chance = random.Random(7)
    scene = await random_account(world, chance)
    compiled, ordinary = Engine(the_schema(), WIDE), Engine(the_schema(), WIDE, compiled=False)
    documents = Documents(ordinary.schema, scene.known, chance)
    for _ in range(DOCUMENTS):
        document = documents.one()
        viewer = scene.viewers[chance.choice(["admin", "read", "bound", "bound", "consent"])]
        expected = await answer(world, ordinary, document, viewer)
        assert await answer(world, compiled, document, viewer) == expected, document
        # Once more, with everything at hand from the first time.
        assert await answer(world, compiled, document, viewer) == expected, document
