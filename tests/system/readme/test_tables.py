"""The README's tables, links and names, compared with the program."""

import os
import re
from pathlib import Path
from typing import Any

import typer
from graphql import GraphQLObjectType, build_schema
from pydantic_core import PydanticUndefined
from typer.core import TyperGroup

from app.cli.cli import app as cli
from app.core.settings import Settings
from app.events.catalogue import catalogue
from app.schema import schema_text
from tests.system.readme.text import README, ROOT, script, table


def test_what_graphcache_embeds_is_all_that_has_no_id() -> None:
    listed = re.findall(r'"(\w+)"', script("Apollo and urql", 2))
    types = build_schema(schema_text()).type_map.values()
    # urql knows connections and their parts by name, and says nothing about payloads of mutations.
    known = ("Connection", "Edge", "Payload", "PageInfo", "Query", "Mutation", "Subscription")
    assert listed == sorted(
        one.name
        for one in types
        if isinstance(one, GraphQLObjectType)
        and "id" not in one.fields
        and not one.name.startswith("__")
        and not one.name.endswith(known)
    )


def test_events_are_those_of_the_catalogue() -> None:
    rows = [f"| `{event.type}` | {event.description} |" for event in catalogue()]
    written = "\n".join(["| event | what it says |", "|---|---|", *rows])
    assert f"\n## Events\n\n{written}\n\n" in README, f"Write this table under Events:\n{written}"


def test_settings_are_those_of_the_program() -> None:
    rows = {name: row for row in table("Settings") for name in re.findall(r"VOLTWIRE_\w+", row[0])}
    fields = {f"VOLTWIRE_{name.upper()}": field for name, field in Settings.model_fields.items()}
    assert rows.keys() == fields.keys()
    documented = {
        name: row[1].strip("`")
        for name, row in rows.items()
        if re.fullmatch(r"`[^`]+`", row[1]) and row[1] != "`http://HOST:PORT`"
    }
    assert documented == {
        name: in_words(field.default)
        for name, field in fields.items()
        if field.default not in (None, [], PydanticUndefined)
    }
    # Any other mention is of a setting that exists, too.
    assert set(re.findall(r"VOLTWIRE_[A-Z_]+", README)) <= fields.keys() | {"VOLTWIRE_API_KEY"}


def in_words(default: Any) -> str:
    if isinstance(default, list):
        return ",".join(f"{one:g}" if isinstance(one, float) else str(one) for one in default)
    return f"./{default}" if isinstance(default, Path) else f"{default}"


def test_commands_are_those_of_the_program() -> None:
    cells = " ".join(row[0] for row in table("Commands"))
    documented = {
        " ".join(re.findall(r"(?<= )[a-z][a-z-]*(?= |$)", call))
        for call in re.findall(r"`(voltwire .+?)`", cells)
    }
    assert documented == visible_commands(typer.main.get_command(cli))
    scripts = {one.name for one in (ROOT / "scripts").iterdir() if one.is_file() and os.access(one, os.X_OK)}
    # `setup` is what the others begin with.
    assert set(re.findall(r"\./scripts/(\w+)", cells)) == scripts - {"setup"}


def visible_commands(command: Any, path: tuple[str, ...] = ()) -> set[str]:
    if not isinstance(command, TyperGroup):
        return {" ".join(path)}
    return {
        name
        for part, inner in command.commands.items()
        if not inner.hidden
        for name in visible_commands(inner, (*path, part))
    }


def test_links_lead_to_sections_and_files() -> None:
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    titles = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    sections = {"#" + re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
    links = [link for link in re.findall(r"\]\(([^)]+)\)", prose) if not link.startswith("https://")]
    assert [one for one in links if one not in sections and not (ROOT / one).is_file()] == []
    # The contents at the top name every section.
    contents = README.split("\n## Quick start\n")[0]
    named = {"#" + anchor for anchor in re.findall(r"\]\(#([^)]+)\)", contents)}
    chapters = re.findall(r"^## (.+)$", prose, re.MULTILINE)
    assert {"#" + one.lower().replace(" ", "-") for one in chapters} <= named


def test_files_it_names_are_there() -> None:
    named = re.findall(r"`((?:app|tests|scripts)/[\w./]+|[A-Z]+(?:\.md)?)`", README)
    missing = [name for name in named if "." in name and not (ROOT / name).exists()]
    assert missing == []
    assert (ROOT / "LICENSE").is_file()
