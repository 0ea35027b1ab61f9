"""Documents that differ in their literals are prepared once, and answered as each of them would be by itself."""

import gc
from collections.abc import Iterator
from functools import partial
from typing import Any

import orjson
import pytest

from app.auth.actor import Actor
from app.graphql.bounds.limits import Limits
from app.graphql.document_cache import FormState, OperationTemplate
from app.graphql.engine import Engine
from app.graphql.failures import RequestErrors
from app.graphql.persisted import hash_of
from tests.graphql.compiled.scene import Scene
from tests.graphql.templates import NOBODY, USUAL, answer, engines
from tests.support import World, the_schema

pytestmark = pytest.mark.usefixtures("within_half_hour")


def has_template(engine: Engine, text: str, name: str | None = None) -> bool:
    return engine.prepare(text, name, authenticated=True).parameters is not None


def templates(engine: Engine) -> int:
    return sum(isinstance(one, OperationTemplate) for one in engine._cache.templates)


class Comparison:
    """Asks both engines, and compares their answers."""

    def __init__(self, world: World, viewer: Actor, limits: Limits = USUAL) -> None:
        self.world, self.viewer = world, viewer
        self.engine, self.plain = engines(limits)

    async def of(self, text: str, name: str | None = None, **variables: Any) -> dict[str, Any]:
        expected = await answer(self.world, self.plain, text, self.viewer, name, **variables)
        assert await answer(self.world, self.engine, text, self.viewer, name, **variables) == expected, text
        found: dict[str, Any] = orjson.loads(expected)
        return found

    async def over(self, *texts: str, **variables: Any) -> list[dict[str, Any]]:
        """The answers to documents of one form, of which the third has a template."""
        found = [await self.of(text, **variables) for text in texts]
        assert has_template(self.engine, texts[2])
        return found


@pytest.fixture
def world(furnished_world: World) -> World:
    return furnished_world


@pytest.fixture
def compare(world: World, scene: Scene) -> Iterator[Comparison]:
    yield Comparison(world, scene.viewers["admin"])
    # Coroutines that failed fields dropped are collected here, not in another test.
    gc.collect()


async def test_the_third_document_of_a_form_is_not_prepared_anew(compare: Comparison, scene: Scene) -> None:
    engine, ids = compare.engine, scene.known.ids["Customer"]
    texts = [f'{{ customer(id: "{one}") {{ name }} }}' for one in (*ids, NOBODY, "nonsense")]
    assert [has_template(engine, one) for one in texts[:3]] == [False, True, True]
    kept = len(engine._cache.operations), len(engine._cache.plans)
    answers = [await compare.of(one) for one in texts]
    assert len({orjson.dumps(one) for one in answers}) == len(ids)
    # One operation for the first document, and one for all others, whose plan and statement are shared.
    assert kept == (1, 0)
    assert (len(engine._cache.operations), len(engine._cache.plans), templates(engine)) == (1, 4, 1)


@pytest.mark.parametrize(
    "form",
    [
        '{{ customer(id: "{id}") {{ name }} }}',
        '{{ customer(id: "{id}") {{ name meters(first: {n}) {{ nodes {{ number customer {{ name }} }} }} }} }}',
        '{{ meters(first: {n}, filter: {{customerIds: ["{id}", "x"]}}) {{ nodes {{ number }} }} }}',
        '{{ events(first: {n}, filter: {{customerIds: ["{id}"], types: [METER_CREATED]}}) {{ nodes {{ name }} }} }}',
        '{{ meters(filter: {{metadata: {{site: "{id}"}}}}) {{ nodes {{ id {days} {{ total }} }} }} }}',
        'query A($yes: Boolean!) {{ customer(id: "{id}") {{ name @include(if: $yes) ...F }} }} {fragment}',
        'mutation {{ createMeter(input: {{customerId: "{id}", number: "{n}", metadata: {{a: "{n}"}}}}) {payload} }}',
    ],
)
async def test_documents_with_a_template(compare: Comparison, scene: Scene, form: str) -> None:
    texts = [
        form.format(
            id=one,
            n=n,
            days=f'intervalData(lookback: "{n}d")',
            fragment=f"fragment F on Customer {{ meters(first: {n}) {{ nodes {{ id }} }} }}",
            payload="{ meter { id } userErrors { field } }",
        )
        for n, one in enumerate((*scene.known.ids["Customer"], NOBODY), 1)
    ]
    assert [has_template(compare.engine, one) for one in texts[:3]] == [False, True, True]
    if not form.startswith("mutation"):
        await compare.over(*texts, yes=True)


