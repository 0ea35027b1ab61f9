"""Runs mutations: scope, idempotency, one transaction, refusals as `userErrors`.

An action returns a dict of its payload's fields: rows, which become their GraphQL types, and plain values. With an
`idempotencyKey`, a successful result is stored encrypted, rows and secrets included, and the same input gets it
again for 24 hours.
"""

import dataclasses
import enum
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, TypeVar

import orjson
import strawberry
from pydantic.alias_generators import to_pascal
from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlmodel import SQLModel, col, select
from sqlmodel.ext.asyncio.session import AsyncSession

from app.auth.actor import Actor, Scope
from app.core import clock
from app.core.crypto import Keyring
from app.core.errors import ErrorCode, Refusal, Refusals
from app.db.idempotency import IdempotentMutation
from app.graphql.context import Context, Info, Services
from app.graphql.nodes import model_named, prefix_of, shown

P = TypeVar("P")
T = TypeVar("T")
Result = dict[str, Any]
Run = Callable[[AsyncSession, Actor], Awaitable[Result]]

IDEMPOTENCY_WINDOW = timedelta(hours=24)
MAX_KEY = 255
TRIES = 3
# PostgreSQL: serialization failure, deadlock.
RETRIED_STATES = ("40001", "40P01")

strawberry.enum(ErrorCode)


@dataclass(frozen=True, slots=True)
class MutationContext:
    """The surroundings of a mutation's action: the session of its transaction, its actor, and the request."""

    session: AsyncSession
    actor: Actor
    info: Info

    @property
    def services(self) -> Services:
        return self.info.context.services


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
) -> Callable[[Callable[..., Awaitable[Result]]], Any]:
    """Declares a mutation by its action, a method that takes a `MutationContext` and the input.

    `returns` names the types of the action's results, from which the payload's type is made; each is null when
    `userErrors` has entries. A payload whose fields have descriptions of their own is given as a class. `needs` is the
    scope of the request's key; `by` finds the actor of a token in the input, which then decides instead of the key.
    """

    def declare(action: Callable[..., Awaitable[Result]]) -> Any:
        name = f"{to_pascal(action.__name__)}Payload"
        shown_as = payload or _payload_type(name, action.__module__, returns)

        async def resolve(self: Any, info: Info, input: Any) -> Any:
            def run(session: AsyncSession, actor: Actor) -> Awaitable[Result]:
                return action(self, MutationContext(session, actor, info), input)

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
    """Runs an action and returns its payload.

    `by` finds the actor inside the transaction, by a token in the input instead of the request's key.
    Raises Unauthenticated or Forbidden before anything is done.
    """
    context = info.context
    if by is None:
        context.viewer.require(needs)
    try:
        actor, result = await _run(context, info.field_name, input, run, by)
    except (Refusal, Refusals) as error:
        refusals = error.refusals if isinstance(error, Refusals) else [error]
        return payload(
            user_errors=[UserError(code=r.code, message=r.message, field=r.field) for r in refusals]
        )  # type: ignore[call-arg]
    finally:
        await context.renew()
    values = {
        name: shown(value, actor) if isinstance(value, SQLModel) else value for name, value in result.items()
    }
    return payload(user_errors=[], **values)  # type: ignore[call-arg]


async def run_once(
    services: Services,
    actor: Actor,
    name: str,
    key: str | None,
    input_hash: str,
    act: Callable[[AsyncSession], Awaitable[Result]],
) -> Result:
    """Runs the action of an HTTP route once for its idempotency key. Raises Refusal for a key with other input."""

    async def whole(session: AsyncSession) -> Result:
        return await _once(services, session, actor, name, key, lambda: input_hash, lambda: act(session))

    return await _retried(services, actor.account_id, whole)


async def _run(
    context: Context,
    name: str,
    input: Any,
    run: Run,
    by: Callable[[AsyncSession], Awaitable[Actor]] | None,
) -> tuple[Actor, Result]:
    key = _key(input)

    async def whole(session: AsyncSession) -> tuple[Actor, Result]:
        actor = await by(session) if by is not None else context.viewer
        return actor, await _once(
            context.services, session, actor, name, key, lambda: _hash(input), lambda: run(session, actor)
        )

    # The account of a token in the input is known only inside the transaction.
    account_id = "" if context.actor is None else context.actor.account_id
    return await _retried(context.services, account_id, whole)


