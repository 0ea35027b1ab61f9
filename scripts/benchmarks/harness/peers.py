"""Measures Voltwire beside the baselines of a folder outside the repository (`--peers DIR`).

They are run from a temporary copy in which only ports, the database's address and the customer's name are
replaced: the name is padded until their messages are as long as Voltwire's. The fan-out client is the folder's own
`wsfan.c`.
"""

import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import asyncpg
import httpx
import orjson

from scripts.benchmarks.harness.api import record_body
from scripts.benchmarks.harness.load import side_by_side
from scripts.benchmarks.harness.machine import BenchError
from scripts.benchmarks.harness.posting import Target
from scripts.benchmarks.harness.report import Better, Figure
from scripts.benchmarks.harness.run import Run, interleaved
from scripts.benchmarks.harness.servers import Product, Server, clean_environment, process
from tests.services.ports import free_port

PORT = "8100"
DATABASE = "postgres://postgres@127.0.0.1:5499/postgres"
NAME = "Ada Lovelace"
ROWS = 10_000
IN_FLIGHT = 4
WSFAN_SECONDS = 120
FIRST_ROUND = 300_000  # half-hours of 2018: behind those of the other measurements, and past

UVICORN = ("{python}", "-m", "uvicorn", "--port", PORT, "--log-level", "warning")
BARE_UVICORN = ("--ws", "websockets-sansio", "--ws-per-message-deflate", "false")

SUBSCRIBE = "subscription{events{id type sequence occurredAt meter{id number kind customer{id name email}}}}"
METERS = "{ meters(first: 100) { id number kind customer { id name email } } }"


@dataclass(frozen=True)
class Peer:
    """A file of the folder and how to start it; `events` is how many a round of the fan-out takes."""

    file: str
    command: tuple[str, ...]
    events: int = 40
    env: tuple[tuple[str, str], ...] = ()

    @property
    def is_node(self) -> bool:
        return self.file.endswith(".mjs")


LIVE = (
    Peer("plain.py", (*UVICORN, "plain:app"), events=5),
    Peer("bare_starlette.py", (*UVICORN, "bare_starlette:app", *BARE_UVICORN), 200, (("MODE", "loop"),)),
    Peer("bare_uvloop.py", ("{python}", "bare_uvloop.py"), events=200),
    Peer("yoga.mjs", ("{node}", "yoga.mjs")),
    Peer("merc.mjs", ("{node}", "merc.mjs")),
)
READS = (
    Peer("plainpg.py", (*UVICORN, "plainpg:app")),
    Peer("mercpg.mjs", ("{node}", "mercpg.mjs")),
    Peer("pgf.mjs", ("{node}", "pgf.mjs")),
)


class Folder:
    """The peers' folder, and why one of them cannot run here."""

    def __init__(self, run: Run, copy: Path) -> None:
        assert run.peers is not None
        self.run = run
        self.source = run.peers
        self.copy = copy
        self.node = shutil.which("node")
        modules = self.node_modules()
        if modules:
            (copy / "node_modules").symlink_to(modules)

    def node_modules(self) -> Path | None:
        given = self.run.node_modules or self.source / "node_modules"
        return given if given.is_dir() else None

    def hindrance(self, peer: Peer) -> str:
        """Empty when the peer can be started."""
        if not (self.source / peer.file).exists():
            return "the file is not there"
        if not peer.is_node:
            return ""
        if not self.node:
            return "there is no Node.js"
        names = re.findall(r"from '([^'.]+)'", (self.source / peer.file).read_text())
        imports = "".join(f"await import('{name}');" for name in names)
        argv = [self.node, "--input-type=module", "-e", imports]
        found = subprocess.run(argv, cwd=self.copy, capture_output=True, check=False)
        return "Node.js does not find its packages (--node-modules)" if found.returncode else ""

    @asynccontextmanager
    async def started(
        self, peer: Peer, name: str = NAME, database_url: str = "", env: dict[str, str] | None = None
    ) -> AsyncIterator[Server]:
        """The peer, running; `name` is what its customer is called."""
        port = free_port()
        text = (self.source / peer.file).read_text().replace(PORT, str(port)).replace(NAME, name)
        (self.copy / peer.file).write_text(text.replace(DATABASE, database_url) if database_url else text)
        words = {"{python}": sys.executable, "{node}": self.node or "node", PORT: str(port)}
        argv = [words.get(word, word) for word in peer.command]
        full = clean_environment() | dict(peer.env) | (env or {}) | {"PYTHONDONTWRITEBYTECODE": "1"}
        with process(argv, full, self.copy, self.run.cores, port) as server:
            await server.ready("/")
            yield server


