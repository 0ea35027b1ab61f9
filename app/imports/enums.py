"""Enums of file imports that the tables and the API share."""

import enum


class ImportStatus(enum.Enum):
    """How an import stands."""

    RUNNING = "RUNNING"
    """It waits for a worker, or one works on it."""
    PREVIEW = "PREVIEW"
    """A dry run has ended: confirmFileImport writes it, within a day."""
    COMPLETED = "COMPLETED"
    """Its readings are written."""
    FAILED = "FAILED"
    """Nothing of it is written; error says why."""
    UNDONE = "UNDONE"
    """Its readings were taken back."""


class ImportProblemRule(enum.Enum):
    """The treatment of a file that has wrong rows."""

    REFUSE = "REFUSE"
    """Nothing is written if a row is wrong."""
    SKIP = "SKIP"
    """The good rows are written."""


class ImportStage(enum.Enum):
    """The work that is next."""

    READ = "READ"
    """Parse the file into days of meters."""
    CHECK = "CHECK"
    """Check each meter with all of its days."""
    WRITE = "WRITE"
    """Write the days."""
    FAIL = "FAIL"
    """Take back what was written of an import that fails."""
    UNDO = "UNDO"
    """Take back what a completed import wrote."""
