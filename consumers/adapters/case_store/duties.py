"""Rows of duties: what they rest on, how they stand, what moved, what was met; and of verification and adoption. SQL only."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from consumers.adapters.case_store.engine import upsert
from consumers.adapters.case_store.tables import (
    affected,
    all_told,
    assessment,
    dismissal,
    dossier,
    duty_ground,
    duty_met,
    duty_movement,
    exposure,
    incident,
    law_adoption,
    match_test,
    obligation,
    recipient,
    still_concerned,
)
from consumers.case.records import (
    AdoptionRecord,
    AssessmentRecord,
    DismissalRecord,
    DossierRecord,
    MatchTestRecord,
    MetRecord,
    MovementRecord,
    ObligationRecord,
)
from consumers.domain.duties import DutyRow, Exposure, Movement

_DUTY_FIELDS = tuple(each.name for each in fields(DutyRow))
_EXPOSURE_FIELDS = tuple(each.name for each in fields(Exposure))


class DutyTables:
    """Duties of incidents."""

    _connection: sa.Connection

    # what they rest on

    def exposures(self, incident_id: str) -> tuple[int, Sequence[Exposure]] | None:
        revision = self._connection.execute(
            sa.select(sa.func.max(exposure.c.revision)).where(exposure.c.incident_id == incident_id)
        ).scalar()
        if revision is None:
            return None
        return int(revision), self.exposures_of(incident_id, int(revision))

    def exposures_of(self, incident_id: str, revision: int) -> Sequence[Exposure]:
        """Return the exposures of one revision, by controller."""
        rows = self._connection.execute(
            sa.select(exposure)
            .where((exposure.c.incident_id == incident_id) & (exposure.c.revision == revision))
            .order_by(exposure.c.controller)
        ).mappings()
        return [_exposure(row) for row in rows]

    def write_exposures(self, incident_id: str, revision: int, exposures: Sequence[Exposure]) -> None:
        self._connection.execute(
            sa.delete(exposure).where((exposure.c.incident_id == incident_id) & (exposure.c.revision == revision))
        )
        rows = [{"incident_id": incident_id, "revision": revision, **_listed(asdict(each))} for each in exposures]
        if rows:
            self._connection.execute(sa.insert(exposure), rows)

    def duty_ground(self, incident_id: str) -> Mapping[str, str] | None:
        found: Mapping[str, str] | None = self._connection.execute(
            sa.select(duty_ground.c.ground).where(duty_ground.c.incident_id == incident_id)
        ).scalar()
        return found

    def set_duty_ground(self, incident_id: str, ground: Mapping[str, str], at: datetime) -> None:
        row = {"incident_id": incident_id, "ground": dict(ground), "computed_at": at}
        upsert(self._connection, duty_ground, [row], update=("ground", "computed_at"))

    # how they stand

    def duty_rows(self, incident_id: str) -> Sequence[DutyRow]:
        return [DutyRow(**{name: row[name] for name in _DUTY_FIELDS}) for row in self._newest(incident_id)]

    def _newest(self, incident_id: str) -> Sequence[Mapping[Any, Any]]:
        newest = sa.select(sa.func.max(obligation.c.revision)).where(obligation.c.incident_id == incident_id)
        return (
            self._connection.execute(
                sa.select(obligation)
                .where((obligation.c.incident_id == incident_id) & (obligation.c.revision == newest.scalar_subquery()))
                .order_by(
                    obligation.c.conservative_deadline_at.is_(None),
                    obligation.c.conservative_deadline_at,
                    obligation.c.regime_id,
                    obligation.c.controller,
                )
            )
            .mappings()
            .all()
        )

    def write_duties(self, incident_id: str, revision: int, rows: Sequence[DutyRow]) -> None:
        of_revision = (obligation.c.incident_id == incident_id) & (obligation.c.revision == revision)
        known = {
            (row["controller"], row["regime_id"]): DutyRow(**{name: row[name] for name in _DUTY_FIELDS})
            for row in self._connection.execute(sa.select(obligation).where(of_revision)).mappings()
        }
        named = {(each.controller, each.regime_id) for each in rows}
        for controller, regime_id in known.keys() - named:
            self._connection.execute(
                sa.delete(obligation).where(
                    of_revision & (obligation.c.controller == controller) & (obligation.c.regime_id == regime_id)
                )
            )
        upsert(
            self._connection,
            obligation,
            [
                {"incident_id": incident_id, "revision": revision, **asdict(each)}
                for each in rows
                if known.get((each.controller, each.regime_id)) != each
            ],
            update=("status", "recipient", "deadline_at", "conservative_deadline_at", "detail"),
        )

    def obligations(self, incident_id: str) -> Sequence[ObligationRecord]:
        met = {(each.controller, each.regime_id): each for each in self.met(incident_id) if each.withdrawn_at is None}
        rows = self._newest(incident_id)
        told = self._told(incident_id, rows)
        return [
            ObligationRecord(
                row["controller"], row["regime_id"], row["status"], row["recipient"], row["deadline_at"],
                row["conservative_deadline_at"], row["detail"], met.get((row["controller"], row["regime_id"])),
                row["recipient"] == "individual" and row["controller"] in told,
            )
            for row in rows
        ]  # fmt: skip

    def _told(self, incident_id: str, rows: Sequence[Mapping[Any, Any]]) -> Collection[str]:
        """Return the controllers all of whose people in the scope in force have been told."""
        in_force = sa.select(incident.c.revision).where(incident.c.incident_id == incident_id)
        revision = self._connection.execute(in_force).scalar()
        asked = {row["controller"] for row in rows if row["recipient"] == "individual" and row["revision"] == revision}
        return {each for each in asked if self._connection.execute(sa.select(all_told(incident_id, each))).scalar_one()}

    def add_movements(self, incident_id: str, movements: Sequence[Movement], at: datetime) -> None:
        if movements:
            self._connection.execute(
                sa.insert(duty_movement),
                [{"incident_id": incident_id, "moved_at": at, **asdict(each)} for each in movements],
            )

    def movements(self, incident_id: str) -> Sequence[MovementRecord]:
        rows = self._connection.execute(
            sa.select(duty_movement)
            .where(duty_movement.c.incident_id == incident_id)
            .order_by(duty_movement.c.movement_id)
        ).mappings()
        names = [each.name for each in fields(Movement)]
        return [MovementRecord(row["moved_at"], Movement(**{name: row[name] for name in names})) for row in rows]

    # what was done about them

    def met(self, incident_id: str) -> Sequence[MetRecord]:
        rows = self._connection.execute(
            sa.select(duty_met)
            .where(duty_met.c.incident_id == incident_id)
            .order_by(duty_met.c.recorded_at, duty_met.c.duty_met_id)
        ).mappings()
        return [MetRecord(**row) for row in rows]

    def add_met(self, record: MetRecord) -> None:
        self._connection.execute(sa.insert(duty_met).values(**asdict(record)))

    def withdraw_met(self, duty_met_id: str, *, by: str, at: datetime) -> None:
        self._connection.execute(
            sa.update(duty_met).where(duty_met.c.duty_met_id == duty_met_id).values(withdrawn_at=at, withdrawn_by=by)
        )

    # what authorities are told

    def dossiers(self, incident_id: str) -> Sequence[DossierRecord]:
        rows = self._connection.execute(
            sa.select(dossier)
            .where(dossier.c.incident_id == incident_id)
            .order_by(dossier.c.made_at, dossier.c.regime_id, dossier.c.version)
        ).mappings()
        return [DossierRecord(**row) for row in rows]

    def add_dossier(self, record: DossierRecord) -> None:
        self._connection.execute(sa.insert(dossier).values(**asdict(record)))

    def submit_dossier(self, dossier_id: str, *, by: str, at: datetime, reference: str | None) -> None:
        self._connection.execute(
            sa.update(dossier)
            .where(dossier.c.dossier_id == dossier_id)
            .values(submitted_at=at, submitted_by=by, reference=reference)
        )

    def record_count(self, incident_id: str) -> int:
        rows = self._connection.execution_options(yield_per=1000).execute(
            sa.select(recipient.c.why).where(
                (recipient.c.incident_id == incident_id) & recipient.c.supplements.is_(None) & still_concerned()
            )
        )
        return sum(len((why or {}).get("record_ids", ())) for why in rows.scalars())

    # verification, risk, adoption

    def add_match_test(self, record: MatchTestRecord) -> None:
        self._connection.execute(sa.insert(match_test).values(**asdict(record)))

    def match_tests(self, incident_id: str) -> Sequence[MatchTestRecord]:
        rows = self._connection.execute(
            sa.select(match_test)
            .where(match_test.c.incident_id == incident_id)
            .order_by(match_test.c.tested_at.desc(), match_test.c.match_test_id)
        ).mappings()
        return [MatchTestRecord(**row) for row in rows]

    def affected_roots(self, incident_id: str, revision: int) -> Sequence[str]:
        return list(
            self._connection.execute(
                sa.select(affected.c.root).where(
                    (affected.c.incident_id == incident_id) & (affected.c.revision == revision)
                )
            ).scalars()
        )

    def add_dismissal(self, record: DismissalRecord) -> None:
        self._connection.execute(sa.insert(dismissal).values(**asdict(record)))

    def dismissals(self, incident_id: str) -> Sequence[DismissalRecord]:
        rows = self._connection.execute(
            sa.select(dismissal)
            .where(dismissal.c.incident_id == incident_id)
            .order_by(dismissal.c.proposed_at.desc(), dismissal.c.dismissal_id)
        ).mappings()
        return [DismissalRecord(**row) for row in rows]

    def confirm_dismissal(self, dismissal_id: str, *, by: str, at: datetime) -> None:
        self._connection.execute(
            sa.update(dismissal)
            .where(dismissal.c.dismissal_id == dismissal_id)
            .values(confirmed_at=at, confirmed_by=by)
        )

    def add_assessment(self, record: AssessmentRecord) -> None:
        self._connection.execute(sa.insert(assessment).values(**asdict(record)))

    def assessments(self, incident_id: str) -> Sequence[AssessmentRecord]:
        rows = self._connection.execute(
            sa.select(assessment)
            .where(assessment.c.incident_id == incident_id)
            .order_by(assessment.c.assessed_at.desc(), assessment.c.assessment_id)
        ).mappings()
        return [AssessmentRecord(**row) for row in rows]

    def add_adoption(self, record: AdoptionRecord) -> None:
        self._connection.execute(sa.insert(law_adoption).values(**asdict(record)))

    def adoptions(self) -> Sequence[AdoptionRecord]:
        rows = self._connection.execute(
            sa.select(*(law_adoption.c[each.name] for each in fields(AdoptionRecord))).order_by(
                law_adoption.c.law_adoption_id
            )
        ).mappings()
        return [AdoptionRecord(**row) for row in rows]


def _exposure(row: Mapping[Any, Any]) -> Exposure:
    values = {name: row[name] for name in _EXPOSURE_FIELDS}
    return Exposure(**{**values, "elements": tuple(values["elements"]), "kinds": tuple(values["kinds"])})


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in row.items()}
