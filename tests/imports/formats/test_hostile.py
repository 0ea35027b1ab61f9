"""Files made to do harm are refused, or bounded, at the first byte that is too much."""

import gzip
import io
import tracemalloc
import zipfile
import zlib

import pytest

from app.imports.formats import containers
from app.imports.formats.assembly import Assembly
from app.imports.formats.interface import FileRefused, MeterReadings, Options
from app.imports.formats.parsed_file import open_file
from tests.imports.formats.reading import MPAN, NOW, Taken, refusal
from tests.imports.formats.rendering import CLOCK_START, table
from tests.imports.formats.test_faults import sse
from tests.imports.formats.workbooks import STAMP, workbook, zipped

ROW = [MPAN, "kWh", "01/03/2026", *["0.5"] * 48]
MIB = 1 << 20


def zeros(mebibytes: int) -> bytes:
    """A gzip of this many MiB of the same line."""
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", compresslevel=1) as file:
        line = b"2499999999991,kWh,01/03/2026\n" * 32_768
        for _ in range(mebibytes * MIB // len(line) + 1):
            file.write(line)
    return packed.getvalue()


def peak(content: bytes) -> int:
    """The most memory that reading a file takes."""
    tracemalloc.start()
    try:
        for _ in open_file(io.BytesIO(content), Options(now=NOW)):
            pass
    except FileRefused:
        pass
    finally:
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return size


def test_bomb_of_gzip_ends_at_the_limit() -> None:
    [member] = containers.members(io.BytesIO(zeros(8)), containers.Unpacked(limit=4 * MIB))
    with pytest.raises(FileRefused) as caught:
        list(member.chunks())
    assert caught.value.problem.message == "A file has at most 4 MiB, unpacked."
    # A chunk that unpacks to a thousand times its size is unpacked in small parts.
    compressor = zlib.compressobj(9, wbits=31)
    bomb = compressor.compress(b"," * 64 * MIB) + compressor.flush()
    assert peak(bomb) < 16 * MIB


def test_bomb_of_zip_is_refused_before_and_while_it_is_unpacked() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for number in range(5):
            archive.writestr(f"{number}.csv", b"0," * 32 * MIB)
    found = refusal(packed.getvalue())
    assert (found.code, found.message) == ("LIMIT_REACHED", "A file has at most 256 MiB, unpacked.")
    lying = bytearray(packed.getvalue())
    at = lying.rfind(b"PK\x01\x02")
    lying[at + 24 : at + 28] = (10).to_bytes(4, "little")
    assert refusal(bytes(lying)).code in ("LIMIT_REACHED", "UNKNOWN_FORMAT", "TOO_LONG")


def test_archives_in_archives_and_with_passwords_are_not_opened() -> None:
    inner = zipped({"a.csv": sse(ROW)})
    for content in (
        zipped({"a.zip": inner}),
        zipped({"a.csv.gz": gzip.compress(b"a")}),
        gzip.compress(inner),
        gzip.compress(gzip.compress(b"a")),
    ):
        found = refusal(content)
        assert (
            found.message
            == "An archive or spreadsheet inside of an archive is not opened: send it by itself."
        )
    locked = bytearray(inner)
    locked[locked.rfind(b"PK\x01\x02") + 8] |= 1
    assert refusal(bytes(locked)).message == "The archive has a password: send it without."
    assert refusal(inner[:-30]).message == "The zip file is damaged."
    assert refusal(gzip.compress(sse(ROW).encode())[:-20]).message == "The gzip file is cut off."
    assert refusal(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1").code == "UNKNOWN_FORMAT"


def test_archives_of_many_files_or_rare_packing_are_refused() -> None:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(5_000):
            archive.writestr(f"{number:0300}.csv", "")
    assert refusal(packed.getvalue()).message == "An archive has at most 1,000 files."
    assert peak(packed.getvalue()) < 4 * MIB
    for method in (zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", method) as archive:
            archive.writestr("a.csv", b"0" * 16 * MIB)
        assert refusal(packed.getvalue()).message == "The archive is packed in a rare way: use deflate."
        assert peak(packed.getvalue()) < 4 * MIB


def test_names_in_archives_are_no_paths() -> None:
    taken = Taken(
        zipped({"../../etc/pass\nwd.csv": sse(ROW), "__MACOSX/x": "x", ".DS_Store": "x", "deep/": ""})
    )
    assert [day.file for day in taken.days] == ["../../etc/pass?wd.csv"]


def test_members_that_cannot_be_read_are_problems_of_the_archive() -> None:
    second = [MPAN, "kWh", "02/03/2026", *["0.5"] * 48]
    other = "Zähler;Datum;Wert\n12;01.03.2026;0,187\n"
    files = {"a.csv": sse(ROW), "other.csv": other, "b.csv": sse(second), "c.csv": sse(ROW)}
    taken = Taken(zipped(files | {"d.zip": zipped({"e.csv": sse(ROW)})}))
    assert [(one.code, one.file, one.line) for one in taken.problems] == [
        ("UNKNOWN_FORMAT", "other.csv", 1),
        ("DUPLICATE", "c.csv", 2),
        ("UNKNOWN_FORMAT", "d.zip", 0),
    ]
    assert [(day.file, day.line) for day in taken.days] == [("a.csv", 2), ("b.csv", 2)]
    assert "Left out" not in taken.file.detection


def test_what_comes_beside_readings_in_an_archive_is_left_out_and_told() -> None:
    beside: dict[str, str | bytes] = {
        "readme.txt": "Dear customer,\nyou find 48 values, and their flags, for each day.\n",
        "LICENCE": "All rights reserved, 2026\n",
        "logo.png": b"\x89PNG\r\n\x1a\n1,2,3,4\n",
        "notes.docx": zipped({"word/document.xml": "<a/>"}),
        "index.html": "<html><table>1,2,3</table></html>",
        "empty.csv": "",
    }
    taken = Taken(zipped(beside | {"data/a.csv": sse(ROW)}))
    assert (len(taken.days), taken.problems) == (1, [])
    assert taken.file.detection.endswith(
        'Left out, since they have no readings: "readme.txt", "LICENCE", "logo.png", "notes.docx", "index.html" '
        "and 1 more."
    )
    assert refusal(zipped(beside)).message.startswith("The archive has no file of readings. Left out")


def test_line_without_end_is_refused_where_it_gets_too_long() -> None:
    for content in (b"a" * 100 * MIB, b"MPAN,Units," + b"9," * 50 * MIB, b'"' + b"\n" * 1000 + b"x" * MIB):
        assert refusal(content).code in ("TOO_LONG", "UNKNOWN_FORMAT")
    assert peak(b"9" * 20 * MIB) < 8 * MIB


def test_million_columns_are_refused() -> None:
    found = refusal("MPAN" + ",a" * 100_000)
    assert (found.code, found.line, found.message) == ("TOO_LONG", 1, "A line has at most 2,000 cells.")
    assert refusal("MPAN" + ",a" * 1_000_000).code == "TOO_LONG"


@pytest.mark.parametrize(
    "xml",
    [
        '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>',
    ],
)
def test_document_types_are_refused(xml: str) -> None:
    sentence = "The XML has a document type, which may declare entities: leave it out."
    assert refusal(xml).message == sentence
    assert refusal(workbook({"a": []}, {"xl/workbook.xml": xml})).message == sentence
    assert refusal(workbook({"a": [["x"]]}, {"xl/worksheets/sheet1.xml": xml})).message == sentence


def test_nested_cut_off_and_foreign_xml_is_refused() -> None:
    assert refusal("<a>" * 100_000).message == "The XML is nested more than 60 deep."
    assert refusal("<a><b></a>").message == "This is no well-formed XML: mismatched tag."
    assert refusal("<a>").message == "This is no well-formed XML: no element found."
    sentence = "The XML is in an encoding that nobody knows."
    assert refusal('<?xml version="1.0" encoding="UTS-8"?><a/>').message == sentence
    assert refusal("<a/>").message.startswith("This XML is no Green Button feed")
    assert peak(b"<a>" + b"x" * 20 * MIB + b"</a>") < 12 * MIB


@pytest.mark.parametrize("begin", ['<feed a="', "<!--", "<?a "])
def test_endless_tags_are_refused(begin: str) -> None:
    xml = f"{begin}{'x' * 4 * MIB}"
    assert refusal(xml).message == "A tag of the XML has over 128 KiB."
    found = refusal(workbook({"a": []}, {"xl/worksheets/sheet1.xml": xml}))
    assert (found.code, found.message) == ("TOO_LONG", "A tag of the XML has over 128 KiB.")
    assert peak(xml.encode()) < 2 * MIB


def test_huge_cells_of_a_sheet_are_cut() -> None:
    cell = '<c t="str"><v>' + "a" * MIB + "</v></c>"
    sheet = f"<worksheet><sheetData><row>{cell * 10}</row></sheetData></worksheet>"
    assert peak(workbook({"a": []}, {"xl/worksheets/sheet1.xml": sheet})) < 3 * MIB


def test_cells_far_out_in_a_sheet_are_refused() -> None:
    sheet = '<worksheet><sheetData><row r="1"><c r="XFD1"><v>1</v></c></row></sheetData></worksheet>'
    found = refusal(workbook({"a": []}, {"xl/worksheets/sheet1.xml": sheet}))
    assert (found.code, found.message) == ("TOO_LONG", "A row has at most 2,000 cells.")


def test_odd_styles_and_dates_beyond_the_calendar_are_problems_of_their_cells() -> None:
    rows = [["MPAN", "Timestamp", "kWh"], [MPAN, (2958465.5, STAMP), 0.5]]
    late = '<workbook xmlns:r="r"><workbookPr date1904="1"/><sheets><sheet name="a" r:id="rId1"/></sheets></workbook>'
    for extra in (
        {"xl/workbook.xml": late},
        {"xl/styles.xml": '<a><cellXfs><xf numFmtId="²"/></cellXfs></a>'},
    ):
        assert Taken(workbook({"a": rows}, extra)).places == [("BAD_DATE", 2, 2)]
    sheet = '<worksheet><row r="²"><c t="str" s="²"><v>MPAN</v></c></row></worksheet>'
    assert refusal(workbook({"a": []}, {"xl/worksheets/sheet1.xml": sheet})).code == "UNKNOWN_FORMAT"
    assert "encoding" not in refusal(workbook({"a": []}, {"xl/worksheets/sheet1.xml": sheet})).message


def test_formulas_are_values_in_sheets_and_problems_in_text() -> None:
    text = sse([*ROW[:3], "=cmd|' /C calc'!A0", *ROW[4:]])
    assert Taken(text).places == [("BAD_VALUE", 2, 4)]


def test_file_with_too_many_meters_is_refused() -> None:
    rows = "".join(f"site {number},2026-03-01 00:00,1\n" for number in range(50_001))
    with pytest.raises(FileRefused) as caught:
        list(open_file(io.BytesIO(("Meter,Timestamp,kWh\n" + rows).encode()), Options(now=NOW)))
    found = caught.value.problem
    assert (found.code, found.message) == ("LIMIT_REACHED", "A file has at most 50,000 meters.")


def test_portfolio_of_20_000_meters_by_time_is_taken_in_little_memory() -> None:
    body = "".join(
        f"site {number},2026-03-01 0{hour}:00,1\n" for hour in range(2) for number in range(20_000)
    )
    content = ("Meter,Timestamp,kWh\n" + body).encode()
    file = open_file(io.BytesIO(content), Options(now=NOW))
    assert all(isinstance(found, MeterReadings) and found.present == 5 for found in file)
    assert (file.counts.readings, file.counts.meters) == (40_000, 20_000)
    assert peak(content[: len(content) // 2]) < 60 * MIB


@pytest.mark.parametrize(
    ("head", "line"),
    [
        ("Meter,Timestamp,kWh\n", "site {},2026-03-01 00:00,1\n"),
        ("ZHV|1|D0036001|C|A|X|B|20260302000000||||OPER|\n", "103|A|{}.0|\n"),
        ("100,NEM12,200501011509,A,B\n", "400,{},2,A,,\n"),
    ],
)
def test_long_stretch_without_a_day_is_read_in_small_steps(head: str, line: str) -> None:
    """The reader must give way meanwhile: others wait, and the process may have to end."""
    content = (head + "".join(map(line.format, range(2_000)))).encode()
    steps = list(open_file(io.BytesIO(content), Options(now=NOW)).steps())
    assert len(steps) > 2_000 // 64


def test_file_of_too_many_days_is_refused() -> None:
    """The days that are known take memory, however empty they are."""
    file = Assembly(Options(now=NOW), max_days=100)
    stream = file.meters.number("1", is_serial=True, is_number=False) << 2
    amounts = [1] + [0] * 47
    for day in range(100):
        file.emit(stream, day, 1, 0, amounts, 1)
    with pytest.raises(FileRefused) as caught:
        file.emit(stream, 100, 1, 0, amounts, 1)
    assert caught.value.problem.message == "A file has at most 100 days of all meters."


def test_empty_files_are_refused() -> None:
    for content in (b"", b"\n\n", b"\xef\xbb\xbf", zipped({}), gzip.compress(b"")):
        assert refusal(content).code == "UNKNOWN_FORMAT"
    assert refusal(table(["MPAN", "Units", "Date", *CLOCK_START[:-1]], [])).code == "UNKNOWN_FORMAT"
