"""Writes small .xlsx workbooks for tests."""

import io
import zipfile
from xml.sax.saxutils import escape

STYLES = (
    '<styleSheet><numFmts><numFmt numFmtId="164" formatCode="dd/mm/yyyy\\ hh:mm"/></numFmts><cellXfs><xf '
    'numFmtId="0"/>'
    '<xf numFmtId="14"/><xf numFmtId="20"/><xf numFmtId="164"/></cellXfs></styleSheet>'
)
DATE, TIME, STAMP = 1, 2, 3
"""Styles of cells."""

Cell = str | int | float | tuple[float, int] | None
"""A text, a number, a number with a style, or nothing."""


def workbook(sheets: dict[str, list[list[Cell]]], extra: dict[str, str] | None = None) -> bytes:
    """A workbook with shared texts; `extra` adds or replaces its files."""
    texts: list[str] = []
    files = {"[Content_Types].xml": "<Types/>", "xl/styles.xml": STYLES}
    for number, rows in enumerate(sheets.values(), 1):
        body = "".join(
            f'<row r="{at}">'
            + "".join(_cell(one, column, at, texts) for column, one in enumerate(row))
            + "</row>"
            for at, row in enumerate(rows, 1)
        )
        files[f"xl/worksheets/sheet{number}.xml"] = f"<worksheet><sheetData>{body}</sheetData></worksheet>"
    names = "".join(
        f'<sheet name="{escape(name)}" sheetId="{number}" r:id="rId{number}"/>'
        for number, name in enumerate(sheets, 1)
    )
    files["xl/workbook.xml"] = f'<workbook xmlns:r="r"><workbookPr/><sheets>{names}</sheets></workbook>'
    links = "".join(
        f'<Relationship Id="rId{number}" Target="worksheets/sheet{number}.xml"/>'
        for number in range(1, len(sheets) + 1)
    )
    files["xl/_rels/workbook.xml.rels"] = f"<Relationships>{links}</Relationships>"
    shared = "".join(f"<si><t>{escape(one)}</t></si>" for one in texts)
    files["xl/sharedStrings.xml"] = f"<sst>{shared}</sst>"
    return zipped({**files, **(extra or {})})


def zipped(files: dict[str, str | bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return packed.getvalue()


def _cell(cell: Cell, column: int, row: int, texts: list[str]) -> str:
    letters = ""
    number = column + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(65 + rest) + letters
    place = f'r="{letters}{row}"'
    if cell is None:
        return ""
    if isinstance(cell, str):
        texts.append(cell)
        return f'<c {place} t="s"><v>{len(texts) - 1}</v></c>'
    if isinstance(cell, tuple):
        return f'<c {place} s="{cell[1]}"><v>{cell[0]!r}</v></c>'
    return f"<c {place}><v>{cell!r}</v></c>"
