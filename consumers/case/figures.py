"""Counts over all open incidents, exercises left out, for whoever watches the metrics. Not for deciding anything."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CaseFigures:
    """How open incidents stand."""

    approvals_waiting: int = 0
    """Releases that are prepared and lack an approval."""
    approvals_oldest_seconds: float = 0.0
    """How long the oldest of them has waited."""
    recorded_people: int = 0
    """Accounts and orders affected by a record, as partitions answered."""
    possible_people: int = 0
    """Accounts and orders that hold a value of which nobody knows who wrote it."""
    coverage_incomplete: int = 0
    """Incidents that were answered, of which nobody can say that these are all."""
    untagged_writes: int = 0
    """Values written without a record, in the windows of these incidents."""
    partitions_missing: int = 0
    """Partitions that have not answered, of incidents that some have answered."""
