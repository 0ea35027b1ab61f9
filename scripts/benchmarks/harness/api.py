"""Fills an account through the API, as a user would: customers, meters, a consent, readings, an endpoint."""

import gzip
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any

import httpx
import orjson

from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.servers import Product

ALIASES = 30
HALF_HOUR = timedelta(minutes=30)
EPOCH = datetime(2001, 1, 1, tzinfo=UTC)
MPAN_WEIGHTS = (3, 5, 7, 13, 17, 19, 23, 29, 31, 37, 41, 43)

RECORD = (
    "mutation Record($input: RecordReadingsInput!)"
    " { recordReadings(input: $input) { changed userErrors { code message } } }"
)


def mpan(number: int) -> str:
    """The `number`-th MPAN core of distributor 12 with its check digit (13 digits)."""
    digits = f"12{number:010d}"
    check = sum(int(d) * w for d, w in zip(digits, MPAN_WEIGHTS, strict=True)) % 11 % 10
    return f"{digits}{check}"


def half_hour(number: int) -> str:
    """The start of the `number`-th half-hour since 2001 as the API wants it."""
    return (EPOCH + number * HALF_HOUR).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def readings(first: int, count: int, consumption: str = "1.234") -> list[dict[str, str]]:
    return [{"startAt": half_hour(first + n), "consumption": consumption} for n in range(count)]


def record_body(meter_id: str, first: int, count: int = 1, consumption: str = "1.234") -> bytes:
    """The body of one `recordReadings` request."""
    values = {"input": {"meterId": meter_id, "readings": readings(first, count, consumption)}}
    return orjson.dumps({"query": RECORD, "variables": values})


def mutation_text(name: str, result: str) -> str:
    """The mutation `name` over its input; `result` is selected beside userErrors."""
    kind = f"{name[0].upper()}{name[1:]}Input"
    call = f"{name}(input: $input) {{ {result} userErrors {{ code message }} }}"
    return f"mutation($input: {kind}!) {{ {call} }}"


def csv_gzip(meter_ids: Iterable[str], first: int, count: int, consumption: str = "1.234") -> bytes:
    """A gzipped file for `POST /readings`: `count` half-hours of each meter."""
    starts = [half_hour(first + n) for n in range(count)]
    rows = ["meter_id,start_at,consumption,quality"]
    rows += [f"{meter},{start},{consumption},ACTUAL" for meter in meter_ids for start in starts]
    return gzip.compress("\n".join(rows).encode() + b"\n", 1)


class Api:
    """GraphQL with the account's key; every error is raised as BenchError."""

    def __init__(self, product: Product) -> None:
        self.customers_made = 0
        self.client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{product.port}", headers={"x-api-key": product.api_key}, timeout=120
        )

    async def __aenter__(self) -> "Api":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        await self.client.aclose()

    async def run(self, query: str, variables: dict[str, Any] | None = None) -> dict[str, Any]:
        response = await self.client.post("/graphql", json={"query": query, "variables": variables or {}})
        body = response.json()
        if body.get("errors"):
            raise BenchError(f"GraphQL: {body['errors'][0]['message']}")
        data: dict[str, Any] = body["data"]
        for payload in data.values():
            if isinstance(payload, dict) and payload.get("userErrors"):
                raise BenchError(f"GraphQL: {payload['userErrors'][0]['message']}")
        return data

    async def mutate(self, name: str, result: str, values: dict[str, Any]) -> dict[str, Any]:
        """Run the mutation `name` with its input; `result` is selected beside userErrors."""
        data = await self.run(mutation_text(name, result), {"input": values})
        payload: dict[str, Any] = data[name]
        return payload

    async def mutate_many(
        self, name: str, result: str, inputs: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The mutation once per input, by as many aliases in a request as the limits allow."""
        kind = f"{name[0].upper()}{name[1:]}Input"
        answers: list[dict[str, Any]] = []
        for at in range(0, len(inputs), ALIASES):
            part = inputs[at : at + ALIASES]
            names = ", ".join(f"$a{n}: {kind}!" for n in range(len(part)))
            fields = " ".join(
                f"a{n}: {name}(input: $a{n}) {{ {result} userErrors {{ message }} }}"
                for n in range(len(part))
            )
            data = await self.run(
                f"mutation({names}) {{ {fields} }}", {f"a{n}": one for n, one in enumerate(part)}
            )
            answers += data.values()
        return answers

    async def customers(self, count: int, name: str = "Customer {:05d}") -> list[str]:
        """Ids of new customers."""
        # The email is what must be new.
        numbers = range(self.customers_made, self.customers_made + count)
        self.customers_made += count
        inputs = [
            {"name": name.format(n), "email": f"customer{number:05d}@example.com"}
            for n, number in enumerate(numbers)
        ]
        made = await self.mutate_many("createCustomer", "customer { id }", inputs)
        return [payload["customer"]["id"] for payload in made]

    async def meters(self, customer_ids: Sequence[str]) -> list[str]:
        """Ids of new meters, one per customer id in the list."""
        inputs = [{"customerId": customer, "number": mpan(n)} for n, customer in enumerate(customer_ids)]
        made = await self.mutate_many("createMeter", "meter { id }", inputs)
        return [payload["meter"]["id"] for payload in made]

    async def consent(self, customer_id: str) -> None:
        """A blanket consent of the customer, asked for and approved: its meters may take readings now."""
        values = {
            "customerId": customer_id,
            "flowType": "GB_COMMERCIAL_BLANKET",
            "expiry": (datetime.now(UTC) + timedelta(days=300)).date().isoformat(),
            "redirectUrl": "https://example.com/done",
        }
        made = await self.mutate("createHostedConsent", "hostedConsent { id link }", values)
        decision = {
            "token": made["hostedConsent"]["link"].rstrip("/").rsplit("/", 1)[1],
            "consenteeFullName": "Ada Lovelace",
            "consenteeEmail": "ada@example.com",
            "consenteeJobTitle": "Director",
        }
        await self.mutate("approveHostedConsent", "hostedConsent { id }", decision)

    async def metered_customer(self, meters: int, name: str = "Customer {:05d}") -> list[str]:
        """Ids of the meters of one new customer whose consent is valid."""
        (customer,) = await self.customers(1, name)
        ids = await self.meters([customer] * meters)
        await self.consent(customer)
        return ids

    async def record(self, body: bytes) -> int:
        """Send a ready `recordReadings` request; answers how many readings changed."""
        response = await self.client.post(
            "/graphql", content=body, headers={"content-type": "application/json"}
        )
        answer = response.json()
        payload = (answer.get("data") or {}).get("recordReadings")
        if not payload or payload.get("userErrors"):
            raise BenchError(f"recordReadings failed: {response.text[:500]}")
        return int(payload["changed"])

    async def upload(self, csv: bytes) -> int:
        """`POST /readings` with a gzipped CSV; answers how many readings changed."""
        headers = {"content-type": "text/csv", "content-encoding": "gzip"}
        response = await self.client.post("/readings", content=csv, headers=headers)
        if response.status_code != 200:
            raise BenchError(f"POST /readings answered {response.status_code}: {response.text[:500]}")
        return int(response.json()["changed"])

    async def endpoint(self, url: str) -> tuple[str, str]:
        """Id and secret of a new webhook endpoint for all events."""
        values = {"url": url}
        made = await self.mutate("createWebhookEndpoint", "webhookEndpoint { id } secret", values)
        return made["webhookEndpoint"]["id"], made["secret"]
