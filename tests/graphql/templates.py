"""Engines with templates and without, and their answers in a form that can be compared."""

from typing import Any

import orjson

from app.auth.actor import Actor
from app.graphql.bounds.limits import Limits
from app.graphql.context import Context
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from tests.support import World, the_schema

USUAL = Limits(tokens=2000, depth=12, aliases=30, cost=5000)
# As long as the account's ids; no row has it.
NOBODY = "cus_00000000000000000000000000"


def engines(limits: Limits = USUAL) -> tuple[Engine, Engine]:
    """An engine with templates, and one that prepares each document."""
    return Engine(the_schema(), limits), Engine(the_schema(), limits, templates=False)


async def answer(
    world: World, engine: Engine, text: str, viewer: Actor, name: str | None = None, **variables: Any
) -> str:
    try:
        prepared = engine.prepare(text, name, authenticated=True).telling_cost()
        response = await engine.execute(prepared, variables, Context(world.services, viewer))
    except RequestErrors as error:
        response = {"errors": error.errors, "status": error.status}
    # Errors are in the order in which fields happened to fail.
    if "errors" in response:
        response["errors"].sort(key=orjson.dumps)
    return orjson.dumps(response, option=orjson.OPT_INDENT_2).decode()