@asynccontextmanager
async def folder(run: Run) -> AsyncIterator[Folder]:
    with TemporaryDirectory(prefix="voltwire-peers-") as copy:
        yield Folder(run, Path(copy))


def able(run: Run, place: Folder, peers: Sequence[Peer]) -> list[Peer]:
    """Peers that can run here; the report names the others with the reason."""
    hindrances = {peer: place.hindrance(peer) for peer in peers}
    for peer, why in ((peer, why) for peer, why in hindrances.items() if why):
        run.report.say(f"{peer.file} is skipped: {why}")
    return [peer for peer, why in hindrances.items() if not why]


@dataclass(frozen=True)
class Fan:
    """The output of a run of wsfan."""

    per_second: float
    first_ms: float
    last_ms: float
    bytes_per_frame: float


class Wsfan:
    """The folder's fan-out client, compiled for this run."""

    OUTPUT = re.compile(
        r"deliveries=(?P<n>\d+).*=> (?P<rate>\d+) deliveries/s; first ms p50 (?P<first>[\d.]+).*"
        r"last-subscriber ms p50 (?P<last>[\d.]+).*bytes/frame (?P<size>\d+)"
    )

    def __init__(self, source: Path, binary: Path) -> None:
        self.binary = binary
        subprocess.run(["gcc", "-O2", "-w", "-o", str(binary), str(source)], check=True, capture_output=True)

    def __call__(
        self, target: Target, subscription: str, mutation: bytes, sockets: int, events: int, in_flight: int
    ) -> Fan:
        subscribe = {"id": "1", "type": "subscribe", "payload": {"query": subscription}}
        header = "\r\n".join(f"{name}: {value}" for name, value in target.headers)
        numbers = (str(sockets), str(events), target.init.decode(), orjson.dumps(subscribe).decode())
        argv = [str(self.binary), str(target.port), target.path, target.path, *numbers]
        argv += [mutation.decode(), header, str(in_flight)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, timeout=WSFAN_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(f"wsfan did not end within {WSFAN_SECONDS} s") from None
        found = self.OUTPUT.search(done.stdout)
        if not found or int(found["n"]) < sockets * events:
            raise BenchError(f"wsfan did not get every event: {(done.stdout + done.stderr)[-500:]}")
        return Fan(float(found["rate"]), float(found["first"]), float(found["last"]), float(found["size"]))


async def live_peers(run: Run, product: Product, meter_id: str, subscription: str) -> None:
    """Fan-out by wsfan: the product and each peer in turn, messages of one length."""
    assert run.peers is not None
    if not shutil.which("gcc") or not (run.peers / "wsfan.c").exists():
        run.report.say("no figures beside live peers: they need gcc and the folder's wsfan.c")
        return
    async with folder(run) as place:
        live = LivePeers(run, place, product, meter_id, subscription)
        for peer in able(run, place, LIVE):
            try:
                await live.measure(peer)
            except BenchError as error:
                run.report.say(f"{peer.file} is skipped: {error}")


class LivePeers:
    """Both sides of the fan-out through one client."""

    def __init__(self, run: Run, place: Folder, product: Product, meter_id: str, subscription: str) -> None:
        assert run.peers is not None
        self.run = run
        self.place = place
        self.product = product
        self.meter_id = meter_id
        self.subscription = subscription
        self.wsfan = Wsfan(run.peers / "wsfan.c", place.copy / "wsfan")
        self.starts = count(FIRST_ROUND)

    def ours(self, sockets: int, events: int, in_flight: int) -> Fan:
        # wsfan puts its counter over six per cent signs, so each event changes the same reading again.
        mutation = record_body(self.meter_id, next(self.starts), 1, "1.%%%%%%")
        return self.wsfan(self.product.target, self.subscription, mutation, sockets, events, in_flight)

    def theirs(self, server: Server, sockets: int, events: int, in_flight: int) -> Fan:
        target = Target(server.port, "/graphql/")
        return self.wsfan(target, SUBSCRIBE, b'{"query":"mutation{ingest}"}', sockets, events, in_flight)

    async def measure(self, peer: Peer) -> None:
        sizes = self.run.sizes
        wanted = self.ours(5, 5, 1).bytes_per_frame
        async with self.place.started(peer) as server:
            missing = round(wanted - self.theirs(server, 5, 5, 1).bytes_per_frame)
        name = NAME + "." * missing if missing >= 0 else NAME[:missing]
        async with self.place.started(peer, name) as server:

            async def ours() -> Fan:
                return self.ours(sizes.sockets, sizes.events, IN_FLIGHT)

            async def theirs() -> Fan:
                return self.theirs(server, sizes.sockets, peer.events, IN_FLIGHT)

            async def ours_alone() -> Fan:
                return self.ours(sizes.sockets, sizes.latency_events, 1)

            async def theirs_alone() -> Fan:
                return self.theirs(server, sizes.sockets, peer.events, 1)

            burst = await interleaved(sizes.rounds, ours, theirs)
            lone = await interleaved(1, ours_alone, theirs_alone)
        self.add(
            "deliveries a second (wsfan)", "", "higher", peer, [[one.per_second for one in s] for s in burst]
        )
        self.add(
            "mutation to the first socket (wsfan)",
            "ms",
            "lower",
            peer,
            [[one.first_ms for one in s] for s in lone],
        )
        self.add(
            "mutation to the last socket (wsfan)",
            "ms",
            "lower",
            peer,
            [[one.last_ms for one in s] for s in lone],
        )
        self.add(
            "message (wsfan)", "bytes", "lower", peer, [[one.bytes_per_frame for one in s] for s in burst]
        )

    def add(self, name: str, unit: str, better: Better, peer: Peer, values: list[list[float]]) -> None:
        self.run.report.add(Figure("live", name, unit, better, values[0], peer.file, values[1]))


async def reads_peers(run: Run, product: Product, query: str) -> None:
    """The nested read beside the peers on the same PostgreSQL."""
    async with folder(run) as place:
        url = await run.databases.create()
        await fill(url)
        for peer in able(run, place, READS):
            env = {"DB": url.replace("postgresql://", "postgresql+asyncpg://")}
            try:
                async with place.started(
                    peer, NAME, url.replace("postgresql://", "postgres://"), env
                ) as server:
                    target = Target(server.port, "/graphql/")
                    theirs = await postgraphile_query(target) if peer.file == "pgf.mjs" else METERS
                    await side_by_side(run, "PostgreSQL", product.target, query, peer.file, target, theirs)
            except BenchError as error:
                run.report.say(f"{peer.file} is skipped: {error}")


async def fill(url: str) -> None:
    """The tables the peers expect, with values as long as Voltwire's."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            f"""
            CREATE TABLE customer (id text PRIMARY KEY, name text NOT NULL, email text NOT NULL);
            CREATE TABLE meter (id text PRIMARY KEY, number text NOT NULL, kind text NOT NULL,
                                customer_id text NOT NULL REFERENCES customer (id));
            CREATE INDEX ON meter (customer_id);
            INSERT INTO customer SELECT 'cus_' || lpad(n::text, 26, '0'),
                'Customer ' || lpad(n::text, 5, '0'), 'customer' || lpad(n::text, 5, '0') || '@example.com'
                FROM generate_series(0, {ROWS - 1}) n;
            INSERT INTO meter SELECT 'mtr_' || lpad(n::text, 26, '0'), '12' || lpad(n::text, 11, '0'),
                'ELECTRICITY', 'cus_' || lpad(n::text, 26, '0') FROM generate_series(0, {ROWS - 1}) n;
            ANALYZE;
            """
        )
    finally:
        await connection.close()


async def postgraphile_query(target: Target) -> str:
    """The same page in the words of PostGraphile's schema, which depend on its version and preset."""
    introspection = (
        '{ q: __type(name: "Query") { fields { name } } m: __type(name: "Meter") { fields { name } } }'
    )
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{target.port}") as client:
        answer = (await client.post(target.path, json={"query": introspection})).json()
    roots, fields = ([one["name"] for one in answer["data"][side]["fields"]] for side in ("q", "m"))
    key = "rowId" if "rowId" in fields else "id"
    customer = next(name for name in fields if name.startswith("customer") and name != "customerId")
    selection = f"{{ {key} number kind {customer} {{ {key} name email }} }}"
    for name in ("allMetersList", "metersList"):
        if name in roots:
            return f"{{ {name}(first: 100) {selection} }}"
    return f"{{ {'allMeters' if 'allMeters' in roots else 'meters'}(first: 100) {{ nodes {selection} }} }}"
