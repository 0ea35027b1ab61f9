"""Persisted operations: a document is sent once and then named by its hash; or only the documents of a list run.

The first follows Apollo's protocol, `extensions.persistedQuery` with `version` 1 and `sha256Hash`. Who names a hash
that is not known here, as after a restart, is told PersistedQueryNotFound, and sends hash and document together once.
Source: apollographql.com/docs/apollo-server/performance/apq.
"""

import re
import sys
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import orjson

from app.core.errors import BadUserInput, PersistedQueryNotFound
from app.core.lru import Kept
from app.graphql.failures import RequestErrors

# A longer document is executed, but not kept.
KEPT_LENGTH: Final = 20_000

_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FORM: Final = "must be a JSON object of documents by the SHA-256 of each, in hexadecimal"


def hash_of(document: str) -> str:
    """The SHA-256 of a document's UTF-8, as Apollo's clients write it."""
    return sha256(document.encode("utf-8", "surrogatepass")).hexdigest()


def read_operations(path: Path) -> dict[str, str]:
    """The documents of an allow-list by their hashes. Raises ValueError."""
    try:
        found = orjson.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise ValueError(f"{_FORM}; {path} is not JSON: {error}") from None
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise ValueError(_FORM)
    for key, document in found.items():
        if key != hash_of(document):
            raise ValueError(f"{_FORM}; what stands at {key[:64]!r} has the hash {hash_of(document)}")
    return found


class PersistedDocuments:
    """The documents that clients may name by their hashes: those of the list, or the latest that were executed, which
    are `size` with `limit` bytes at most.
    """

    def __init__(self, operations: Mapping[str, str] | None, size: int, limit: int) -> None:
        self._operations = operations
        self._learned: Kept[str, str] = Kept(size, limit)

    def text_of(self, query: str | None, named: str | None) -> str:
        """The document that is meant by what was sent: a document, its hash, or both. Raises RequestErrors."""
        if query is None:
            found = self._found(named) if named else None
            if found is None:
                # Clients look for these very words as well as for the code.
                raise RequestErrors.of(PersistedQueryNotFound("PersistedQueryNotFound"))
            return found
        if named is not None and named != hash_of(query):
            raise RequestErrors.of(
                BadUserInput("sha256Hash is not the hash of query: send the SHA-256 of this very document.")
            )
        return query

    def learn(self, query: str, named: str | None) -> None:
        """Keep a document that was found to be valid, under its hash."""
        if named is None or self._operations is not None or len(query) > KEPT_LENGTH:
            return
        self._learned.put(named, query, sys.getsizeof(query))

    def _found(self, named: str) -> str | None:
        return (self._learned if self._operations is None else self._operations).get(named)


def named_document(extensions: Mapping[str, Any]) -> str | None:
    """The hash that a request's extensions name. Raises RequestErrors."""
    persisted = extensions.get("persistedQuery")
    if persisted is None:
        return None
    version = persisted.get("version") if isinstance(persisted, dict) else None
    # To Python true is 1.
    if isinstance(version, bool) or version != 1:
        raise RequestErrors.of(
            BadUserInput('persistedQuery must be {"version": 1, "sha256Hash": …}; no other version is known.')
        )
    named = persisted.get("sha256Hash")
    if not isinstance(named, str) or not _HASH.fullmatch(named):
        raise RequestErrors.of(
            BadUserInput("sha256Hash must be the document's SHA-256 in 64 lower-case hexadecimal digits.")
        )
    return named