async def _retried(services: Services, account_id: str, act: Callable[[AsyncSession], Awaitable[T]]) -> T:
    """Runs one transaction, again after a conflict with another one."""
    for tries_left in range(TRIES - 1, -1, -1):
        services.writing[account_id] += 1
        try:
            async with services.database.transaction() as session:
                return await act(session)
        except IntegrityError:
            # The second run sees the rows of the other transaction, and can say what is wrong.
            if not tries_left:
                raise Refusal(
                    ErrorCode.CONFLICT, "This was changed by another request at the same time; try again."
                ) from None
        except DBAPIError as error:
            if not tries_left or getattr(error.orig, "sqlstate", "") not in RETRIED_STATES:
                raise
        finally:
            services.writing[account_id] -= 1
            if not services.writing[account_id]:
                del services.writing[account_id]
    raise AssertionError("unreachable")


def _key(input: Any) -> str | None:
    key = getattr(input, "idempotency_key", None)
    if key is None or key is strawberry.UNSET:
        return None
    if not 1 <= len(key) <= MAX_KEY:
        raise Refusal(
            ErrorCode.TOO_LONG if key else ErrorCode.REQUIRED,
            f"An idempotency key has 1 to {MAX_KEY} characters.",
            "idempotencyKey",
        )
    return str(key)


async def _once(
    services: Services,
    session: AsyncSession,
    actor: Actor,
    name: str,
    key: str | None,
    input_hash: Callable[[], str],
    act: Callable[[], Awaitable[Result]],
) -> Result:
    if key is None:
        return await act()
    where = {"account_id": actor.account_id, "mutation": name, "key": key}
    stored = await _claim(session, services.keyring, where, input_hash())
    if stored is not None:
        return _restore(orjson.loads(services.keyring.decrypt(stored)))
    result = await act()
    await session.flush()
    row = await session.get_one(IdempotentMutation, tuple(where.values()))
    row.payload_encrypted = services.keyring.encrypt(orjson.dumps(_snapshot(result)).decode())
    row.customer_id = _customer_of(result)
    return result


async def _claim(
    session: AsyncSession, keyring: Keyring, where: dict[str, str], input_hash: str
) -> str | None:
    """Inserts the row of the key; if there is one, waits for its transaction and returns the stored payload."""
    expired = col(IdempotentMutation.created_at) < clock.now() - IDEMPOTENCY_WINDOW
    matches = [col(getattr(IdempotentMutation, name)) == value for name, value in where.items()]
    await session.execute(delete(IdempotentMutation).where(*matches, expired))
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    inserted = await session.execute(
        insert(IdempotentMutation)
        .values(**where, input_hash=input_hash, created_at=clock.now())
        .on_conflict_do_nothing()
    )
    if inserted.rowcount:  # type: ignore[attr-defined]
        return None
    row = (await session.exec(select(IdempotentMutation).where(*matches))).one()
    if not row.has_input(keyring, input_hash):
        raise Refusal(
            ErrorCode.IDEMPOTENCY_KEY_REUSED,
            "This idempotency key was used with another input; take a new key for a new request.",
            "idempotencyKey",
        )
    return row.payload_encrypted


def _hash(input: Any) -> str:
    return hashlib.sha256(orjson.dumps(_plain(input), option=orjson.OPT_SORT_KEYS)).hexdigest()


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        fields = {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
        return {
            name: _plain(one)
            for name, one in fields.items()
            if one is not strawberry.UNSET and name != "idempotency_key"
        }
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, enum.Enum):
        return value.name
    return value


def _snapshot(result: Result) -> dict[str, Any]:
    return {name: _stored(value) for name, value in result.items()}


def _customer_of(result: Result) -> str | None:
    """The id of the customer that a row of the result is, or belongs to."""
    rows = [value for value in result.values() if isinstance(value, SQLModel)]
    ids = [row.id if prefix_of(type(row)) == "cus" else getattr(row, "customer_id", None) for row in rows]  # type: ignore[attr-defined]
    return next(filter(None, ids), None)


def _stored(value: Any) -> Any:
    if isinstance(value, SQLModel):
        return {"row": type(value).__name__, "values": value.model_dump(mode="json")}
    if isinstance(value, datetime):
        return {"datetime": value.isoformat()}
    if isinstance(value, date | enum.Enum):
        raise TypeError(f"a payload cannot store {value!r}")
    return value


def _restore(stored: dict[str, Any]) -> Result:
    return {name: _restored(value) for name, value in stored.items()}


def _restored(value: Any) -> Any:
    if isinstance(value, dict) and "row" in value:
        return model_named(value["row"]).model_validate(value["values"])
    if isinstance(value, dict) and "datetime" in value:
        return datetime.fromisoformat(value["datetime"])
    return value
