"""Checks what linters do not: circles of files, modules named in strings, modules outside the layers, full folders,
long files, and how docstrings begin.

`python scripts/house.py [ROOT]` prints each finding as `file:line: what is wrong; what to do`, and exits with 1 if
there is any.
"""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

PACKAGE: Final = "app"
READ: Final = ("app", "tests", "scripts")
FULL: Final = 25
"""Files that a folder may hold."""
LONGEST: Final = 400
"""Lines that a file may have; a migration, which is never changed, may have more."""
MIGRATIONS: Final = "versions"

BEGINNING: Final = re.compile(r"\W*(what|who|whoever|one|those)\b", re.IGNORECASE)
LAZY: Final = re.compile(rf"{PACKAGE}\.(\w+)\.graphql\w*")
"""Modules of the features' GraphQL types, which may name each other for type checkers and in strings only."""

NAMING: Final = ("lazy", "import_module")
"""Functions that take a module's name as a string."""


@dataclass(frozen=True, order=True)
class Finding:
    """A broken rule, where, and the way to mend it."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


@dataclass(frozen=True)
class Import:
    """An import of another module of the package."""

    module: str
    line: int
    is_late: bool
    """Whether it does not run when the file is loaded: only type checkers follow it, or it is a name in a string."""
    in_string: bool = False


@dataclass
class Module:
    """A file of the package."""

    name: str
    path: str
    tree: ast.Module
    imports: list[Import] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """Whether the file holds at most a docstring."""
        return all(_text(statement) is not None for statement in self.tree.body)


def findings(root: Path) -> list[Finding]:
    """All findings in a checkout, in order of files."""
    modules = _modules(root)
    layers = _layers(root)
    found = [*_circles(modules), *_eager(modules), *_upward(layers, modules), *_unlayered(layers, modules)]
    found += _full_folders(root)
    shown = _descriptions(root)
    for path in _files(root):
        found += _beginnings(root, path, shown)
        found += _long_file(root, path)
    return sorted(found)


def _files(root: Path) -> Iterator[Path]:
    for name in READ:
        yield from sorted((root / name).rglob("*.py"))


def _modules(root: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted((root / PACKAGE).rglob("*.py")):
        place = path.relative_to(root)
        name = ".".join(place.with_suffix("").parts).removesuffix(".__init__")
        modules[name] = Module(name, str(place), ast.parse(path.read_bytes()))
    for module in modules.values():
        module.imports = list(_imports(module, modules))
    return modules


def _imports(module: Module, modules: dict[str, Module]) -> Iterator[Import]:
    typing = {
        id(node)
        for statement in ast.walk(module.tree)
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test)
        for inner in statement.body
        for node in ast.walk(inner)
    }
    for node in ast.walk(module.tree):
        names = []
        in_string = isinstance(node, ast.Call)
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(module, node.level, node.module or "")
            # A name of a package is a module of it, or something that its own file holds.
            names = [
                full if (full := f"{origin}.{alias.name}") in modules else origin for alias in node.names
            ]
        elif isinstance(node, ast.Call) and (named := _module_in_string(node)):
            bare = named.lstrip(".")
            names = [_absolute(module, len(named) - len(bare), bare)]
        for name in dict.fromkeys(names):
            if name in modules and name != module.name:
                yield Import(name, node.lineno, in_string or id(node) in typing, in_string)


def _absolute(module: Module, level: int, name: str) -> str:
    """The full name of a module that another one imports by `level` dots and a name."""
    if not level:
        return name
    parts = module.name.split(".")
    above = parts[: len(parts) - level + module.path.endswith("__init__.py")]
    return ".".join([*above, *filter(None, [name])])


def _module_in_string(call: ast.Call) -> str | None:
    """The string that `strawberry.lazy` or `import_module` is called with."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    first = call.args[0] if call.args else None
    if function in NAMING and isinstance(first, ast.Constant) and isinstance(first.value, str):
        return first.value
    return None


def _circles(modules: dict[str, Module]) -> Iterator[Finding]:
    graph = {
        name: {one.module: one.line for one in reversed(module.imports) if not _is_lazy(name, one)}
        for name, module in modules.items()
    }
    for circle in _shortest_circles(graph):
        first, second = circle[0], circle[1 % len(circle)]
        names = " -> ".join([*circle, first])
        yield Finding(
            modules[first].path,
            graph[first][second],
            f"circle of files: {names}; move what both sides need into a file below them",
        )


def _is_lazy(name: str, one: Import) -> bool:
    return one.is_late and bool(LAZY.fullmatch(name) and LAZY.fullmatch(one.module))


