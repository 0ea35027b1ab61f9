"""What a run answers: figures beside baselines, as one table per benchmark and as one JSON file."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Literal

import orjson
from rich.console import Console
from rich.table import Table

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Figure:
    """One measured thing. `ratio` says how many times better Voltwire is, whichever way better points."""

    benchmark: str
    name: str
    unit: str
    better: Better
    product: list[float]
    baseline_name: str = ""
    baseline: list[float] = field(default_factory=list)
    note: str = ""

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

    def as_json(self) -> dict[str, object]:
        return asdict(self) | {
            "product_median": self.product_median,
            "baseline_median": self.baseline_median,
            "ratio": self.ratio,
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
        for figure in (f for f in self.figures if f.benchmark == benchmark):
            table.add_row(
                f"{figure.name} ({figure.unit})" if figure.unit else figure.name,
                show(figure.product_median),
                show(figure.baseline_median),
                figure.baseline_name,
                "" if figure.ratio is None else f"{figure.ratio:,.2f} ×",
            )
        self.console.print(table)

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
