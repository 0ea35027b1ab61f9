"""Persisted documents: clients send a document once and then only its hash; or the server runs a list of documents.

The first follows Apollo's protocol, `extensions.persistedQuery` with `version` 1 and `sha256Hash`. An unknown hash, as
after a restart, is answered by PersistedQueryNotFound: the client then sends hash and document together once.
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
from app.core.lru import WeightedLru
from app.graphql.failures import RequestErrors

# A longer document is executed, but not cached.
LONGEST: Final = 20_000

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
    """Documents by their hashes: the allowed ones, or else the last `size` that were executed, of `limit` bytes."""

    def __init__(self, allowed: Mapping[str, str] | None, size: int, limit: int) -> None:
        self._allowed = allowed
        self._learned: WeightedLru[str, str] = WeightedLru(size, limit)

    def text_of(self, query: str | None, document_hash: str | None) -> str:
        """The document of a request that has a document, its hash, or both. Raises RequestErrors."""
        if query is None:
            found = self._find(document_hash) if document_hash else None
            if found is None:
                # Clients compare this message as well as the code.
                raise RequestErrors.of(PersistedQueryNotFound("PersistedQueryNotFound"))
            return found
        if document_hash is not None and document_hash != hash_of(query):
            raise RequestErrors.of(
                BadUserInput("sha256Hash is not the hash of query: send the SHA-256 of this very document.")
            )
        return query

    def learn(self, query: str, document_hash: str | None) -> None:
        """Keeps a valid document by its hash."""
        if document_hash is None or self._allowed is not None or len(query) > LONGEST:
            return
        self._learned.put(document_hash, query, sys.getsizeof(query))

    def _find(self, document_hash: str) -> str | None:
        return (self._learned if self._allowed is None else self._allowed).get(document_hash)


def requested_hash(extensions: Mapping[str, Any]) -> str | None:
    """The document's hash in the extensions of a request. Raises RequestErrors."""
    persisted = extensions.get("persistedQuery")
    if persisted is None:
        return None
    version = persisted.get("version") if isinstance(persisted, dict) else None
    # True equals 1 in Python.
    if isinstance(version, bool) or version != 1:
        raise RequestErrors.of(
            BadUserInput('persistedQuery must be {"version": 1, "sha256Hash": …}; no other version is known.')
        )
    document_hash = persisted.get("sha256Hash")
    if not isinstance(document_hash, str) or not _HASH.fullmatch(document_hash):
        raise RequestErrors.of(
            BadUserInput("sha256Hash must be the document's SHA-256 in 64 lower-case hexadecimal digits.")
        )
    return document_hash
