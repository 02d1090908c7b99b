"""Which notice bundles are approved: rows with their case events, each pair in one transaction."""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from bridge.contracts.errors import Refused
from bridge.contracts.events import CaseEvent, Scalar
from bridge.contracts.topics import CASE_EVENTS
from consumers.adapters.case_store import outbox
from consumers.adapters.case_store.engine import CaseDatabase, upsert
from consumers.adapters.case_store.incidents import SqlCaseWork
from consumers.adapters.case_store.tables import notice_bundle, release
from consumers.adapters.template_catalog import ApprovedRow
from consumers.case.workflow import VOIDABLE, found, void_releases

_ROOT = "notices"
"""Orders all events about bundles on one partition: they belong to no incident."""


class NoticeBundles:
    """The approvals."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def in_force(self, at: datetime) -> Sequence[ApprovedRow]:
        """Return approvals that are valid at `at` and not revoked, newest first."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(notice_bundle)
                .where(notice_bundle.c.revoked_at.is_(None) & (notice_bundle.c.valid_until > at))
                .order_by(notice_bundle.c.approved_at.desc(), notice_bundle.c.bundle_sha256)
            ).mappings()
            return tuple(_approved(row) for row in rows)

    def ever_approved(self, name: str) -> tuple[ApprovedRow, ...]:
        """Return every approval that a notice ever had, newest first; whether it is still in force is not asked."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(notice_bundle)
                .where(notice_bundle.c.name == name)
                .order_by(notice_bundle.c.approved_at.desc(), notice_bundle.c.bundle_sha256)
            ).mappings()
            return tuple(_approved(row) for row in rows)

    def approve(self, row: ApprovedRow, *, by: str, role: str, actor: str, reason: str | None) -> None:
        """Write an approval. The same bundle approved again takes the new terms, revoked or not."""

        def work(connection: sa.Connection) -> None:
            upsert(
                connection,
                notice_bundle,
                [
                    {
                        "bundle_sha256": row.bundle_sha256,
                        "name": row.name,
                        "jurisdictions": list(row.jurisdictions),
                        "approved_at": row.approved_at,
                        "approved_by": by,
                        "valid_until": row.valid_until,
                        "revoked_at": None,
                        "revoked_by": None,
                        "reason": reason,
                    }
                ],
                update=(
                    "jurisdictions", "approved_at", "approved_by", "valid_until", "revoked_at", "revoked_by", "reason",
                ),
            )  # fmt: skip
            body: dict[str, Scalar | list[str] | list[int]] = {
                "bundle_sha256": row.bundle_sha256,
                "jurisdictions": list(row.jurisdictions),
                "valid_until": _written(row.valid_until),
            }
            self._tell(connection, "notice.approved", body, role, actor, row.approved_at)

        self._database.writing(work)

    def revoke(self, bundle_sha256: str, *, by: str, role: str, actor: str, at: datetime, reason: str) -> Sequence[str]:
        """Revoke an approval; return the incidents whose release stopped by it. Raises Refused if there is none in force.

        Releases that would send the text become void in the same transaction: whoever nothing was sent to is planned
        anew, with a text that is still approved, or held. The epoch rises, so that nothing on the belt leaves any more.
        """

        def work(connection: sa.Connection) -> Sequence[str]:
            count = connection.execute(
                sa.update(notice_bundle)
                .where((notice_bundle.c.bundle_sha256 == bundle_sha256) & notice_bundle.c.revoked_at.is_(None))
                .values(revoked_at=at, revoked_by=by, reason=reason)
            ).rowcount
            if not count:
                raise Refused(f"bundle {bundle_sha256[:12]} is not approved; `tocsin notices list` shows which are")
            self._tell(connection, "notice.revoked", {"bundle_sha256": bundle_sha256}, role, actor, at)
            return stop_releases(connection, bundle_sha256, by, at)

        return self._database.writing(work)

    @staticmethod
    def _tell(
        connection: sa.Connection,
        kind: str,
        body: dict[str, Scalar | list[str] | list[int]],
        role: str,
        actor: str,
        at: datetime,
    ) -> None:
        event_id = hashlib.sha256(f"{kind}/{body['bundle_sha256']}/{actor}/{at.isoformat()}".encode()).hexdigest()[:32]
        event = CaseEvent(
            case_event_id=event_id, kind=kind, incident_id=None, actor=actor, role=role, occurred_at=at, body=body
        )
        outbox.append(connection, [outbox.Outgoing(CASE_EVENTS, _ROOT, _ROOT, event_id, event)], at)


def stop_releases(connection: sa.Connection, bundle_sha256: str, by: str, at: datetime) -> Sequence[str]:
    """Void what was prepared or runs with this text, within the caller's transaction; return the incidents."""
    case = SqlCaseWork(connection, at, locking=True)
    running = connection.execute(
        sa.select(release.c.incident_id, release.c.policy).where(release.c.state.in_(VOIDABLE))
    ).all()
    stopped = sorted({row.incident_id for row in running if bundle_sha256 in row.policy.get("bundles", ())})
    for incident_id in stopped:
        incident = found(case, incident_id)
        void_releases(case, incident_id, by=by, at=at)
        case.update_incident(incident_id, {"epoch": incident.epoch + 1})
    return stopped


def _approved(row: Mapping[Any, Any]) -> ApprovedRow:
    return ApprovedRow(
        row["bundle_sha256"], row["name"], tuple(row["jurisdictions"]), row["approved_at"], row["valid_until"]
    )


def _written(at: datetime) -> str:
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
