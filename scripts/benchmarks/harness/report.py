"""The report of a run: figures beside baselines, as a table per benchmark and as a JSON file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import orjson
from rich.console import Console
from rich.table import Table

ENOUGH = 5
"""Fewer pairs than these prove nothing."""

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """A measured quantity. `ratio` says how many times better Voltwire is, whether more or less is better."""

    benchmark: str
    name: str
    unit: str
    better: Better
    product: list[float]
    baseline_name: str = ""
    baseline: list[float] = field(default_factory=list)
    note: str = ""
    # The ratio that is aimed at.
    bar: float | None = None

    @property
    def product_median(self) -> float:
        return median(self.product)

    @property
    def baseline_median(self) -> float | None:
        return median(self.baseline) if self.baseline else None

    @property
    def ratio(self) -> float | None:
        base = self.baseline_median
        above, below = (self.product_median, base) if self.better == "higher" else (base, self.product_median)
        return None if not above or not below else above / below

    @property
    def pairs(self) -> list[float]:
        """The ratio of each round by itself, where both sides were measured in every one."""
        if len(self.product) != len(self.baseline):
            return []
        sides = zip(self.product, self.baseline, strict=True)
        return sorted(a / b if self.better == "higher" else b / a for a, b in sides if a and b)

    def spread(self, digits: int) -> str:
        """The worst and the best pair."""
        pairs = self.pairs
        return f"{pairs[0]:.{digits}f}–{pairs[-1]:.{digits}f}" if pairs else ""

    @property
    def is_worse(self) -> bool:
        """Whether even the best of enough pairs is worse: by chance that happens to one figure in 128 with seven."""
        return len(self.pairs) >= ENOUGH and self.pairs[-1] < 1

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {
            "product_median": self.product_median,
            "baseline_median": self.baseline_median,
            "ratio": self.ratio,
            "pairs": self.pairs,
        }


class Report:
    """Collects figures and remarks; prints a benchmark's table as soon as that benchmark is over."""

    def __init__(self, machine: dict[str, object], console: Console) -> None:
        self.machine = machine
        self.console = console
        self.figures: list[Figure] = []
        self.remarks: list[str] = []

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)

    def say(self, sentence: str) -> None:
        """A remark that belongs to the result: what was skipped or smaller than usual, and why."""
        self.remarks.append(sentence)
        self.console.print(f"[dim]· {sentence}[/dim]", highlight=False)

    def progress(self, sentence: str) -> None:
        self.console.print(f"[dim]  {sentence}[/dim]", highlight=False)

    def print_table(self, benchmark: str, title: str) -> None:
        table = Table(title=title, title_justify="left", header_style="bold", expand=False)
        table.add_column("figure")
        table.add_column("Voltwire", justify="right")
        table.add_column("baseline", justify="right")
        table.add_column("beside")
        table.add_column("ratio", justify="right", style="bold")
        table.add_column("pairs", justify="right", no_wrap=True)
        figures = [figure for figure in self.figures if figure.benchmark == benchmark]
        if any(figure.bar for figure in figures):
            table.add_column("bar", justify="right", no_wrap=True)
        for figure in figures:
            cells = (
                f"{figure.name} ({figure.unit})" if figure.unit else figure.name,
                show(figure.product_median),
                show(figure.baseline_median),
                figure.baseline_name,
                "" if figure.ratio is None else f"{figure.ratio:,.2f} ×",
                figure.spread(2),
                "" if figure.bar is None else f"≥ {figure.bar:.3g} ×",
            )
            table.add_row(*cells[: len(table.columns)])
        self.console.print(table)

    def print_against(self, name: str) -> None:
        """All figures as two revisions have them, and which of them are worse by every pair."""
        title = f"this revision beside {name} · medians of interleaved pairs; a ratio over 1 is better"
        table = Table(title=title, title_justify="left", header_style="bold", expand=False)
        table.add_column("figure")
        for column in (name, "now", "ratio", "pairs", "better"):
            table.add_column(column, justify="right", no_wrap=True)
        table.add_column("")
        for figure in self.figures:
            pairs, unit = figure.pairs, f" ({figure.unit})" if figure.unit else ""
            table.add_row(
                f"{figure.benchmark}: {figure.name}{unit}",
                show(figure.baseline_median),
                show(figure.product_median),
                "" if figure.ratio is None else f"{figure.ratio:.3f}",
                figure.spread(3),
                f"{sum(one > 1 for one in pairs)}/{len(pairs)}",
                "worse" if figure.is_worse else "",
                style="red" if figure.is_worse else "",
            )
        self.console.print(table)
        worse = [figure.name for figure in self.figures if figure.is_worse]
        self.console.print(
            f"{len(worse)} of {len(self.figures)} figures are worse in every pair"
            + (f": {'; '.join(worse)}." if worse else "."),
            highlight=False,
        )

    def write_json(self, file: Path) -> None:
        body = {
            "machine": self.machine,
            "figures": [figure.as_json() for figure in self.figures],
            "remarks": self.remarks,
        }
        file.write_bytes(orjson.dumps(body, option=orjson.OPT_INDENT_2) + b"\n")


def show(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:,.2f}"
