"""Plans of statements: which rows of which tables a database comes across, and by which index."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
from sqlalchemy import CursorResult, event, text
from sqlmodel.ext.asyncio.session import AsyncSession

from app.db.database import Database
from app.db.raw_statements import Rows, Script
from app.db.sql import Sql, is_sqlite

EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"
ON_SQLITE = "EXPLAIN QUERY PLAN"
FEW = 50
"""Rows of a page: PostgreSQL scans a partition that has no more."""


class Plan(NamedTuple):
    """The tables that a statement looks at; each that it searches by an index, with the rows that it came across.

    SQLite does not count rows, and names the columns that it searches by instead.
    """

    rows: dict[str, int]
    searched: dict[str, list[str]]
    scanned: set[str]

    def of(self, table: str) -> int:
        """Rows of a table or of its partitions."""
        return sum(count for name, count in self.rows.items() if _is_of(name, table))


Captured = tuple[str, Sequence[Any]]


@contextmanager
def captured(database: Database, *tables: str) -> Iterator[list[Captured]]:
    """Collects the reading statements that name one of the tables, with their parameters.

    SQLite plans without the values of parameters, and those of its raw statements are left out.
    """
    statements: list[Captured] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if any(table in statement for table in tables):
            statements.append((statement, parameters))

    def note_bare(statement: str) -> None:
        note(None, None, statement, [None] * statement.count("?"))

    engine, reads = database._readers.sync_engine, database.reads
    event.listen(engine, "before_cursor_execute", note)
    before, reads.on_statement = reads.on_statement, note_bare
    try:
        yield statements
    finally:
        event.remove(engine, "before_cursor_execute", note)
        reads.on_statement = before


async def plan(session: AsyncSession, statement: Captured, *, generic: bool = False) -> Plan:
    """The plan of a driver's statement; `generic` on PostgreSQL is that of a prepared one for any parameters."""
    sql, parameters = statement
    connection = await session.connection()
    if is_sqlite(session):
        return _of_sqlite((await connection.exec_driver_sql(f"{ON_SQLITE} {sql}", tuple(parameters))).all())
    mode = "force_generic_plan" if generic else "force_custom_plan"
    await connection.exec_driver_sql(f"SET LOCAL plan_cache_mode = {mode}")
    await connection.exec_driver_sql(f"PREPARE explained AS {sql}")
    given = f"({', '.join(map(_literal, parameters))})" if parameters else ""
    found = await connection.exec_driver_sql(f"{EXPLAIN} EXECUTE explained{given}")
    plan = _of_postgres(found.scalar_one())
    await connection.exec_driver_sql("DEALLOCATE explained")
    return plan


class Explained:
    """Runs a script's statements after looking at their plans."""

    def __init__(self, session: AsyncSession) -> None:
        self.plans: list[tuple[str, Plan]] = []
        self._session = session

    async def run(self, script: Script[Any]) -> Any:
        rows: Rows | None = None
        try:
            while True:
                statement, parameters = next(script) if rows is None else script.send(rows)
                rows = await self._run(statement, parameters)
        except StopIteration as end:
            return end.value

    async def _run(self, statement: Any, parameters: Any) -> Rows:
        if isinstance(statement, Sql):
            statement = statement.on(self._session)
        if hasattr(statement, "text"):
            one = parameters if isinstance(parameters, Mapping) else parameters[0]
            self.plans.append((statement.text, await self._plan(statement.text, one)))
        result: Any = await self._session.execute(statement, parameters)
        has_no_rows = isinstance(result, CursorResult) and not result.returns_rows
        return [] if has_no_rows else result.all()

    async def _plan(self, sql: str, parameters: Mapping[str, Any]) -> Plan:
        if is_sqlite(self._session):
            return _of_sqlite((await self._session.execute(text(f"{ON_SQLITE} {sql}"), parameters)).all())
        # It is executed to be counted, and then undone.
        undone = await self._session.begin_nested()
        found = await self._session.execute(text(f"{EXPLAIN} {sql}"), parameters)
        plan = _of_postgres(found.scalar_one())
        await undone.rollback()
        return plan

    def of(self, words: str) -> Plan:
        """The plan of the one statement that begins with these words or holds them."""
        [found] = [plan for sql, plan in self.plans if words in sql]
        return found


def _of_sqlite(lines: Sequence[Any]) -> Plan:
    searched: dict[str, list[str]] = {}
    scanned = set()
    for *_, detail in lines:
        how, _, rest = detail.partition(" ")
        if how == "SEARCH":
            table, _, columns = rest.partition(" USING ")
            searched.setdefault(table.split()[0], []).append(
                columns[columns.find("(") : columns.rfind(")") + 1]
            )
        elif how == "SCAN" and "VIRTUAL TABLE" not in rest:
            scanned.add(rest.split()[0])
    return Plan({}, searched, scanned)


def _of_postgres(found: Any) -> Plan:
    [document] = orjson.loads(found) if isinstance(found, str) else found
    rows: Counter[str] = Counter()
    searched: dict[str, list[str]] = {}
    scanned = set()
    for node in _nodes(document["Plan"]):
        loops = node["Actual Loops"]
        kind = node["Node Type"]
        table = node.get("Relation Name")
        if not loops or table is None or kind in ("ModifyTable", "Bitmap Heap Scan"):
            if kind == "Bitmap Heap Scan" and loops:
                rows[table] += _rows(node)
                searched.setdefault(table, []).append(node.get("Recheck Cond", ""))
            continue
        rows[table] += _rows(node)
        if kind.startswith("Index"):
            searched.setdefault(table, []).append(node.get("Index Cond", ""))
        elif kind == "Tid Scan":
            searched.setdefault(table, []).append(node["TID Cond"])
        elif _rows(node) > FEW * loops:
            scanned.add(table)
    return Plan(dict(rows), searched, scanned)


def _rows(node: Mapping[str, Any]) -> int:
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return round((node["Actual Rows"] + removed) * node["Actual Loops"])


def _nodes(plan: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    yield plan
    for child in plan.get("Plans", ()):
        yield from _nodes(child)


def _is_of(name: str, table: str) -> bool:
    return name == table or (name.startswith(f"{table}_") and name[len(table) + 1 :] != "revisions")


def _literal(value: Any) -> str:
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return str(value)
