"""Reports secrets that no key in VOLTWIRE_SECRET_KEY decrypts. Each attempt with one fails."""

import hashlib
from typing import Any, Final

REMEMBERED, REMEMBERED_WEIGHT = 1000, 150
"""Secrets that were reported, and the bytes of each, as measured; beyond that number all are reported again."""

_MARK: Final = 16


class UnreadableSecrets:
    """Logs each secret that cannot be decrypted, once in the life of this process."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._told: set[bytes] = set()

    def tell(self, key: str, what: str, **about: str) -> None:
        """Log what cannot be decrypted and the row that it belongs to, unless this key was reported."""
        # The key may be the secret as it is stored, which has any length.
        mark = hashlib.blake2b(key.encode(), digest_size=_MARK).digest()
        if mark in self._told:
            return
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told.add(mark)
        self._log.error(
            "secret_unreadable",
            what=what,
            **about,
            hint="None of the keys in VOLTWIRE_SECRET_KEY decrypts it. Add the key it was encrypted with at the end "
            "of the list; until then nothing is sent with it, and each attempt counts as failed.",
        )