@pytest.mark.parametrize(
    "form",
    [
        '{{ customer(id: """{id}""") {{ name }} }}',
        'query ($id: ID! = "{id}") {{ customer(id: $id) {{ name }} }}',
        'query ($n: Int = {n}) {{ customer(id: "{id}") {{ meters(first: $n) {{ nodes {{ id }} }} }} }}',
        # A variable beside literals in one argument.
        'query ($id: ID!) {{ meters(filter: {{customerIds: [$id, "{id}"]}}) {{ nodes {{ id }} }} }}',
        '{{ __type(name: "{id}") {{ name }} }}',
        'subscription {{ events(after: "{id}") {{ id }} }}',
        'subscription {{ events(filter: {{customerIds: ["{id}"]}}) {{ id }} }}',
    ],
)
def test_documents_without_one(form: str) -> None:
    engine, _ = engines()
    texts = [form.format(id=f"Meter{n}", n=n) for n in range(1, 5)]
    prepared = [engine.prepare(one, None, authenticated=True) for one in texts]
    assert [one.text for one in prepared] == texts
    assert all(one.parameters is None for one in prepared)
    assert len(engine._cache.operations) == 4
    assert templates(engine) == 0
    # Equal subscriptions share what is prepared.
    assert [engine.prepare(one, None, authenticated=True) for one in texts] == prepared


async def test_errors_have_the_places_of_their_document(compare: Comparison) -> None:
    first = "a: customer(id: {a}) {{ name }}\n  b: meters(first: {n})\n    {{ nodes {{ id }} }}"
    form = f"{{{{\n  {first} c: node(id: {{a}}) {{{{ id }}}} }}}}"
    texts = [form.format(a=f'"{"x" * n}"', n=n) for n in (1, 20, 0, 101)]
    texts += [form.format(a=f'"{NOBODY}\\u0041"', n="1000")]
    found = await compare.over(*texts)
    assert [len(one.get("errors", [])) for one in found] == [0, 0, 1, 1, 1]
    assert found[3]["errors"][0]["locations"] == [{"line": 3, "column": 3}]
    same_line = '{{ customer(id: "{a}") {{ name }} meters(first: 0) {{ nodes {{ id }} }} }}'
    found = await compare.over(*(same_line.format(a="é" * n) for n in range(1, 5)))
    places = [one["errors"][0]["locations"][0]["column"] for one in found]
    assert places == [places[0] + n for n in range(4)]


async def test_a_wrong_variable_has_the_place_of_its_document(compare: Comparison) -> None:
    form = 'query Q(\n $n: Int) {{ customer(id: "{a}") {{ meters(first: $n) {{ nodes {{ id }} }} }} }}'
    for value in ("x", 2**40, 0, None):
        texts = [form.format(a="y" * n) for n in range(1, 5)]
        await compare.over(*texts, n=value)


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        # Values that only the type of their argument refuses.
        ("first: 5", "first: 2147483648"),
        ('filter: {createdFrom: "2020-01-01T00:00:00Z"}', 'filter: {createdFrom: "yesterday"}'),
        ("first: 3", "first: 99999999999999999999999"),
        # A kind that a variable would take for another.
        ('filter: {webhookEndpointId: "whe_1"}', "filter: {webhookEndpointId: 1.0}"),
        ("filter: {statuses: [FAILED]}", 'filter: {statuses: ["FAILED"]}'),
        ("first: 1", "first: 1.0"),
    ],
)
async def test_values_of_a_wrong_type_are_refused_as_ever(
    compare: Comparison, right: str, wrong: str
) -> None:
    form = "{{ deliveries({}) {{ nodes {{ id }} }} }}"
    for number, argument in enumerate((right, right, right, wrong, right)):
        found = await compare.of(form.format(argument) + " " * number)
        assert ("data" in found) == (argument == right)
    for n in range(3):
        await compare.of(f'{{ deliveries({right}) {{ nodes {{ id }} }} node(id: "{n}") {{ id }} }}')
    found = await compare.of(f'{{ deliveries({wrong}) {{ nodes {{ id }} }} node(id: "3") {{ id }} }}')
    assert "data" not in found


async def test_equal_literals_belong_to_the_form(compare: Comparison, scene: Scene) -> None:
    """Selections of one key merge only if their arguments are equal."""
    one, two, three = (f'"{each}"' for each in scene.known.ids["Customer"][:3])
    form = "{ customer(id: %s) { name } customer(id: %s) { email } }"
    escaped = one.replace("c", "\\u0063", 1)
    for first, second in ((one, one), (two, two), (three, three), (one, escaped), (two, escaped), (one, two)):
        found = await compare.of(form % (first, second))
        assert ("data" in found) == ((second in (first, escaped) and first != two) or first == second)
    numbers = "{ a: meters(first: %s) { nodes { id } } a: meters(first: %s) { nodes { number } } }"
    for pair in ((1, 1), (2, 2), (3, 3), (1, 2), (0, "-0"), (-1, -1)):
        await compare.of(numbers % pair)


