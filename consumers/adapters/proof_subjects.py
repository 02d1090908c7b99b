"""Tells who is behind the log's commitments to whoever may know it, and records that they looked."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bridge.contracts.errors import Refused
from bridge.runtime.clock import Clock
from consumers.adapters.case_store.evidence_rows import EvidenceRows, LoggedPerson
from consumers.case.acting import Actor, record_act
from consumers.case.permissions import Act
from consumers.case.store import CaseStore, CaseWork
from consumers.evidence.commands import Named


class CaseProofSubjects:
    """`ProofSubjects` on the case store's tables."""

    def __init__(
        self, rows: EvidenceRows, store: CaseStore, authenticated: Callable[[Path | None], Actor], clock: Clock
    ) -> None:
        self._rows = rows
        self._store = store
        self._authenticated = authenticated
        self._clock = clock

    def of_person(self, incident_id: str, root: str, token_file: Path | None) -> Sequence[Named]:
        """Return the notices to a person. Raises Refused or BadInput."""
        actor = self._allowed(token_file)
        self._rows.revision(incident_id)
        people = list(self._rows.people(incident_id, root))
        if not people:
            erased = root in self._rows.erased_roots()
            raise Refused(
                f"{root} was erased: nothing leads from them to an entry any more; proofs made before stay valid"
                if erased
                else f"{root[:100]!r} is nobody of {incident_id}; `tocsin incident people {incident_id} --list` shows all"
            )
        self._record(actor, people)
        return [_named(each) for each in people]

    def of_attempt(self, attempt_id: str, token_file: Path | None) -> tuple[Named, int] | None:
        """Return whose attempt it is and its number, or None. Raises Refused or BadInput."""
        actor = self._allowed(token_file)
        found = self._rows.attempt(attempt_id)
        if found is None:
            return None
        self._record(actor, [found[0]])
        return _named(found[0]), found[1]

    def _allowed(self, token_file: Path | None) -> Actor:
        actor = self._authenticated(token_file)
        actor.acting_for(Act.EXPORT_EVIDENCE)
        return actor

    def _record(self, actor: Actor, people: Sequence[LoggedPerson]) -> None:
        role, now = actor.acting_for(Act.EXPORT_EVIDENCE), self._clock.now()

        def work(case: CaseWork) -> None:
            incident = case.incident(people[0].incident_id)
            for commitment in sorted({each.commitment for each in people}):
                body = {"view": "evidence_proof", "subject_commitment": commitment}
                record_act(case, actor, role, "person.looked_at", body, at=now, incident=incident)

        self._store.change(work)


def _named(person: LoggedPerson) -> Named:
    return Named(person.incident_id, person.commitment, person.round, person.opening)
