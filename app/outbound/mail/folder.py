"""Mail without a mail server: each mail is a file of VOLTWIRE_MAIL_DIR."""

import asyncio
import os
import re
import secrets
from email.message import EmailMessage
from pathlib import Path
from typing import Final

from app.outbound.attempt import Attempt, AttemptOutcome, AttemptTimer
from app.outbound.mail.dkim import Dkim
from app.outbound.mail.mime import file_bytes

_FILE_CHARACTERS: Final = re.compile(r"[^A-Za-z0-9@_.-]+")


class FolderMailer:
    """Writes each mail to a file `<message id>.eml`, whole or not at all. A mail sent again replaces its file."""

    def __init__(self, folder: Path, signer: Dkim | None = None) -> None:
        self._folder = folder
        self._signer = signer

    async def send(self, message: EmailMessage, envelope_from: str, recipient: str) -> Attempt:
        """Write the mail. An error of the disk is CONNECTION, which is tried again."""
        timer = AttemptTimer()
        name = _FILE_CHARACTERS.sub("_", str(message["Message-ID"]).strip("<>")).lstrip(".")[:200]
        content = await asyncio.to_thread(file_bytes, message, self._signer)
        try:
            await asyncio.to_thread(write_whole, self._folder / f"{name}.eml", content)
        except OSError as error:
            return timer.ended(AttemptOutcome.CONNECTION, f"The mail could not be written: {error.strerror}.")
        return timer.ended(AttemptOutcome.SUCCEEDED)

    async def aclose(self) -> None:
        """Nothing to release."""


def write_whole(path: Path, content: bytes) -> None:
    """Writes a file durably, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with draft.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
