"""Mails that were written as files, for when they are erased. A file is named `<mail's id>@<domain>.eml`."""

import asyncio
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path


class MailFiles:
    """The mails of a folder. `find()` goes through the folder, however full it is, and so runs in no transaction.

    `remove()` removes the files that were found, and `remove_late()` those of the same mails that came since.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._paths: dict[str, list[Path]] = defaultdict(list)
        self._removed: set[str] = set()

    @property
    def are_there(self) -> bool:
        """Whether mails are written as files at all."""
        return self._folder.is_dir()

    async def find(self) -> None:
        await asyncio.to_thread(self._find)

    async def remove(self, mail_ids: Collection[str]) -> None:
        self._removed.update(mail_ids)
        await asyncio.to_thread(self._remove, mail_ids)

    async def remove_late(self) -> None:
        """Remove mails that were written while the transaction that erased them went on."""
        if self._removed:
            await self.find()
            await asyncio.to_thread(self._remove, self._removed)

    def _find(self) -> None:
        self._paths.clear()
        if self.are_there:
            for path in self._folder.iterdir():
                self._paths[path.name.partition("@")[0]].append(path)

    def _remove(self, mail_ids: Collection[str]) -> None:
        for path in [path for one in self._paths.keys() & set(mail_ids) for path in self._paths[one]]:
            path.unlink(missing_ok=True)
