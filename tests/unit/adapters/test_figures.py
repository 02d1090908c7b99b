"""Counts over open incidents: exercises and ended ones left out, coverage as every partition says it."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from bridge.contracts.events import Coverage, PartitionResolved
from bridge.runtime.clock import SetClock
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.engine import CaseDatabase, migrate
from consumers.adapters.case_store.figures import Figures
from consumers.case.figures import CaseFigures

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def _incident(number: int, **other: Any) -> dict[str, Any]:
    scope = {"exposed_from": (NOW - timedelta(days=2)).isoformat()}
    return {
        "incident_id": f"INC-2026-{number:04}", "number": number, "year": 2026, "source": "monitor", "fingerprint": "f",
        "fingerprint_sha256": "0" * 64, "occurrence": number, "title": "t", "state": "confirmed", "revision": 1,
        "unsigned_source": False, "exercise": False, "repeat_count": 0, "detected_at": NOW, "opened_at": NOW, "epoch": 1,
        "scope": scope, "closed_at": None, **other,
    }  # fmt: skip


def _answer(number: int, partition: int, *, untagged: int = 0) -> dict[str, Any]:
    incident_id = f"INC-2026-{number:04}"
    coverage = Coverage(
        model_id="m", attribute="a", recorded_since=NOW - timedelta(days=9), unwatched=(), untagged_count=untagged
    )
    event = PartitionResolved.model_construct(
        incident_id=incident_id, revision=1, partition=partition, partition_count=2, scope_sha256="0" * 64,
        position_topic="t", position_offset=1, affected_count=5, possible_count=2, merkle_root="0" * 64, artefact="a",
        artefact_sha256="0" * 64, coverage=(coverage,), code_version="1", retention="PT0S", duration_seconds=1.0,
        resolved_at=NOW,
    )  # fmt: skip
    return {
        "incident_id": incident_id, "revision": 1, "partition": partition, "partition_count": 2, "affected_count": 5,
        "possible_count": 2, "merkle_root": "0" * 64, "event": json.dumps(event.model_dump(mode="json")), "received_at": NOW,
    }  # fmt: skip


def test_only_open_real_incidents_count(tmp_path: Path) -> None:
    database = CaseDatabase(f"sqlite:///{tmp_path / 'case.db'}")
    migrate(database)
    figures = Figures(database, SetClock(NOW))
    assert figures.read() == CaseFigures()
    with database.write() as connection:
        connection.execute(
            sa.insert(tables.incident),
            [_incident(1), _incident(2), _incident(3, exercise=True), _incident(4, state="dismissed", closed_at=NOW)],
        )
        answers = [_answer(1, 0), _answer(1, 1), _answer(2, 0, untagged=4), _answer(3, 0, untagged=1), _answer(4, 0)]
        connection.execute(sa.insert(tables.resolution), answers)
        connection.execute(
            sa.insert(tables.release),
            [
                {
                    "release_id": f"r{number}", "incident_id": f"INC-2026-000{number}", "revision": 1, "policy": {},
                    "policy_sha256": "0" * 64, "mode": "two_approvers", "state": state, "late_cap": 0, "prepared_by": "p",
                    "prepared_role": "responder", "prepared_at": NOW - timedelta(hours=number),
                }
                for number, state in ((1, "prepared"), (2, "releasing"), (3, "prepared"))
            ],
        )  # fmt: skip
    seen = figures.read()
    assert (seen.approvals_waiting, seen.approvals_oldest_seconds) == (1, 3600)
    assert (seen.recorded_people, seen.possible_people, seen.partitions_missing) == (9, 6, 1)
    assert (seen.coverage_incomplete, seen.untagged_writes) == (1, 4)
    with database.write() as connection:
        connection.execute(sa.insert(tables.resolution), [_answer(2, 1, untagged=1)])
    assert (figures.read().untagged_writes, figures.read().partitions_missing) == (5, 0)
