"""The process's metrics for Prometheus, read from its parts at each scrape."""

import asyncio
from collections.abc import Iterable, Iterator, Mapping

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.responses import Response

from app.events.doorbell import Doorbell
from app.feeds.fetching.stats import COUNTED_DUE as FEED_COUNTED_DUE
from app.feeds.fetching.stats import FeedStats
from app.imports.stats import COUNTED_WAITING, ImportStats
from app.live.hub import Hub
from app.live.registry import ConnectionRegistry
from app.outbound.lease_times import COUNTED_DUE
from app.server.caches import bounds
from app.server.worker import Worker

LAG_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
ATTEMPT_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)


class Metrics(Collector):
    """A registry of its own for each process, so that tests can run several in one interpreter."""

    def __init__(
        self, hub: Hub, connections: ConnectionRegistry, doorbell: Doorbell, worker: Worker | None
    ) -> None:
        self._hub = hub
        self._connections = connections
        self._doorbell = doorbell
        self._worker = worker
        self._registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self._registry)
        self._registry.register(self)
        lag = Histogram(
            "voltwire_live_lag_seconds",
            "From an event's occurred_at, which the database's clock says just before the commit, to its hand-over to "
            "the last of one viewer's live subscriptions: once for each event and viewer. What is read from the log, "
            "by who resumes or has fallen behind, is not in it.",
            buckets=LAG_BUCKETS,
            registry=self._registry,
        )
        hub.stats.observe_lag = lag.observe
        if worker is not None:
            self._time_attempts(worker)

    def _time_attempts(self, worker: Worker) -> None:
        seconds = Histogram(
            "voltwire_delivery_attempt_seconds",
            "How long attempts took, whatever came of them.",
            ["kind"],
            buckets=ATTEMPT_BUCKETS,
            registry=self._registry,
        )
        for kind, sender in worker.senders.items():
            sender.stats.observe_seconds = seconds.labels(kind).observe

    def response(self) -> Response:
        return Response(generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    def collect(self) -> Iterable[Metric]:
        yield from self._collect_live()
        if self._worker is not None:
            yield from _collect_sending(self._worker)
            yield from _collect_feeds(self._worker.feeds.stats)
            yield from _collect_imports(self._worker.imports.stats)
            yield _counter("voltwire_worker_errors", "Turns of a worker's loop that failed and were tried again.",
                           self._worker.failures)  # fmt: skip
        limits = GaugeMetricFamily(
            "voltwire_cache_limit_bytes", "Bytes that caches may take, by what they keep.", labels=["kept"]
        )
        for kept, limit in bounds().items():
            limits.add_metric([kept], limit)
        yield limits
        yield _gauge(
            "voltwire_tasks", "Tasks of the event loop that have not ended.", len(asyncio.all_tasks())
        )
        yield _gauge("voltwire_broadcaster_up", "1 while the broadcaster is reached.", self._doorbell.healthy)

    def _collect_live(self) -> Iterator[Metric]:
        hub, stats = self._hub, self._hub.stats
        closes = CounterMetricFamily(
            "voltwire_socket_closes",
            "Sockets that ended: closed by us, by code, or by the peer or with its connection, as peer.",
            labels=["code"],
        )
        for code, count in self._connections.closes.items():
            closes.add_metric([code if isinstance(code, str) else str(int(code))], count)
        yield closes
        streams = GaugeMetricFamily(
            "voltwire_streams", "Open sockets and event streams.", labels=["transport"]
        )
        for transport, count in self._connections.by_transport().items():
            streams.add_metric([transport], count)
        yield streams
        yield _gauge("voltwire_subscriptions", "Open subscriptions.", hub.subscriptions)
        yield _gauge("voltwire_subscription_groups", "Groups of equal subscriptions.", hub.groups)
        yield _counter("voltwire_live_events", "Events that came into the hub.", stats.events)
        yield _counter(
            "voltwire_live_executions", "Executions, one for each event and group.", stats.executions
        )
        yield _counter(
            "voltwire_live_deliveries",
            "Messages that carry an event, one for each event and subscription: WebSocket frames and blocks of event "
            "streams, however many of them go out in one write.",
            stats.deliveries,
        )
        yield _counter(
            "voltwire_live_catch_ups", "Times a subscription read the log at its own pace.", stats.catch_ups
        )
        yield _counter("voltwire_live_pages", "Pages of the log read for catching up.", stats.pages)


def _collect_sending(worker: Worker) -> Iterator[Metric]:
    in_flight = GaugeMetricFamily("voltwire_deliveries_in_flight", "Attempts under way.", labels=["kind"])
    due = GaugeMetricFamily(
        "voltwire_deliveries_due",
        f"Deliveries due, counted every few seconds and up to {COUNTED_DUE}.",
        labels=["kind"],
    )
    oldest = GaugeMetricFamily(
        "voltwire_oldest_due_seconds", "Age of the oldest delivery seen due.", labels=["kind"]
    )
    attempts = CounterMetricFamily(
        "voltwire_delivery_attempts", "Attempts by what came of them.", labels=["kind", "outcome"]
    )
    ended = CounterMetricFamily(
        "voltwire_deliveries", "Attempts by where they left the delivery.", labels=["kind", "status"]
    )
    lost = CounterMetricFamily(
        "voltwire_delivery_leases_lost",
        "Attempts that were not recorded, because another worker had taken over: they may have arrived twice.",
        labels=["kind"],
    )
    for kind, sender in worker.senders.items():
        stats = sender.stats
        in_flight.add_metric([kind], stats.in_flight)
        due.add_metric([kind], stats.due)
        oldest.add_metric([kind], stats.oldest_due_seconds)
        lost.add_metric([kind], stats.leases_lost)
        for outcome, count in stats.outcomes.items():
            attempts.add_metric([kind, outcome], count)
        for status, count in stats.fates.items():
            ended.add_metric([kind, status], count)
    yield from (in_flight, due, oldest, attempts, ended, lost)


def _collect_imports(stats: ImportStats) -> Iterator[Metric]:
    yield _gauge("voltwire_imports_under_way", "Imports that this worker works on.", stats.under_way)
    yield _gauge(
        "voltwire_imports_waiting",
        f"Imports that no worker has taken up, counted now and then and up to {COUNTED_WAITING}.",
        stats.waiting,
    )
    ended = CounterMetricFamily("voltwire_imports", "Imports that ended, by status.", labels=["status"])
    for status, count in stats.ended.items():
        ended.add_metric([status], count)
    yield ended
    yield _counter("voltwire_import_half_hours", "Half-hours that imports have changed.", stats.half_hours)


def _collect_feeds(stats: FeedStats) -> Iterator[Metric]:
    gauges: tuple[tuple[str, str, Mapping[str, float]], ...] = (
        (
            "voltwire_feed_fetches_due",
            f"Fetches due by feeds that fetch, counted now and then and up to {FEED_COUNTED_DUE} of each feed.",
            stats.due,
        ),
        ("voltwire_feed_oldest_due_seconds", "Age of the oldest of them.", stats.oldest_due_seconds),
        ("voltwire_feed_fetches_in_flight", "Fetches under way.", stats.in_flight),
    )
    for name, documentation, values in gauges:
        gauge = GaugeMetricFamily(name, documentation, labels=["kind"])
        for kind, value in values.items():
            gauge.add_metric([kind], value)
        yield gauge
    counters = (
        ("voltwire_feed_half_hours", "Half-hours that sources gave.", stats.half_hours),
        (
            "voltwire_feed_fetches_dropped",
            "Fetches that were not recorded, because the meter's consent had ended meanwhile.",
            stats.dropped,
        ),
    )
    for name, documentation, counts in counters:
        counter = CounterMetricFamily(name, documentation, labels=["kind"])
        for kind, count in counts.items():
            counter.add_metric([kind], count)
        yield counter
    failures = CounterMetricFamily(
        "voltwire_feed_failures",
        "Failures of sources by their meaning: RETRY and WAIT pass, METER is about one meter, FEED needs a person.",
        labels=["kind", "meaning"],
    )
    for (kind, meaning), count in stats.failures.items():
        failures.add_metric([kind, meaning], count)
    yield failures
    yield _counter(
        "voltwire_feed_leases_lost",
        "Credentials that another worker had taken over: what was fetched last is fetched again.",
        stats.leases_lost,
    )


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(name, documentation, value=float(value))


def _counter(name: str, documentation: str, value: float) -> Metric:
    return CounterMetricFamily(name, documentation, value=float(value))
