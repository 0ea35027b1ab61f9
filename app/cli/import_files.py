"""`voltwire import`: sends files of readings, follows their imports, and prints a report."""

import asyncio
import glob
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from app.cli.client import Api, ClientError
from app.outbound.text import printable_line

PIECE_BYTES: Final = 256 * 1024
PROBLEMS_SHOWN: Final = 20
SENT: Final = 0.3
"""The part of the bar that sending makes."""


def files_of(given: Sequence[str]) -> list[Path]:
    """The files that are named: paths, folders with all of their files, and patterns. Raises ClientError."""
    found: list[Path] = []
    for one in given:
        path = Path(one)
        if path.is_dir():
            inside = sorted(child for child in path.iterdir() if child.is_file() and child.name[0] != ".")
        elif path.is_file():
            inside = [path]
        else:
            inside = sorted(Path(match) for match in glob.glob(one, recursive=True) if Path(match).is_file())
        if not inside:
            raise ClientError(f"There is no file {printable_line(one)}.")
        found += inside
    return list(dict.fromkeys(found))


class Importer:
    """Sends files to a server one after the other, and waits for each import to end."""

    def __init__(self, api: Api, options: Mapping[str, str]) -> None:
        self._api = api
        self._options = options

    async def run(self, files: Sequence[Path], console: Console, notes: Console) -> bool:
        """Imports the files; whether all that was asked for is in. `notes` gets the progress, `console` the report."""
        reports: list[tuple[Path, dict[str, Any]]] = []
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
        with Progress(*columns, console=notes, transient=True) as progress:
            for path in files:
                bar = progress.add_task(escape(_name(path)), total=1.0)

                def move(to: float, bar: TaskID = bar) -> None:
                    progress.update(bar, completed=to)

                try:
                    reports.append((path, await self._import(path, move)))
                except ClientError as error:
                    # The report tells of the files that went in before.
                    progress.stop()
                    if len(files) == 1:
                        raise
                    if reports:
                        show(reports, console)
                    raise ClientError(f"{_name(path)}: {error}{_left_out(files, path)}") from None
                progress.remove_task(bar)
        show(reports, console)
        return all(is_in(report) for _, report in reports)

    async def _import(self, path: Path, move: Callable[[float], None]) -> dict[str, Any]:
        size = _size(path)

        async def pieces() -> AsyncIterator[bytes]:
            sent = 0
            with path.open("rb") as file:
                while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                    yield piece
                    sent += len(piece)
                    move(SENT * sent / size)

        parameters = {"fileName": _name(path)[:255], **self._options}
        import_id = await self._api.upload(pieces(), **parameters)
        while True:
            report = await self._api.report_of(import_id, wait=1)
            move(SENT + (1 - SENT) * report["progress"])
            if report["status"] != "RUNNING":
                return report


def _name(path: Path) -> str:
    """The file's name as it can be shown and sent: names may have any bytes."""
    return printable_line(path.name)


def _left_out(files: Sequence[Path], path: Path) -> str:
    """The sentence about the files after the one that stopped the run; empty if it was the last."""
    left = files[files.index(path) + 1 :]
    if not left:
        return ""
    if len(left) == 1:
        return f" {_name(left[0])} after it was not sent."
    return f" {_name(left[0])} and {len(left) - 1:,} more after it were not sent."


def _size(path: Path) -> int:
    return max(path.stat().st_size, 1)


def is_in(report: Mapping[str, Any]) -> bool:
    """Whether all of a file was taken, or would be by a dry run."""
    return report["status"] in ("COMPLETED", "PREVIEW") and not report["problemCount"]


def show(reports: Iterable[tuple[Path, Mapping[str, Any]]], console: Console) -> None:
    """The report: a row for each file, and the first problems below."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("File", "Profile", "Status"):
        table.add_column(name)
    for name in ("Meters", "Half-hours", "New or changed", "Problems"):
        table.add_column(name, justify="right")
    notes: list[str] = []
    for path, report in reports:
        counts = ("meterCount", "readingsAccepted", "readingsChanged", "problemCount")
        table.add_row(
            escape(_name(path)),
            report["profile"] or "–",
            report["status"],
            *(f"{report[count]:,}" for count in counts),
        )
        if report["error"]:
            notes.append(f"{_name(path)}: {report['error']}")
        for one in report["problems"][:PROBLEMS_SHOWN]:
            column = f", column {one['column']}" if one["column"] else ""
            inside = f" of {one['file']}" if one["file"] else ""
            where = f"line {one['line']}{column}{inside}: " if one["line"] else ""
            notes.append(f"{_name(path)}: {where}{one['code']}: {one['message']}")
        left = report["problemCount"] - min(len(report["problems"]), PROBLEMS_SHOWN)
        if left > 0:
            notes.append(f"{_name(path)}: and {left:,} more.")
    console.print(table)
    for note in notes:
        console.print(printable_line(note), markup=False, highlight=False, soft_wrap=True)
