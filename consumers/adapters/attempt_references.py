"""Finds how the evidence log names a delivery attempt. Read from the case store, which alone links the two."""

import sqlalchemy as sa

from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.tables import attempt, recipient


class CaseAttemptReferences:
    """`AttemptReferences` on the case store's tables."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def reference_of(self, attempt_id: str) -> tuple[str, str, int] | None:
        """Return (incident id, commitment to the person, attempt number), or None for an unknown attempt."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(recipient.c.incident_id, recipient.c.subject_commitment, attempt.c.number)
                .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                .where(attempt.c.attempt_id == attempt_id)
            ).first()
        return None if row is None else (row.incident_id, row.subject_commitment, row.number)
