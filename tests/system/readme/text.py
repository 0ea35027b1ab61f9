"""The README, taken apart into commands and tables."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$|^#+ ([^\n]+)$", re.MULTILINE | re.DOTALL)


def blocks() -> dict[str, list[tuple[str, str]]]:
    """The fenced blocks under each heading, as (language, text)."""
    found: dict[str, list[tuple[str, str]]] = defaultdict(list)
    heading = ""
    for language, text, title in FENCE.findall(README):
        if title:
            heading = title
        else:
            found[heading].append((language, text))
    return found


def table(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its head."""
    text = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("|")]
    # A pipe inside a cell is written with a backslash.
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[2:]]


BLOCKS = blocks()


def commands(heading: str) -> list[str]:
    """The commands of the shell blocks under a heading, which empty lines set apart."""
    shell = [text.strip() for language, text in BLOCKS[heading] if language == "sh"]
    return [command for text in shell for command in text.split("\n\n")]


def script(heading: str, number: int) -> str:
    """The n-th JavaScript block under a heading."""
    return [text for language, text in BLOCKS[heading] if language == "js"][number]
