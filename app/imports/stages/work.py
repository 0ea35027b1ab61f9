"""The work on one claimed import, as its stages share it."""

from dataclasses import dataclass, field
from typing import Any

from app.auth.actor import Actor, Scope
from app.db.database import Database
from app.db.rows import Update
from app.imports.leases import IMPORTS, Claim
from app.imports.models import FileImport
from app.imports.stats import ImportStats


@dataclass
class Work:
    """`progress` is written down once a second, with the renewal of the lease."""

    database: Database
    claim: Claim
    progress: float = field(default=0.0)
    stats: ImportStats = field(default_factory=ImportStats)

    @property
    def id(self) -> str:
        return self.claim.id

    @property
    def options(self) -> dict[str, Any]:
        return self.claim.row.options

    @property
    def actor(self) -> Actor:
        """Sees what the account sees."""
        return Actor(self.claim.account_id, frozenset({Scope.READ, Scope.WRITE}))


SAVE: Update[FileImport] = IMPORTS.updating(
    "profile",
    "status",
    "dry_run",
    "progress",
    "rows_read",
    "rows_refused",
    "readings_accepted",
    "readings_changed",
    "meter_count",
    "problems",
    "problem_count",
    "rounded_count",
    "detection",
    "starts_at",
    "ends_at",
    "error",
    "completed_at",
    "stage",
    "checked_place",
    "writes_meters",
    "queued_at",
    "leased_until",
    "tries",
)
"""Writes an import that its transaction has locked."""
