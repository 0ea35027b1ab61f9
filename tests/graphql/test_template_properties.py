"""Random documents have the same answer to the letter, whether their form has a template or not.

Random valid documents over the schema get other literals, valid ones and others; mutations run on two equal databases.
"""

import gc
import random
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.auth.actor import Actor, Scope
from app.graphql.literals import literals_of
from tests.batteries import examples
from tests.graphql.compiled.documents import Documents, Known, dropping
from tests.graphql.compiled.scene import Scene
from tests.graphql.templates import NOBODY, answer, engines
from tests.support import World, the_schema
from tests.support import world as open_world

STRINGS = (
    *('""', '"nonsense"', '"é\\u0041\\n\\"# {"', '"\\u{1F600}"', '"ACTIVE"', '"5"', '"2020-01-01T00:00:00Z"'),
    *('"\\u0000"', '"\\ud800"', '"\\q"', '"open', '"""block"""', f'"{NOBODY}"', '"1d"', '"true"'),
)
NUMBERS = (
    *("0", "1", "2", "5", "100", "101", "-1", "-0", "2147483647", "2147483648", "9007199254740993"),
    *("1.0", "1e0", "1E400", "0.5", "30411275102.207999", "1.0000001", "-0.0", "01", "1a", "9" * 5000),
)
OTHERS = (
    "null",
    "true",
    "ACTIVE",
    "MPAN",
    "DAY",
    "[]",
    "{}",
    '["x", 1]',
    '{a: "x"}',
    "$undefined",
    "$v0",
    "",
)


@pytest.fixture
async def twins(furnished_sqlite: tuple[Path, Scene], tmp_path: Path) -> AsyncIterator[tuple[World, World]]:
    """Two worlds over copies of one database."""
    async with AsyncExitStack() as stack:
        paths = [shutil.copy(furnished_sqlite[0], tmp_path / f"{name}.db") for name in ("one", "two")]
        one, two = [await stack.enter_async_context(open_world(f"sqlite:///{path}")) for path in paths]
        yield one, two


@pytest.fixture
def scene(furnished_sqlite: tuple[Path, Scene]) -> Scene:
    return furnished_sqlite[1]


def literal(data: st.DataObject, before: str, known: Known, odd: int) -> str:
    """Another literal, mostly of the same kind; with `odd` in ten, of any."""
    if data.draw(st.integers(0, 9)) < odd:
        return data.draw(st.sampled_from([*STRINGS, *NUMBERS, *DECIMALS, *OTHERS]))
    if before.startswith('"'):
        given = [one for every in (known.ids, known.cursors) for some in every.values() for one in some[:3]]
        given += [*known.numbers[:5], "3938424403", "2499999999991", "12345", "new@example.com"]
        return data.draw(st.sampled_from([*(f'"{one}"' for one in given), *TIMES, *STRINGS]))
    return data.draw(st.sampled_from(DECIMALS if "." in before else NUMBERS))


def varied(data: st.DataObject, text: str, known: Known) -> str:
    """The text with other literals, and seldom with other text between them."""
    found = literals_of(text)
    if found is None:
        return text
    pieces, odd = list(found.pieces), data.draw(st.sampled_from([0, 0, 0, 1, 3]))
    for at in range(1, len(pieces), 2):
        if data.draw(st.booleans()):
            pieces[at] = literal(data, pieces[at], known, odd)
    if data.draw(st.integers(0, 19)) == 0:
        at = data.draw(st.integers(0, len(pieces) - 1))
        pieces[at] += data.draw(st.sampled_from(["\n", " # é\n", ",", "\r\n ", "}", "é", '"']))
    return "".join(pieces)


