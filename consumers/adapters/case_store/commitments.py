"""What leaves say of whom they are about, under the person's key for the incident."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.claims import person_keys
from consumers.adapters.case_store.packed import PackedRows
from consumers.adapters.case_store.tables import recipient
from consumers.evidence.commitment import commit, incident_key, roots_text

_PEOPLE = PackedRows(recipient, ("recipient_id", "root", "roots", "round"), by="recipient_id")


def who_they_are(
    connection: sa.Connection,
    incident_id: str,
    recipient_ids: Sequence[str],
    known: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, dict[str, Any]]:
    """Return by recipient id the round, how many roots were merged into this person, and a commitment to which.

    By it whoever checks that nobody was left out knows which members of a resolution one person stands for. `known`: all of
    them, as they were read and locked before, with their keys.
    """
    if known is None:
        people = list(_PEOPLE.of(connection, recipient_ids))
        keys = person_keys(connection, [root for _, root, _, _ in people])
    else:
        rows = [known[recipient_id] for recipient_id in recipient_ids]
        people = [[row["recipient_id"], row["root"], row["roots"], row["round"]] for row in rows]
        keys = {row["root"]: row["person_key"] for row in rows}
    found: dict[str, dict[str, Any]] = {}
    for recipient_id, root, roots_json, number in people:
        roots = json.loads(roots_json)
        said: dict[str, Any] = {"round": number, "root_count": len(roots)}
        key = keys.get(root)
        if key is not None:
            said["roots_digest"] = commit(incident_key(key, incident_id), roots_text(roots))
        found[recipient_id] = said
    return found
