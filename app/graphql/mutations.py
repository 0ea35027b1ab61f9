"""Runs mutations: scope, idempotency, one transaction, refusals as `userErrors`.

An action returns a dict of its payload's fields: rows, which become their GraphQL types, and plain values. It is a
script, which is a whole transaction by itself, or a coroutine that is given a session.
"""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import strawberry
from pydantic.alias_generators import to_pascal
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import SQLModel
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, Scope
from app.core.errors import ErrorCode, Refusal, Refusals
from app.core.outages import is_conflict
from app.db.raw_statements import Script
from app.db.scripts import Act, InTransaction, announce
from app.graphql.compiled.partial import ReadyValue
from app.graphql.compiled.payloads import compiled_payload
from app.graphql.context import Info, Services
from app.graphql.idempotency import Once, Result, hash_of, key_of
from app.graphql.inputs import convert_directly
from app.graphql.nodes import shown
from app.graphql.writing import Begun

P = TypeVar("P")
T = TypeVar("T")
Run = Callable[[AsyncSession, Actor], Awaitable[Result]]
Attempt = Callable[[Begun], Awaitable[tuple[Actor, Result]]]

TRIES = 3

strawberry.enum(ErrorCode)


@dataclass(frozen=True, slots=True)
class _Surroundings:
    actor: Actor
    info: Info

    @property
    def services(self) -> Services:
        return self.info.context.services


@dataclass(frozen=True, slots=True)
class ScriptContext(_Surroundings):
    """The surroundings of an action that is a script: its transaction, its actor, and the request."""

    transaction: InTransaction


@dataclass(frozen=True, slots=True)
class MutationContext(_Surroundings):
    """The surroundings of an action with a session, its transaction's."""

    session: AsyncSession


@strawberry.type
class UserError:
    """A rule that the input breaks."""

    code: ErrorCode
    """A stable code, for programs."""
    message: str
    """A sentence for people, which says what to do."""
    field: list[str]
    """Path below input, indexes as strings; [] for the whole."""


def mutation(
    payload: type | None = None,
    *,
    needs: Scope = Scope.WRITE,
    by: Callable[[AsyncSession, Any], Awaitable[Actor]] | None = None,
    **returns: Any,
) -> Callable[[Callable[..., Awaitable[Result] | Script[Result]]], Any]:
    """Declares a mutation by its action, a method that takes its context and the input.

    A generator is a script and takes a `ScriptContext`, a coroutine takes a `MutationContext`. `returns` names the
    types of the action's results, from which the payload's type is made; each is null when `userErrors` has entries. A
    payload whose fields have descriptions of their own is given as a class. `needs` is the scope of the request's key;
    `by` finds the actor of a token in the input, which then decides instead of the key; its action is a coroutine.
    """

    def declare(action: Callable[..., Any]) -> Any:
        name = f"{to_pascal(action.__name__)}Payload"
        shown_as = payload or _payload_type(name, action.__module__, returns)
        is_script = inspect.isgeneratorfunction(action)
        convert_directly(action.__annotations__["input"])

        async def resolve(self: Any, info: Info, input: Any) -> Any:
            def script(transaction: InTransaction, actor: Actor) -> Script[Result]:
                return action(self, ScriptContext(actor, info, transaction), input)  # type: ignore[no-any-return]

            def run(session: AsyncSession, actor: Actor) -> Awaitable[Result]:
                return action(self, MutationContext(actor, info, session), input)  # type: ignore[no-any-return]

            if is_script:
                return await _answer(info, shown_as, needs, lambda: _as_script(info, input, script))
            holder = None if by is None else lambda session: by(session, input)
            return await mutate(info, input, shown_as, run, needs, holder)

        # Strawberry reads the field's name and types from the function.
        resolve.__name__ = action.__name__
        resolve.__annotations__ = {**resolve.__annotations__, "input": action.__annotations__["input"]}
        resolve.__annotations__["return"] = shown_as | None
        return strawberry.mutation(resolve)

    return declare


def _payload_type(name: str, module: str, returns: dict[str, Any]) -> type:
    annotations = {field: type_ | None for field, type_ in returns.items()}
    annotations["user_errors"] = list[UserError]
    body = {"__module__": module, "__annotations__": annotations, **dict.fromkeys(returns)}
    return strawberry.type(type(name, (), body))


async def mutate(
    info: Info,
    input: Any,
    payload: type[P],
    run: Run,
    needs: Scope = Scope.WRITE,
    by: Callable[[AsyncSession], Awaitable[Actor]] | None = None,
) -> P:
    """Runs an action with a session and returns its payload.

    `by` finds the actor inside the transaction, by a token in the input instead of the request's key.
    Raises Unauthenticated or Forbidden before anything is done.
    """
    return await _answer(
        info, payload, None if by is not None else needs, lambda: _in_session(info, input, run, by)
    )


