"""Files as they arrive: plain, gzip, or zip with several members; what they unpack to is bounded."""

import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

from app.imports.formats.interface import MAX_UNPACKED, refused

CHUNK: Final = 256 * 1024
MAX_MEMBERS: Final = 1_000
MAX_DIRECTORY: Final = 1024 * 1024
MAX_GZIP_MEMBERS: Final = 10_000

GZIP: Final = b"\x1f\x8b"
ZIP: Final = b"PK\x03\x04"
_EMPTY_ZIP: Final = b"PK\x05\x06"
_WORKBOOK: Final = "xl/workbook.xml"
_OLD_EXCEL: Final = b"\xd0\xcf\x11\xe0"
_ZIP64: Final = b"PK\x06\x07"
_ENCRYPTED: Final = 1
_MAX_END: Final = 66_000
"""The end of a zip has at most 65,535 bytes of comment."""
_PACKED: Final = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Other methods unpack a few bytes to hundreds of megabytes at one go."""
_DAMAGED: Final = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    ValueError,
)


@dataclass(frozen=True)
class Member:
    """A file inside of the file: its name, None if there is but one, and its bytes, as often as they are wanted."""

    name: str | None
    chunks: Callable[[], Iterator[bytes]]


class Unpacked:
    """Counts unpacked bytes and ends with FileRefused at the first one over the limit."""

    def __init__(self, limit: int = MAX_UNPACKED) -> None:
        self._limit = limit
        self._bytes: dict[str | None, int] = {}

    def begin(self, name: str | None = None) -> None:
        """A member is read from its beginning, perhaps once more."""
        self._bytes[name] = 0

    def count(self, chunk: bytes, name: str | None = None) -> bytes:
        self._bytes[name] += len(chunk)
        if sum(self._bytes.values()) > self._limit:
            raise refused("LIMIT_REACHED", f"A file has at most {self._limit >> 20} MiB, unpacked.", 0, name)
        return chunk


def start(file: BinaryIO, count: int = 8) -> bytes:
    """The first bytes of the file."""
    file.seek(0)
    return file.read(count)


def workbook(file: BinaryIO) -> zipfile.ZipFile | None:
    """The file as a spreadsheet's archive, if it is one. Raises FileRefused for the format of old Excels."""
    begin = start(file)
    if begin.startswith(_OLD_EXCEL):
        raise refused(
            "UNKNOWN_FORMAT",
            "This is an .xls file of old Excels, or one with a password: save it as .xlsx or CSV.",
        )
    if not begin.startswith(ZIP):
        return None
    archive = _archive(file)
    return archive if _WORKBOOK in archive.namelist() else None


def members(file: BinaryIO, unpacked: Unpacked) -> Iterator[Member]:
    """The members of a file. Raises FileRefused for what cannot be unpacked."""
    begin = start(file)
    if begin.startswith((ZIP, _EMPTY_ZIP)):
        yield from _zip_members(file, unpacked)
    elif begin.startswith(GZIP):
        yield Member(None, lambda: _gunzip(file, unpacked))
    else:
        yield Member(None, lambda: _plain(file, unpacked))


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, unpacked: Unpacked) -> Iterator[bytes]:
    """The bytes of a zip's member. Raises FileRefused where they are damaged, encrypted or too many."""
    name = shown(info.filename)
    unpacked.begin(name)
    if info.compress_type not in _PACKED:
        raise refused("UNKNOWN_FORMAT", "The archive is packed in a rare way: use deflate.", 0, name)
    try:
        with archive.open(info) as member:
            while chunk := member.read(CHUNK):
                yield unpacked.count(chunk, name)
    except _DAMAGED:
        raise refused(
            "UNKNOWN_FORMAT", "This member of the archive is damaged or encrypted.", 0, name
        ) from None


def shown(name: str) -> str:
    """A member's name in messages: bounded, without control characters. It is never a path to write to."""
    return "".join(one if one.isprintable() else "?" for one in name[-100:])


