"""Mails that were written as files, for when they are erased. A file is named `<mail's id>@<domain>.eml`.

The files of a deleted customer's mails are noted durably before the deletion is committed, and removed after it. A
process that dies in between leaves the note, by which the worker's housekeeping removes the files.
"""

import asyncio
import time
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final

import orjson

from app.outbound.mail.folder import write_whole

FORGOTTEN_AFTER: Final = 3600.0
"""Seconds after which the note of a deletion that was not committed is of no use: no transaction takes so long."""

_NOTE: Final = ".erase-"


class MailFiles:
    """The mails of a folder. All but `note` may take long in a full folder, and so run in no transaction."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    @property
    def are_there(self) -> bool:
        """Whether mails are written as files at all."""
        return self._folder.is_dir()

    async def note(self, subject_id: str, mail_ids: Collection[str]) -> None:
        """Notes the mails that are to be removed once the deletion of their subject is committed."""
        await asyncio.to_thread(write_whole, self._path(subject_id), orjson.dumps(sorted(mail_ids)))

    async def remove(self, subject_id: str) -> None:
        """Removes the noted mails of a subject that is deleted, and the note."""
        await asyncio.to_thread(self._remove, self._path(subject_id))

    async def forget(self, subject_id: str) -> None:
        """Drops the note of a subject that was not deleted after all, unless its deletion may be under way."""
        await asyncio.to_thread(self._forget, self._path(subject_id))

    async def noted(self) -> Collection[str]:
        """The subjects that have notes."""
        return await asyncio.to_thread(
            lambda: [name.removeprefix(_NOTE) for name in self._names() if name.startswith(_NOTE)]
        )

    def _path(self, subject_id: str) -> Path:
        return self._folder / f"{_NOTE}{subject_id}"

    def _names(self) -> Iterator[str]:
        return (path.name for path in self._folder.iterdir()) if self.are_there else iter(())

    def _remove(self, note: Path) -> None:
        try:
            noted = frozenset(orjson.loads(note.read_bytes()))
        except FileNotFoundError:
            return
        for name in list(self._names()):
            if name.partition("@")[0] in noted:
                (self._folder / name).unlink(missing_ok=True)
        note.unlink(missing_ok=True)

    def _forget(self, note: Path) -> None:
        try:
            if time.time() - note.stat().st_mtime > FORGOTTEN_AFTER:
                note.unlink()
        except FileNotFoundError:
            pass