@dropping
@pytest.mark.usefixtures("within_half_hour")
@settings(examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
async def test_random_documents_have_the_same_answer_with_templates_and_without(
    twins: tuple[World, World], scene: Scene, data: st.DataObject
) -> None:
    engine, plain = engines()
    seed = data.draw(st.integers(0, 2**32))
    document = Documents(the_schema()._schema, scene.known, random.Random(seed)).one()
    viewer = scene.viewers[data.draw(st.sampled_from(["admin", "read", "bound", "consent"]))]
    texts = [document.text, *(varied(data, document.text, scene.known) for _ in range(7))]
    for text in texts:
        expected = await answer(twins[0], plain, text, viewer, **document.variables)
        assert await answer(twins[0], engine, text, viewer, **document.variables) == expected, text
    gc.collect()


METER = "meter { number type description address metadata dataSource customer { name } }"
ERRORS = "userErrors { code message field }"
# Each %s is a literal; ids and times, which are new each time, are not selected.
MUTATIONS = (
    f"""mutation {{ createMeter(input: {{customerId: %s, number: %s, description: %s, metadata: {{site: %s, b: %s}}}})
        {{ {METER} {ERRORS} }} }}""",
    f"""mutation {{ a: createMeter(input: {{customerId: %s, number: %s, type: MPRN}}) {{ meter {{ number }} }}
        b: createMeter(input: {{number: %s, customerId: %s}}) {{ {METER} {ERRORS} }} }}""",
    f"""mutation {{ createCustomer(input: {{name: %s, email: %s, metadata: {{site: %s}}, idempotencyKey: %s}})
        {{ customer {{ name email metadata meters(first: %s) {{ nodes {{ number }} }} }} {ERRORS} }} }}""",
    f"""mutation {{ recordReadings(input: {{meterId: %s, readings: [{{startAt: %s, consumption: %s}},
        {{startAt: %s, consumption: %s, quality: ESTIMATED}}]}}) {{ accepted changed {ERRORS} }} }}""",
    f"""mutation {{ updateMeter(input: {{meterId: %s, description: %s, metadata: {{a: %s}}}})
        {{ {METER} {ERRORS} }} }}""",
    f"mutation {{ disableMeter(input: {{meterId: %s}}) {{ meter {{ number status }} {ERRORS} }} }}",
)
TIMES = ('"2026-01-01T00:00:00Z"', '"2026-01-01T00:30:00.000Z"', '"2026-01-01T00:10:00Z"', '"2026-01-01"')
DECIMALS = ("1.234", "30411275102.207999", '"0.1"', "1e-3", "7", "0.0000001", "123456789012.123456")


@dropping
@settings(examples(15), suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.data())
async def test_random_mutations_do_and_answer_the_same_with_templates_and_without(
    twins: tuple[World, World], scene: Scene, data: st.DataObject
) -> None:
    engine, plain = engines()
    admin = scene.viewers["admin"]
    viewer = data.draw(
        st.sampled_from([admin, admin, admin, Actor(admin.account_id, frozenset({Scope.READ}))])
    )
    form = data.draw(st.sampled_from(MUTATIONS))
    ids = [
        f'"{one}"' for one in (*scene.known.ids["Customer"], *scene.known.ids["Meter"], *scene.known.numbers)
    ]
    pool = [*ids, *TIMES, *DECIMALS[:3], '"new@example.com"', "5"]
    text = form % tuple(data.draw(st.sampled_from(pool)) for _ in range(form.count("%s")))
    for _ in range(6):
        expected = await answer(twins[1], plain, text, viewer)
        assert await answer(twins[0], engine, text, viewer) == expected, text
        text = varied(data, text, scene.known)
    gc.collect()


async def test_decimals_are_taken_to_their_last_digit(twins: tuple[World, World], scene: Scene) -> None:
    engine, plain = engines()
    admin, meter = scene.viewers["admin"], scene.known.ids["Meter"][0]
    form = (
        'mutation { recordReadings(input: {meterId: "%s", readings: [{startAt: "2026-01-0%dT00:00:00Z",'
        " consumption: %s}]}) { accepted changed userErrors { code message } } }"
    )
    for day, digits in enumerate(("1.5", "30411275102.207999", "0.1e1", "123456789012.123456"), 1):
        text = form % (meter, day, digits)
        assert await answer(twins[0], engine, text, admin) == await answer(twins[1], plain, text, admin)
    assert engine.prepare(form % (meter, 9, "0.000001"), None, authenticated=True).parameters is not None
    period = 'from: "2026-01-01T00:00:00Z", to: "2026-01-09T00:00:00Z", granularity: DAY'
    query = f'{{ meter(id: "{meter}") {{ intervalData({period}) {{ intervals {{ consumption }} }} }} }}'
    both = [await answer(each, plain, query, admin) for each in twins]
    assert both[0] == both[1]
    assert "30411275102.207999" in both[0]
