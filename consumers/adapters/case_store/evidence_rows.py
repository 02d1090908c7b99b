"""What the case store alone knows about leaves: whose commitment it is, and which members a person stands for. SQL only."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from bridge.contracts.errors import BadInput
from bridge.contracts.events import CustomerAffected, PartitionResolved
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.findings import left_out
from consumers.adapters.case_store.tables import (
    act,
    affected,
    approval,
    attempt,
    dossier,
    erasure,
    incident,
    late_member,
    person_key,
    recipient,
    release,
    resolution,
)
from consumers.evidence.commitment import Opening, incident_key


@dataclass(frozen=True, slots=True)
class LoggedPerson:
    """One notice to one person as leaves name it. `opening` None once the person's key was erased."""

    incident_id: str
    commitment: str
    round: int
    opening: Opening | None
    roots: tuple[str, ...]
    bodies: Mapping[int, str]
    """SHA-256 of the final text of each attempt, by number."""


@dataclass(frozen=True, slots=True)
class LateMember:
    """A member of a late addition. `records` None: more was found of them since, only the leaf's hash is left."""

    number: int
    root: str
    leaf: str
    known: bool
    standing: str
    records: tuple[str, ...] | None


class EvidenceRows:
    """Reads what proofs and packages need. Changes nothing."""

    def __init__(self, database: CaseDatabase) -> None:
        self._database = database

    def revision(self, incident_id: str) -> int:
        """Return the incident's revision. Raises BadInput for an incident that nobody knows."""
        with self._database.read() as connection:
            found = connection.execute(
                sa.select(incident.c.revision).where(incident.c.incident_id == incident_id)
            ).scalar()
        if found is None:
            raise BadInput(f"no incident {incident_id[:100]!r}; `tocsin incident list` shows all")
        return int(found)

    def people(self, incident_id: str, root: str | None = None) -> Iterator[LoggedPerson]:
        """Yield everybody of an incident (or whom one account or order belongs to), by root and round."""
        bodies: dict[str, dict[int, str]] = {}
        with self._database.read() as connection:
            for row in connection.execute(
                sa.select(attempt.c.recipient_id, attempt.c.number, attempt.c.body_sha256).where(
                    (attempt.c.incident_id == incident_id) & attempt.c.body_sha256.is_not(None)
                )
            ):
                bodies.setdefault(row.recipient_id, {})[row.number] = row.body_sha256
            people = connection.execute(
                sa.select(
                    recipient.c.recipient_id, recipient.c.root, recipient.c.roots, recipient.c.round,
                    recipient.c.subject_commitment, person_key.c.key,
                )
                .outerjoin(person_key, person_key.c.root == recipient.c.root)
                .where(recipient.c.incident_id == incident_id)
                .order_by(recipient.c.root, recipient.c.round)
            ).all()  # fmt: skip
        for person in people:
            roots = tuple(sorted({person.root, *person.roots}))
            if root is not None and root not in roots:
                continue
            opening = None if person.key is None else Opening(incident_key(bytes(person.key), incident_id), person.root)
            yield LoggedPerson(
                incident_id,
                person.subject_commitment,
                person.round,
                opening,
                roots,
                bodies.get(person.recipient_id, {}),
            )

    def attempt(self, attempt_id: str) -> tuple[LoggedPerson, int] | None:
        """Return whose attempt it is and its number, or None for an attempt that nobody knows."""
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(
                    attempt.c.number, attempt.c.body_sha256, recipient.c.incident_id, recipient.c.root, recipient.c.roots,
                    recipient.c.round, recipient.c.subject_commitment, person_key.c.key,
                )
                .join(recipient, recipient.c.recipient_id == attempt.c.recipient_id)
                .outerjoin(person_key, person_key.c.root == recipient.c.root)
                .where(attempt.c.attempt_id == attempt_id)
            ).first()  # fmt: skip
        if row is None:
            return None
        opening = None if row.key is None else Opening(incident_key(bytes(row.key), row.incident_id), row.root)
        bodies = {} if row.body_sha256 is None else {row.number: row.body_sha256}
        person = LoggedPerson(row.incident_id, row.subject_commitment, row.round, opening, tuple(row.roots), bodies)
        return person, int(row.number)

    def erased_roots(self, incident_id: str | None = None) -> frozenset[str]:
        """Return the accounts and orders that were erased; of an incident, those that are nobody of it by name any more.

        Somebody erased may come back and be concerned anew.
        """
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(erasure.c.root, erasure.c.roots).where(erasure.c.carried_out_at.is_not(None))
            ).all()
        roots = {root for row in rows for root in (row.root, *row.roots)}
        if incident_id is not None and roots:
            roots -= {root for person in self.people(incident_id) for root in person.roots}
        return frozenset(roots)

    def resolutions(self, incident_id: str, revision: int) -> Sequence[PartitionResolved]:
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(resolution.c.event)
                .where((resolution.c.incident_id == incident_id) & (resolution.c.revision == revision))
                .order_by(resolution.c.partition)
            ).scalars()
            return [PartitionResolved.model_validate_json(text) for text in rows]

    def left_out(self, incident_id: str, revision: int) -> Mapping[str, str]:
        """Return by root the decision by which somebody only possibly affected was left out."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(affected.c.root, affected.c.exclusion_id).where(
                    (affected.c.incident_id == incident_id) & (affected.c.revision == revision) & left_out()
                )
            )
            return {row.root: row.exclusion_id for row in rows}

    def late_members(self, incident_id: str, revision: int) -> Sequence[LateMember]:
        """Return the members of all late additions, each addition in the order of its Merkle root."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(
                    late_member.c.number, late_member.c.root, late_member.c.member_leaf, late_member.c.known,
                    affected.c.event, affected.c.member_leaf.label("own_leaf"),
                )
                .outerjoin(
                    affected,
                    (affected.c.incident_id == late_member.c.incident_id)
                    & (affected.c.revision == late_member.c.revision)
                    & (affected.c.root == late_member.c.root),
                )
                .where((late_member.c.incident_id == incident_id) & (late_member.c.revision == revision))
            ).all()  # fmt: skip
        found = []
        for row in sorted(rows, key=lambda row: (row.number, row.root, row.member_leaf)):
            event = None if row.event in (None, "{}") else CustomerAffected.model_validate_json(row.event)
            records = None if event is None else () if event.why is None else event.why.record_ids
            found.append(
                LateMember(
                    row.number, row.root, row.member_leaf, bool(row.known),
                    "recorded" if event is None else event.standing, records,
                )
            )  # fmt: skip
        return found

    def dossiers(self, incident_id: str) -> Sequence[Mapping[str, Any]]:
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(
                    dossier.c.controller, dossier.c.regime_id, dossier.c.version, dossier.c.content_sha256,
                    dossier.c.pdf_sha256,
                )
                .where(dossier.c.incident_id == incident_id)
                .order_by(dossier.c.controller, dossier.c.regime_id, dossier.c.version)
            ).mappings()  # fmt: skip
            return [dict(row) for row in rows]

    def sheets(self, incident_id: str) -> Sequence[str]:
        """Return the hashes of the sheets that approvers saw."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(approval.c.sheet_sha256)
                .join(release, release.c.release_id == approval.c.release_id)
                .where((release.c.incident_id == incident_id) & approval.c.sheet_sha256.is_not(None))
                .distinct()
            )
            return sorted(rows.scalars())

    def reasons(self, incident_id: str) -> Sequence[Mapping[str, Any]]:
        """Return why people decided, with the salt that opens the hash in the leaf; not who they are."""
        with self._database.read() as connection:
            rows = connection.execute(
                sa.select(act.c.kind, act.c.role, act.c.occurred_at, act.c.reason, act.c.reason_salt)
                .where((act.c.incident_id == incident_id) & act.c.reason.is_not(None))
                .order_by(act.c.occurred_at)
            ).mappings()
            return [dict(row) | {"occurred_at": row["occurred_at"].isoformat()} for row in rows]
