"""Secrets that no key in VOLTWIRE_SECRET_KEY decrypts: each attempt fails and says so, the operator is told once."""

from typing import Any, Final

REMEMBERED: Final = 10_000


class Unreadable:
    """Tells the operator of each secret that cannot be decrypted, once in the life of this process."""

    def __init__(self, log: Any) -> None:
        self._log = log
        self._told: set[str] = set()

    def tell(self, key: str, what: str, **about: str) -> None:
        """Log what cannot be decrypted and the row that it is about, unless this key was told of."""
        if key in self._told:
            return
        if len(self._told) >= REMEMBERED:
            self._told.clear()
        self._told.add(key)
        self._log.error(
            "secret_unreadable",
            what=what,
            **about,
            hint="None of the keys in VOLTWIRE_SECRET_KEY decrypts it. Add the key it was encrypted with at the end "
            "of the list; until then nothing is sent with it, and each attempt counts as failed.",
        )