async def _answer(info: Info, payload: type[P], needs: Scope | None, attempt: Callable[[], Attempt]) -> P:
    """Makes the attempt at a mutation, again after a conflict, and returns its payload."""
    context = info.context
    if needs is not None:
        context.viewer.require(needs)
    try:
        # The account of a token in the input is known only inside the transaction.
        account_id = "" if context.actor is None else context.actor.account_id
        actor, result = await _retried(context.services, account_id, attempt())
    except (Refusal, Refusals) as error:
        return payload(user_errors=user_errors(error))  # type: ignore[call-arg]
    finally:
        await context.renew()
    if needs is not None:
        try:
            # The executor takes it for the payload.
            return cast(P, ReadyValue(await compiled_payload(context, info._raw_info, result)))
        except Exception:  # noqa: S110 - execution field by field has the same error at its place
            pass
    values = {
        name: shown(value, actor) if isinstance(value, SQLModel) else value for name, value in result.items()
    }
    return payload(user_errors=[], **values)  # type: ignore[call-arg]


def user_errors(error: Refusal | Refusals) -> list[UserError]:
    """Refusals as a payload tells them."""
    refusals = error.refusals if isinstance(error, Refusals) else [error]
    return [UserError(code=one.code, message=one.message, field=one.field) for one in refusals]


async def find_stored(info: Info, input: Any) -> Result | None:
    """The stored result of the same request with its idempotency key, for a mutation that awaits more than the
    database. Raises Refusal for a key that was used with another input."""
    once = _once(info, info.context.viewer, input)
    return None if once is None else await info.context.services.database.transact(lambda _: once.find())


def _as_script(info: Info, input: Any, script: Callable[[InTransaction, Actor], Script[Result]]) -> Attempt:
    services, actor = info.context.services, info.context.viewer
    once = _once(info, actor, input)

    def act(transaction: InTransaction) -> Script[Result]:
        if once is None:
            return script(transaction, actor)
        return once.run(lambda: script(transaction, actor))

    async def attempt(begun: Begun) -> tuple[Actor, Result]:
        return actor, await services.database.transact(_announcing(begun, act))

    return attempt


def _in_session(
    info: Info, input: Any, run: Run, by: Callable[[AsyncSession], Awaitable[Actor]] | None
) -> Attempt:
    # Without a key nothing is known of the actor before the transaction.
    key_of(input)

    async def attempt(begun: Begun) -> tuple[Actor, Result]:
        async with info.context.services.database.transaction() as session:
            announce(session, [begun])
            actor = info.context.viewer if by is None else await by(session)
            once = _once(info, actor, input)
            if once is None:
                return actor, await run(session, actor)
            return actor, await once.run_in(session, lambda: run(session, actor))

    return attempt


def _once(info: Info, actor: Actor, input: Any) -> Once | None:
    key = key_of(input)
    if key is None:
        return None
    return Once(info.context.services.keyring, actor.account_id, info.field_name, key, hash_of(input))


async def run_once(
    services: Services, actor: Actor, name: str, key: str | None, input_hash: str, act: Act[Result]
) -> Result:
    """Runs the script of an HTTP route once for its idempotency key. Raises Refusal for a key with other input."""

    def whole(transaction: InTransaction) -> Script[Result]:
        if key is None:
            return act(transaction)
        return Once(services.keyring, actor.account_id, name, key, input_hash).run(lambda: act(transaction))

    return await _retried(
        services, actor.account_id, lambda begun: services.database.transact(_announcing(begun, whole))
    )


def _announcing(begun: Begun, act: Act[T]) -> Act[T]:
    """The action of a transaction that announces its attempt."""

    def announcing(transaction: InTransaction) -> Script[T]:
        announce(transaction, [begun])
        return act(transaction)

    return announcing


async def _retried(services: Services, account_id: str, attempt: Callable[[Begun], Awaitable[T]]) -> T:
    """Makes an attempt at one transaction, again after a conflict with another one."""
    for tries_left in range(TRIES - 1, -1, -1):
        begun = services.writing.begin(account_id)
        try:
            return await attempt(begun)
        except IntegrityError:
            # The second run sees the rows of the other transaction, and can say what is wrong.
            if not tries_left:
                raise Refusal(
                    ErrorCode.CONFLICT, "This was changed by another request at the same time; try again."
                ) from None
        except DBAPIError as error:
            if not tries_left or not is_conflict(error):
                raise
        finally:
            begun.end()
    raise AssertionError("unreachable")
