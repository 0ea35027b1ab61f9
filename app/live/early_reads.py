"""Events read for their subscriptions within the transactions that write them, on SQLite.

The writer's thread runs such a transaction anyway, and a read afterwards would be one more round trip to another
thread. SQLite has a single writer, so that the state that a transaction sees at its end is the state after its COMMIT.
Payloads are made while the COMMIT waits for the disk; if it fails, they are dropped with their events.
"""

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from app.auth.actor import Actor
from app.core import clock, failpoints
from app.core.outages import report
from app.db.raw_statements import RebuiltStatement, Script
from app.events.log import Appended
from app.events.models import EventRecord
from app.graphql.compiled.plan import Plan, PlanRun
from app.graphql.compiled.reads import read_context, selected_parameters, selected_plan
from app.graphql.compiled.values import NotCompiled
from app.graphql.context import Context, Services
from app.graphql.engine import dumps
from app.live.log_head import LogHead
from app.live.payload import Payload
from app.live.subscription_request import SubscriptionRequest

MOST_GROUPS: Final = 4
"""For an account with more groups of subscriptions nothing is read early: other writers would wait meanwhile."""
MOST_EVENTS: Final = 16
"""Nor are the events of a transaction in which a group takes more."""


class EarlyRow(NamedTuple):
    """The row of an event, and the monotonic time at which its read began."""

    row: Sequence[Any]
    started_at: float


class EarlyRead:
    """The read of a group's events. `run` is called in the writer's thread, so nothing in here changes."""

    def __init__(
        self,
        context: Context,
        request: SubscriptionRequest,
        head: LogHead,
        plan: Plan,
        statement: RebuiltStatement,
    ) -> None:
        self._context = context
        self._request = request
        self._head = head
        self._plan = plan
        self._statement = statement

    @classmethod
    def of(
        cls, services: Services, actor: Actor, head: LogHead, request: SubscriptionRequest
    ) -> "EarlyRead | None":
        """None where events are not read by one statement."""
        context = Context(services, actor, plan_cache=request.prepared.plan_cache)
        try:
            plan, statement = selected_plan(context, request.root, EventRecord, "sequence")
        except NotCompiled:
            return None
        return None if statement is None or plan.children else cls(context, request, head, plan, statement)

    def run(self, events: Sequence[Appended]) -> Script[bool]:
        """Keeps the row of each event that the group takes with the event; tells whether there is one."""
        taken = {event.record.sequence: event for event in events if self._takes(event)}
        if not taken or len(taken) > MOST_EVENTS:
            return False
        started_at = time.monotonic()
        for row in (yield self._statement, selected_parameters(self._context.viewer, clock.now(), [*taken])):
            taken[row[self._plan.key_index]].early[self] = EarlyRow(row, started_at)
        return True

    def payload(self, event: Appended, early: EarlyRow) -> Payload:
        """The payload of an event that was read."""
        failpoints.reach("subscription.execute")
        root, sequence = self._request.root, event.record.sequence
        value = self._plan.shape(early.row, PlanRun(read_context(self._context, root)))
        body = dumps({"data": {root.path.key: value}})
        return Payload(sequence, self._head.cursor(sequence), body, early.started_at)

    def _takes(self, event: Appended) -> bool:
        takes = self._request.filter.takes(event.record, event.meter_ids)
        return takes and event.is_seen_by(self._context.viewer)


class EarlyReads:
    """The early reads of a process."""

    def __init__(self) -> None:
        self._of_accounts: dict[str, Sequence[EarlyRead]] = {}

    def put(self, account_id: str, reads: Sequence[EarlyRead]) -> None:
        """Replaces the reads of an account by others, which never change."""
        if reads:
            self._of_accounts[account_id] = reads
        else:
            self._of_accounts.pop(account_id, None)

    def run(self, items: Sequence[Any]) -> Script[bool]:
        """Reads the events among announced items, in the writer's thread; tells whether there are such."""
        has_read = False
        if not self._of_accounts:
            return has_read
        by_account: Mapping[str, list[Appended]] = defaultdict(list)
        for item in items:
            if isinstance(item, Appended):
                by_account[item.record.account_id].append(item)
        for account_id, events in by_account.items():
            for read in self._of_accounts.get(account_id, ()):
                has_read = (yield from read.run(events)) or has_read
        return has_read

    def prepare(self, items: Sequence[Any]) -> None:
        """Makes the payloads of the events that were read, in the loop's thread, while their COMMIT is under way."""
        for event in items:
            if not isinstance(event, Appended):
                continue
            for read, early in event.early.items():
                try:
                    event.payloads[read] = read.payload(event, early)
                except Exception as fault:
                    report("an event could not be prepared, it is executed after its commit", fault)
