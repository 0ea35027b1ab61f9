"""The checks of `scripts/house.py`, each on a small tree that breaks one rule, and all of them on this one."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = """
[[tool.importlinter.contracts]]
name = "One way"
type = "layers"
layers = [
    "app.{}",
    '''
    (app.meters.graphql) :
    app.customers.graphql
    ''',
    "app.core",
]
"""
PAIR = (("customers", "meters"), ("meters", "customers"))
TREE = {
    "pyproject.toml": LAYERS.format("server"),
    "schema.graphql": '"""One meter of a connection."""\ntype MeterEdge {\n}\n',
    "app/__init__.py": '"""A package."""\n',
    "app/core/__init__.py": "",
    "app/core/clock.py": '"""Time."""\n\nNOW = 1\n"""The present."""\n',
    "app/server/__init__.py": "",
    "app/server/main.py": "from app.core import clock\nfrom app.core.clock import NOW\n\nSTART = clock.NOW + NOW\n",
    "app/customers/__init__.py": "",
    "app/customers/graphql.py": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    from app.meters.graphql import MeterEdge\n"
    ),
    "app/meters/__init__.py": "",
    "app/meters/graphql.py": (
        "from typing import TYPE_CHECKING\n\nif TYPE_CHECKING:\n    import app.customers.graphql\n\n\n"
        'class MeterEdge:\n    """One meter of a connection."""\n'
    ),
}


def house(root: Path) -> tuple[int, list[str]]:
    """Exit code and lines of the checks on a tree."""
    argv = [sys.executable, str(ROOT / "scripts" / "house.py"), str(root)]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout.splitlines()


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    write(tmp_path, TREE)
    return tmp_path


def test_this_house_is_in_order() -> None:
    assert house(ROOT) == (0, [])


def test_a_tree_in_order_passes(tree: Path) -> None:
    assert house(tree) == (0, [])


@pytest.mark.parametrize(
    "back",
    [
        "import app.server.main\n",
        "from app.server import main\n",
        "from app.server.main import START\n",
        "from ..server import main\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING: from app.server.main import START\n",
        "def now() -> int:\n    from app.server.main import START\n\n    return START\n",
    ],
    ids=["import", "from-package", "from-module", "relative", "for-types", "in-a-function"],
)
def test_a_circle_of_files_is_found(tree: Path, back: str) -> None:
    write(tree, {"app/core/clock.py": f"{back}\nNOW = 1\n"})
    line = 1 + [("main" in one) for one in back.splitlines()].index(True)
    circle = "app.core.clock -> app.server.main -> app.core.clock"
    told = f"app/core/clock.py:{line}: circle of files: {circle}; move what both sides need into a file below them"
    assert house(tree) == (1, [told])


def test_a_circle_of_three_is_found_once(tree: Path) -> None:
    write(
        tree,
        {
            "app/core/a.py": "import app.core.b\n",
            "app/core/b.py": "\nimport app.core.c\n",
            "app/core/c.py": "import app.core.a\n",
        },
    )
    code, [line] = house(tree)
    assert code == 1
    assert line.startswith(
        "app/core/a.py:1: circle of files: app.core.a -> app.core.b -> app.core.c -> app.core.a; "
    )


def test_graphql_types_of_features_name_each_other_for_types_only(tree: Path) -> None:
    write(tree, {"app/meters/graphql.py": "import app.core.clock\nimport app.customers.graphql\n"})
    mend = "import it under TYPE_CHECKING and name it by strawberry.lazy"
    told = f"app/meters/graphql.py:2: imports app.customers.graphql when loaded; {mend}"
    assert house(tree) == (1, [told])


@pytest.mark.parametrize(
    "call", ['strawberry.lazy("app.core.b")', 'lazy(".b")', 'import_module("app.core.b")']
)
def test_a_module_named_in_a_string_counts_as_imported(tree: Path, call: str) -> None:
    write(tree, {"app/core/a.py": f"x = {call}\n", "app/core/b.py": "import app.core.a\n"})
    code, [line] = house(tree)
    assert code == 1
    assert line.startswith("app/core/a.py:1: circle of files: app.core.a -> app.core.b -> app.core.a; ")


def test_a_string_names_no_module_of_a_higher_layer(tree: Path) -> None:
    write(tree, {"app/core/a.py": '\nx = import_module("app.customers.graphql")\n'})
    told = "names app.customers.graphql, which stands in a higher layer; hand in what is needed of it"
    assert house(tree) == (1, [f"app/core/a.py:2: {told}"])


def test_graphql_types_of_features_name_each_other_in_strings(tree: Path) -> None:
    files = {f"app/{one}/graphql.py": f'x = strawberry.lazy("app.{other}.graphql")\n' for one, other in PAIR}
    write(tree, files)
    assert house(tree) == (0, [])


@pytest.mark.parametrize("folder", ["app/core", "tests/core", "scripts"])
def test_a_full_folder_is_found(tree: Path, folder: str) -> None:
    write(tree, {f"{folder}/__init__.py": ""} | {f"{folder}/data{number}.txt": "" for number in range(23)})
    write(tree, {f"{folder}/clock.py": "NOW = 1\n"})
    assert house(tree) == (0, [])
    write(tree, {f"{folder}/one_more.txt": ""})
    assert house(tree) == (
        1,
        [f"{folder}:1: 26 files in one folder, more than 25; divide it by what its files are about"],
    )


def test_a_long_file_is_found(tree: Path) -> None:
    write(tree, {"app/core/clock.py": "NOW = 1\n" * 400, "app/db/versions/first.py": "\n" * 500})
    assert house(tree) == (0, [])
    write(tree, {"tests/test_clock.py": "NOW = 1\n" * 401})
    told = "tests/test_clock.py:401: 401 lines in one file, more than 400; give each of its ideas a file"
    assert house(tree) == (1, [told])


@pytest.mark.parametrize(
    ("source", "line", "word"),
    [
        ('"""What time it is."""\n\nNOW = 1\n', 1, "What"),
        ('NOW = 1\n"""who asks"""\n', 2, "who"),
        ('NOW = 1\n\n\nclass Clock:\n    """\n    Whoever asks."""\n', 5, "Whoever"),
        (
            'NOW = 1\n\n\nclass Clock:\n    async def tick(self) -> None:\n        """`Those` that tick."""\n',
            6,
            "Those",
        ),
        ('NOW = 1\n\n\ndef tick() -> None:\n    """One that ticks."""\n', 5, "One"),
    ],
)
def test_a_docstring_that_begins_badly_is_found(tree: Path, source: str, line: int, word: str) -> None:
    write(tree, {"app/core/clock.py": source, "tests/test_clock.py": source, "scripts/clock.py": source})
    wrong = f'docstring begins with "{word}"; begin with the thing or the verb that it is about'
    places = ("app/core/clock.py", "scripts/clock.py", "tests/test_clock.py")
    assert house(tree) == (1, [f"{place}:{line}: {wrong}" for place in places])


def test_words_within_a_docstring_are_free(tree: Path) -> None:
    write(tree, {"app/core/clock.py": 'NOW = 1\n"""Whatever the time is: what one needs."""\n'})
    assert house(tree) == (0, [])


def test_a_module_outside_the_layers_is_found(tree: Path) -> None:
    write(tree, {"pyproject.toml": LAYERS.format("server.worker")})
    mend = "name it in a layer of [tool.importlinter] in pyproject.toml"
    assert house(tree) == (1, [f"app/server/main.py:1: no layer names this module; {mend}"])
