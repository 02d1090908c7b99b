"""Holds whose time has come: somebody is paged, nobody is told before a named person lifts them. SQL only."""

import hashlib
from datetime import datetime

import sqlalchemy as sa

from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.tables import ENDED, gate, incident, page


def remind_of_holds(connection: sa.Connection, now: datetime) -> None:
    """Page once for each open hold that was asked for until an instant that has passed."""
    rows = connection.execute(
        sa.select(gate.c.gate_id, gate.c.incident_id, gate.c.kind, gate.c.until_at)
        .join(incident, incident.c.incident_id == gate.c.incident_id)
        .where(gate.c.lifted_at.is_(None) & (gate.c.until_at <= now) & incident.c.state.not_in(ENDED))
    ).all()
    upsert(
        connection,
        page,
        [
            {
                "page_id": hashlib.sha256(f"hold/{row.gate_id}/until".encode()).hexdigest(),
                "incident_id": row.incident_id,
                "kind": "gate.until_passed",
                "severity": "critical",
                "roles": ["dpo", "counsel"],
                "title": f"{row.incident_id}: a {row.kind.replace('_', ' ')} was asked for until now; it holds on until lifted",
                "body": {
                    "until": row.until_at.isoformat(),
                    "next": f"tocsin incident lift {row.incident_id} {row.gate_id} --reason TEXT",
                },
                "raised_at": now,
            }
            for row in rows
        ],
    )
