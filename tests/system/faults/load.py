"""A customer's program that asks all the time, whatever becomes of the server.

Half of the mutations carry an idempotency key and are asked again, with the same key, until they are answered. The
others are asked once: of those that were not answered nobody knows.
"""

import asyncio
import datetime
import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.system.faults.rig import Tenant

NUMBERS = ["1312345678907", "3938424403"]
METER_NUMBER = "2499999999991"
# More than one commits in a group.
CLIENTS = 6
FIELDS = {
    "createCustomer": "customer { id }",
    "createMeter": "meter { id }",
    "createHostedConsent": "hostedConsent { id link }",
    "approveHostedConsent": "hostedConsent { id }",
    "createEmailSubscription": "emailSubscription { id }",
    "replayEvents": "replay { id }",
}


@dataclass
class Request:
    """A mutation; `then` is given its payload's object."""

    name: str
    values: dict[str, Any]
    then: Callable[[dict[str, Any]], None] = lambda _: None
    is_repeated: bool = False


@dataclass
class Load:
    """An account's requests, chosen by chance, and their answers."""

    tenant: Tenant
    chance: random.Random
    weights: dict[str, int]
    answered: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids by mutation."""
    asked: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Emails that were asked for, by mutation; those of repeated requests are in `promised` as well."""
    promised: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    unanswered: int = 0
    repeated: int = 0
    _count: int = 0
    _pending: list[Request] = field(default_factory=list)
    _bare: list[str] = field(default_factory=list)

    @property
    def answers(self) -> int:
        return sum(map(len, self.answered.values()))

    async def run(self) -> None:
        """Ask until the server is gone."""
        await asyncio.gather(*(self._client() for _ in range(CLIENTS)))

    async def finish(self) -> None:
        """Have everything answered that is to be."""
        while self._pending:
            await self._send(self._pending.pop(0))

    async def _client(self) -> None:
        while True:
            request = self._pending.pop(0) if self._pending else self._next()
            try:
                await self._send(request)
            except httpx.TransportError:
                self.unanswered += 1
                if "idempotencyKey" in request.values:
                    request.is_repeated = True
                    self.repeated += 1
                    self._pending.append(request)
                return

    async def _send(self, request: Request) -> None:
        query = (
            f"mutation ($input: {request.name[0].upper()}{request.name[1:]}Input!) {{ {request.name}(input: $input) "
            f"{{ {FIELDS[request.name]} userErrors {{ code message }} }} }}"
        )
        payload = (await self.tenant.api.data(query, input=request.values))[request.name]
        refused = payload.pop("userErrors")
        if request.name == "replayEvents" and [one["code"] for one in refused] == ["LIMIT_REACHED"]:
            # So many replays are under way already.
            return
        assert refused == [], request
        (made,) = payload.values()
        self.answered[request.name].append(made["id"])
        request.then(made)

    def _next(self) -> Request:
        (name,) = self.chance.choices(list(self.weights), list(self.weights.values()))
        self._count += 1
        unique = f"{name}.{self._count}"
        if name in ("createMeter", "createHostedConsent") and not self._bare:
            name = "createCustomer"
        request = getattr(self, f"_{name}")(unique)
        # A replay that may or may not be there would have to be guessed.
        if name in ("replayEvents", "approveHostedConsent") or self.chance.random() < 0.5:
            request.values["idempotencyKey"] = unique
            if email := request.values.get("email"):
                self.promised[name].add(email)
        if email := request.values.get("email"):
            self.asked[name].add(email)
        return request

    def _createCustomer(self, unique: str) -> Request:
        values = {"name": "Ada", "email": f"{unique.lower()}@example.com"}
        return Request("createCustomer", values, lambda made: self._bare.append(made["id"]))

    def _createMeter(self, unique: str) -> Request:
        return Request("createMeter", {"customerId": self._bare.pop(), "number": METER_NUMBER})

    def _createHostedConsent(self, unique: str) -> Request:
        in_a_year = datetime.datetime.now(datetime.UTC).date() + datetime.timedelta(days=365)
        values = {
            "customerId": self._bare.pop(),
            "flowType": "GB_RESIDENTIAL_SPECIFIC",
            "expiry": in_a_year.isoformat(),
            "redirectUrl": "https://bright.example/done",
            "meterNumbers": NUMBERS,
        }
        return Request("createHostedConsent", values, self._approve)

    def _approve(self, consent: dict[str, Any]) -> None:
        """Two meters and three events in one transaction, next."""
        values = {
            "token": consent["link"].rpartition("/")[2],
            "consenteeFullName": "Ada Lovelace",
            "consenteeEmail": "ada@example.com",
            "idempotencyKey": consent["id"],
        }
        self._pending.append(Request("approveHostedConsent", values))

    def _createEmailSubscription(self, unique: str) -> Request:
        return Request("createEmailSubscription", {"email": f"{unique.lower()}@example.com"})

    def _replayEvents(self, unique: str) -> Request:
        values = {"webhookEndpointId": self.tenant.endpoint_id, "after": self.tenant.cursor}
        return Request("replayEvents", values)
