"""What leaves say of whom they are about, under the person's key for the incident."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import in_parts
from consumers.adapters.case_store.tables import person_key, recipient
from consumers.evidence.commitment import commit, incident_key, roots_text


def who_they_are(
    connection: sa.Connection, incident_id: str, recipient_ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return by recipient id the round, how many roots were merged into this person, and a commitment to which.

    By it whoever checks that nobody was left out knows which members of a resolution one person stands for.
    """
    found: dict[str, dict[str, Any]] = {}
    for some in in_parts(recipient_ids):
        for row in connection.execute(
            sa.select(recipient.c.recipient_id, recipient.c.roots, recipient.c.round, person_key.c.key)
            .outerjoin(person_key, person_key.c.root == recipient.c.root)
            .where(recipient.c.recipient_id.in_(some))
        ):
            said: dict[str, Any] = {"round": row.round, "root_count": len(row.roots)}
            if row.key is not None:
                said["roots_digest"] = commit(incident_key(row.key, incident_id), roots_text(row.roots))
            found[row.recipient_id] = said
    return found