def _plain(file: BinaryIO, unpacked: Unpacked) -> Iterator[bytes]:
    file.seek(0)
    unpacked.begin()
    while chunk := file.read(CHUNK):
        yield unpacked.count(chunk)


def _gunzip(file: BinaryIO, unpacked: Unpacked) -> Iterator[bytes]:
    file.seek(0)
    unpacked.begin()
    packed = file.read(CHUNK)
    begin = True
    for _ in range(MAX_GZIP_MEMBERS):
        member = zlib.decompressobj(wbits=31)
        while not member.eof:
            if not packed:
                raise refused("UNKNOWN_FORMAT", "The gzip file is cut off.")
            try:
                chunk = member.decompress(packed, CHUNK)
            except zlib.error:
                raise refused("UNKNOWN_FORMAT", "The gzip file is damaged.") from None
            packed = member.unconsumed_tail or member.unused_data
            if chunk:
                if begin and chunk.startswith((GZIP, ZIP)):
                    raise _nested(None)
                begin = False
                yield unpacked.count(chunk)
            if not packed:
                packed = file.read(CHUNK)
        # Zeros may pad the end.
        packed = packed.lstrip(b"\0") or file.read(CHUNK).lstrip(b"\0")
        if not packed:
            return
    raise refused("UNKNOWN_FORMAT", "The gzip file has too many members.")


def _zip_members(file: BinaryIO, unpacked: Unpacked) -> Iterator[Member]:
    archive = _archive(file)
    infos = [
        one
        for one in archive.infolist()
        if not one.is_dir()
        and not one.filename.startswith("__MACOSX/")
        and not _base(one.filename).startswith(".")
    ]
    if not infos:
        raise refused("UNKNOWN_FORMAT", "The archive has no files.")
    if sum(one.file_size for one in infos) > MAX_UNPACKED:
        raise refused("LIMIT_REACHED", f"A file has at most {MAX_UNPACKED >> 20} MiB, unpacked.")
    for info in infos:
        if info.flag_bits & _ENCRYPTED:
            raise refused(
                "UNKNOWN_FORMAT", "The archive has a password: send it without.", 0, shown(info.filename)
            )
        yield Member(shown(info.filename), _reader(archive, info, unpacked))


def _reader(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, unpacked: Unpacked
) -> Callable[[], Iterator[bytes]]:
    def read() -> Iterator[bytes]:
        begin = True
        for chunk in read_member(archive, info, unpacked):
            if begin and chunk.startswith((GZIP, ZIP)):
                raise _nested(shown(info.filename))
            begin = False
            yield chunk

    return read


def _archive(file: BinaryIO) -> zipfile.ZipFile:
    file.seek(0)
    if _directory_bytes(file) > MAX_DIRECTORY:
        raise refused("LIMIT_REACHED", f"An archive has at most {MAX_MEMBERS:,} files.")
    try:
        archive = zipfile.ZipFile(file)
    except _DAMAGED:
        raise refused("UNKNOWN_FORMAT", "The zip file is damaged.") from None
    if len(archive.filelist) > MAX_MEMBERS:
        raise refused("LIMIT_REACHED", f"An archive has at most {MAX_MEMBERS:,} files.")
    return archive


def _directory_bytes(file: BinaryIO) -> int:
    """The size of a zip's directory as its end says it, which the library reads whole, into objects."""
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, size - _MAX_END))
    tail = file.read(_MAX_END)
    file.seek(0)
    at = tail.rfind(_EMPTY_ZIP)
    if at < 0 or at + 22 > len(tail):
        return 0
    if at >= 76 and tail[at - 20 : at - 16] == _ZIP64:
        return int.from_bytes(tail[at - 36 : at - 28], "little")
    return int.from_bytes(tail[at + 12 : at + 16], "little")


def _nested(name: str | None) -> Exception:
    return refused(
        "UNKNOWN_FORMAT",
        "An archive or spreadsheet inside of an archive is not opened: send it by itself.",
        0,
        name,
    )


def _base(name: str) -> str:
    return name.rpartition("/")[2]