def _shortest_circles(graph: dict[str, dict[str, int]]) -> list[list[str]]:
    """For each module in a circle the shortest one through it, each circle once, none that shares a module with it."""
    found: list[list[str]] = []
    seen: set[str] = set()
    ways = (_way_back(graph, name) for name in sorted(graph))
    for circle in sorted(filter(None, ways), key=lambda circle: (len(circle), circle)):
        if not seen.intersection(circle):
            found.append(circle)
            seen.update(circle)
    return found


def _way_back(graph: dict[str, dict[str, int]], start: str) -> list[str]:
    """The shortest way from a module to itself, by breadth; empty if there is none."""
    ways = [[start]]
    visited = set()
    for way in ways:
        for name in sorted(graph[way[-1]]):
            if name == start:
                return way
            if name not in visited:
                visited.add(name)
                ways.append([*way, name])
    return []


def _eager(modules: dict[str, Module]) -> Iterator[Finding]:
    for module in modules.values():
        own = LAZY.fullmatch(module.name)
        for one in module.imports:
            other = LAZY.fullmatch(one.module)
            if own and other and own[1] != other[1] and not one.is_late:
                text = f"imports {one.module} when loaded; import it under TYPE_CHECKING and name it by strawberry.lazy"
                yield Finding(module.path, one.line, text)


def _layers(root: Path) -> dict[str, int]:
    """The modules that the contracts name, each with the number of its layer from the top."""
    settings = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {
        name: number
        for contract in settings["contracts"]
        if contract["type"] == "layers"
        for number, layer in enumerate(contract["layers"])
        for name in re.findall(r"[\w.]+", layer)
    }


def _layer(layers: dict[str, int], name: str) -> int | None:
    parts = name.split(".")
    above = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((layers[one] for one in above if one in layers), None)


def _upward(layers: dict[str, int], modules: dict[str, Module]) -> Iterator[Finding]:
    """Names in strings against the layers, which the linter of imports does not see."""
    for module in modules.values():
        for one in module.imports:
            own, other = _layer(layers, module.name), _layer(layers, one.module)
            if one.in_string and own is not None and other is not None and other < own:
                text = f"names {one.module}, which stands in a higher layer; hand in what is needed of it"
                yield Finding(module.path, one.line, text)


def _unlayered(layers: dict[str, int], modules: dict[str, Module]) -> Iterator[Finding]:
    for name, module in modules.items():
        if name != PACKAGE and not module.is_empty and _layer(layers, name) is None:
            text = "no layer names this module; name it in a layer of [tool.importlinter] in pyproject.toml"
            yield Finding(module.path, 1, text)


def _full_folders(root: Path) -> Iterator[Finding]:
    for name in READ:
        for folder in sorted([root / name, *(root / name).rglob("*/")]):
            if "__pycache__" in folder.parts or not folder.is_dir():
                continue
            count = sum(path.is_file() for path in folder.iterdir())
            if count > FULL:
                place = str(folder.relative_to(root))
                text = f"{count} files in one folder, more than {FULL}; divide it by what its files are about"
                yield Finding(place, 1, text)


def _long_file(root: Path, path: Path) -> Iterator[Finding]:
    count = path.read_bytes().count(b"\n")
    if count > LONGEST and path.parent.name != MIGRATIONS:
        text = f"{count} lines in one file, more than {LONGEST}; give each of its ideas a file"
        yield Finding(str(path.relative_to(root)), LONGEST + 1, text)


def _descriptions(root: Path) -> set[str]:
    """Lines of the schema's descriptions, which are docstrings that users see."""
    schema = root / "schema.graphql"
    return {line.strip(' "') for line in schema.read_text().splitlines()} if schema.exists() else set()


def _beginnings(root: Path, path: Path, shown: set[str]) -> Iterator[Finding]:
    for node in ast.walk(ast.parse(path.read_bytes())):
        text = _text(node)
        if text is None or text.strip().split("\n")[0] in shown:
            continue
        if beginning := BEGINNING.match(text):
            yield Finding(
                str(path.relative_to(root)),
                node.lineno,
                f'docstring begins with "{beginning[1]}"; begin with the thing or the verb that it is about',
            )


def _text(statement: ast.AST) -> str | None:
    """A statement that is only a text: the docstring of a module, class, function or attribute."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        value = statement.value.value
        return value if isinstance(value, str) else None
    return None


def main() -> int:
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parents[1]
    found = findings(root)
    for finding in found:
        print(finding)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