async def test_a_clients_variables_are_not_taken_for_literals(compare: Comparison, scene: Scene) -> None:
    one, two, three, *_ = scene.known.ids["Customer"]
    form = (
        "query ($literal0: ID!, $literal_0: ID!) {{ a: customer(id: $literal0) {{ name }}"
        ' b: customer(id: "{}") {{ name }} c: customer(id: $literal_0) {{ name }} }}'
    )
    answers = []
    for each in (one, two, three, NOBODY):
        given = {"literal0": two, "literal_0": three, "literal 0": one, "literal 1": one}
        answers.append(await compare.of(form.format(each), **given))
    assert len({orjson.dumps(each["data"]) for each in answers}) == 4


async def test_limits_hold_for_each_document(compare: Comparison) -> None:
    # The page's size decides over the cost.
    form = "{ customers(first: %d) { nodes { meters(first: %d) { nodes { id } } } } }"
    found = await compare.over(*(form % pair for pair in ((1, 2), (2, 3), (3, 4), (60, 90), (100, 4))))
    assert [one.get("extensions") for one in found] == [
        {"cost": 3},
        {"cost": 8},
        {"cost": 15},
        None,
        {"cost": 500},
    ]
    assert "5460 rows" in found[3]["errors"][0]["message"]
    # Documents of one form differ in their length.
    short = Comparison(compare.world, compare.viewer, Limits(tokens=12, depth=12, aliases=30, cost=5000))
    texts = ['{ customer(id: "%s") { name } }' % ("x" * n) for n in (1, 2, 3, 4, 600)]
    found = await short.over(*texts)
    assert "characters" in found[4]["errors"][0]["message"]


async def test_operations_of_one_document_have_templates_of_their_own(
    compare: Comparison, scene: Scene
) -> None:
    form = 'query A {{ customer(id: "{0}") {{ name }} }} query B {{ customer(id: "{0}") {{ email }} }}'
    for each in (*scene.known.ids["Customer"], NOBODY):
        for name in ("A", "B", None, "C"):
            await compare.of(form.format(each), name)
    assert templates(compare.engine) == 2


async def test_values_are_each_requests_own(compare: Comparison) -> None:
    """Objects and lists of literals are made anew, because an action may change them."""
    form = '{{ meters(filter: {{metadata: {{site: "{}"}}, numbers: ["1"]}}) {{ nodes {{ id }} }} }}'
    for n in range(2, 5):
        compare.engine.prepare(form.format(n), None, authenticated=True)
    one, two = (compare.engine.prepare(form.format("a"), None, authenticated=True) for _ in range(2))
    assert one.parameters is not None
    assert two.parameters is not None
    (first,), (second,) = one.parameters.values.values(), two.parameters.values.values()
    assert first == second
    assert first["metadata"] is not second["metadata"]
    assert first["numbers"] is not second["numbers"]


def test_persisted_and_listed_documents_and_those_of_strangers_have_no_template() -> None:
    texts = [f'{{ customer(id: "x{n}") {{ name }} }}' for n in range(5)]
    engine, _ = engines()
    for text in texts:
        prepared = engine.prepare(text, None, authenticated=True, document_hash=hash_of(text))
        assert prepared is engine.prepare(text, None, authenticated=True)
        assert prepared.text == text
    assert len(engine._cache.templates) == 0
    listed = Engine(the_schema(), USUAL, {hash_of(text): text for text in texts[:4]})
    assert not any(has_template(listed, text) for text in texts[:4])
    with pytest.raises(RequestErrors):
        listed.prepare(texts[4], None, authenticated=True)
    for n in range(4):
        text = f'{{ hostedConsentByToken(token: "x{n}") {{ status }} }}'
        assert engine.prepare(text, None, authenticated=False).parameters is None
    assert len(engine._stranger_cache.templates) == 0


def test_each_new_document_is_counted() -> None:
    """A rate limit counts it before anything is done for it, whether its form is known or not."""
    engine, _ = engines()
    counted: list[str] = []
    for n in range(4):
        text = f'{{ customer(id: "x{n}") {{ name }} }}'
        engine.prepare(text, None, authenticated=True, before_parsing=partial(counted.append, text))
        assert counted[n:] == [text]


def test_forms_are_bounded() -> None:
    engine, _ = engines()
    for n in range(1200):
        engine.prepare(f'{{ a{n}: customer(id: "x") {{ name }} }}', None, authenticated=True)
    assert len(engine._cache.templates) == 1000
    assert all(one is FormState.ONCE for one in engine._cache.templates)
    # A few hundred bytes each.
    assert engine._cache.templates.weight < 1_500_000
