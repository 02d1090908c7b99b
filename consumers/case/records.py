"""What the case store keeps of an incident: one class for each kind of record, no contact in clear among them."""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from bridge.contracts.events import Coverage
from consumers.domain.duties import Movement
from consumers.domain.fallback import Fallback, fallback_of
from consumers.domain.segments import SegmentKey

Positions = Mapping[tuple[str, int], int]
"""Next Kafka offset to read, by (logical topic name, partition)."""


@dataclass(frozen=True, slots=True)
class IncidentRecord:
    """An incident. `scope` is canonical; None while `scope_unresolved` says what was not understood."""

    incident_id: str
    number: int
    year: int
    source: str
    fingerprint: str
    occurrence: int
    title: str
    scenario: str | None
    state: str
    revision: int
    scope: Mapping[str, Any] | None
    scope_sha256: str | None
    scope_unresolved: Mapping[str, Any] | None
    unsigned_source: bool
    exercise: bool
    repeat_count: int
    detected_at: datetime
    opened_at: datetime
    closed_at: datetime | None = None
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None
    epoch: int = 1
    scope_rewriting: Mapping[str, Any] | None = None
    """The scope as it was asked for and by which registry state it was rewritten; None: it was taken as it is."""


@dataclass(frozen=True, slots=True)
class AlertRecord:
    """An alert as it arrived, bytes and all."""

    alert_id: str
    incident_id: str
    source: str
    received_at: datetime
    signed: bool
    readable: bool
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProposalRecord:
    """Another scope for an open incident, as a repeated alert named it. Nobody acts on it before a person accepts."""

    proposal_id: str
    incident_id: str
    scope: Mapping[str, Any]
    proposed_at: datetime
    decided_at: datetime | None = None
    decided_by: str | None = None
    accepted: bool | None = None


@dataclass(frozen=True, slots=True)
class FactRecord:
    """One recorded fact. Corrections are new records: the newest of a name holds, the others are its history."""

    incident_id: str
    name: str
    value: Any
    recorded_at: datetime
    recorded_by: str | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class CircuitOrder:
    """What a person wants of a provider: `open` sends nothing there until `closed` lets it learn by itself again."""

    provider: str
    wanted: str
    ordered_at: datetime
    ordered_by: str


@dataclass(frozen=True, slots=True)
class OverrideRecord:
    """A named person lets a release go although pre-flight objects. Why stands among the acts."""

    release_id: str
    code: str
    overridden_by: str
    role: str
    overridden_at: datetime


def page_id_of(incident_id: str, kind: str, mark: str) -> str:
    """Return the id of the page about `mark`: raised twice it is one page."""
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{incident_id}/{kind}/{mark}").hex


@dataclass(frozen=True, slots=True)
class PageRecord:
    """Somebody must look: to whom, about what, and the command to type. Holds no personal data."""

    page_id: str
    incident_id: str | None
    kind: str
    severity: str
    roles: Sequence[str]
    title: str
    body: Mapping[str, Any]
    raised_at: datetime
    acknowledged_at: datetime | None = None
    acknowledged_by: str | None = None


@dataclass(frozen=True, slots=True)
class ActRecord:
    """What a named person did and why. `case_event_id` leads to its leaf; salt and reason open the leaf's hash."""

    case_event_id: str
    incident_id: str | None
    kind: str
    person: str
    role: str
    reason: str | None
    reason_salt: str | None
    occurred_at: datetime


@dataclass(frozen=True, slots=True)
class PlanRecord:
    """Planning's answer to one revision."""

    state: str
    rules_sha256: str | None
    residents: Mapping[str, int]
    recipient_count: int
    held_count: int
    partly_drawn: bool = False
    """Some of its people are as drawn up last, others as before."""


@dataclass(frozen=True, slots=True)
class PartitionsRecord:
    """How many partitions answered to a revision, what they said, and what planning holds of it."""

    answered: int
    partition_count: int | None
    affected_count: int
    possible_count: int
    persisted_count: int
    coverage: Sequence[Coverage]
    """Of all of them, merged."""
    excluded_count: int = 0
    """Of the possible ones, those whom somebody left out."""
    people_count: int | None = None
    """All data subjects that the index knows, concerned or not; None while a partition has not said."""
    late_count: int = 0
    """Accounts and orders that came after the answers, and are not in `affected_count`."""


@dataclass(frozen=True, slots=True)
class ExclusionRecord:
    """Somebody left out people who are only possibly affected: those who were known then, and none who are found later."""

    exclusion_id: str
    incident_id: str
    revision: int
    people_count: int
    coverage_sha256: str
    decided_at: datetime
    decided_by: str
    reason: str | None
    withdrawn_at: datetime | None = None
    withdrawn_by: str | None = None


@dataclass(frozen=True, slots=True)
class CrosscheckRecord:
    """What the store itself answered to a revision's scope, against the frozen answer. Holds counts, and of ids a hash."""

    crosscheck_id: str
    incident_id: str
    revision: int
    checked_at: datetime
    checked_by: str
    counts: Mapping[str, int]
    unexplained_count: int
    unexplained_sha256: str
    named_at: datetime | None = None
    named_by: str | None = None
    reason: str | None = None

    @property
    def blocks(self) -> bool:
        """Whether nothing may be approved before a person has named what is unexplained."""
        return self.unexplained_count > 0 and self.named_at is None


@dataclass(frozen=True, slots=True)
class PersonRecord:
    """One person of an incident in one round: 1 is the first notice, what follows are supplements. Holds no contact."""

    recipient_id: str
    root: str
    round: int
    supplements: str | None
    standing: str
    late: bool
    added_at: datetime | None
    highest_sensitivity: str
    disclosures: Sequence[str]
    controller: str
    jurisdictions: Sequence[str]
    held_reason: str | None
    begun: bool
    """Somebody has begun to tell them."""
    final_state: str | None
    deadline_at: datetime | None
    correction: str | None
    """`not_concerned` or `told_too_much`: was told what is not true of them by the scope in force."""
    told_in: str | None
    """The recipient id, of another incident, under which they were told the same."""
    why: Mapping[str, Any]
    concerned: bool
    """The scope in force is about them."""


@dataclass(frozen=True, slots=True)
class LateRecord:
    """What came late, was supplemented, or is to be put right, counted in people."""

    late: int = 0
    late_waiting: int = 0
    """Of `late` those whom nobody has begun to tell and nothing holds: they wait for an approval."""
    supplements: int = 0
    supplements_waiting: int = 0
    supplements_ended: int = 0
    used_of_cap: int = 0
    """Late additions and supplements that were begun: what counts against a release's cap."""
    not_concerned: int = 0
    told_too_much: int = 0
    told_in_other_incident: int = 0


@dataclass(frozen=True, slots=True)
class EverybodyRecord:
    """A named person's word that a scope which matches everybody, or nearly, is meant so."""

    incident_id: str
    scope_sha256: str
    affected_count: int
    people_count: int | None
    confirmed_at: datetime
    confirmed_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """An audience that shares one text and one order of channels."""

    segment_id: str
    name: str
    bundle_sha256: str | None
    channels: Sequence[str]
    count: int
    key: Mapping[str, Any] = field(default_factory=dict)
    """What all its people share, as planning wrote it (`domain.segments.SegmentKey`)."""
    lane: str = ""
    priority: int = 0
    sms_details: bool = False

    @property
    def fallback(self) -> Fallback:
        """The channel policy: `channels` in order, with what is begun together and how long each may take."""
        return fallback_of({**self.key, "channels": self.channels})


@dataclass(frozen=True, slots=True)
class AudienceRow:
    """People of an incident who are alike in all that a sheet counts. Holds numbers, nobody."""

    segment_id: str | None
    controller: str
    website_id: int
    store_id: int
    residence: Sequence[Mapping[str, Any]]
    """Their residence claims."""
    jurisdictions: Sequence[str]
    """Regimes whose notice to individuals they are owed."""
    standing: str
    late: bool
    held_reason: str | None
    final_state: str | None
    channels: Sequence[str]
    """Those that exist for them."""
    count: int
    earliest_deadline_at: datetime | None


@dataclass(frozen=True, slots=True)
class ObligationRecord:
    """One duty with both clocks."""

    controller: str
    regime_id: str
    status: str
    recipient: str
    deadline_at: datetime | None
    conservative_deadline_at: datetime | None
    detail: Mapping[str, Any] = field(default_factory=dict)
    """The law room's whole answer: citation, reasons, missing facts."""
    met: "MetRecord | None" = None
    all_told: bool = False
    """A notice to individuals, each of whom was reached, also by a substitute: nothing of it is left to do."""

    @property
    def met_at(self) -> datetime | None:
        """When it was met."""
        return None if self.met is None else self.met.met_at

    @property
    def watched_at(self) -> datetime | None:
        """The date to act by: the recorded one, or while there is none the conservative one."""
        return self.deadline_at or self.conservative_deadline_at


@dataclass(frozen=True, slots=True)
class MetRecord:
    """A duty that was met: when, who says so, the authority's number, what was submitted. Corrections withdraw a row."""

    duty_met_id: str
    incident_id: str
    controller: str
    regime_id: str
    met_at: datetime
    recorded_at: datetime
    recorded_by: str
    reference: str | None
    file_name: str | None
    file_sha256: str | None
    reason: str | None
    withdrawn_at: datetime | None = None
    withdrawn_by: str | None = None


@dataclass(frozen=True, slots=True)
class DossierRecord:
    """One version of what an authority is told. Content and PDF lie in the artefact store by their hashes."""

    dossier_id: str
    incident_id: str
    controller: str
    regime_id: str
    version: int
    phase: str
    statements: Mapping[str, str]
    missing_count: int
    content_sha256: str
    pdf_sha256: str
    made_at: datetime
    made_by: str
    submitted_at: datetime | None = None
    submitted_by: str | None = None
    reference: str | None = None


@dataclass(frozen=True, slots=True)
class MatchTestRecord:
    """What a file of leaked rows was found to be. Holds counts; of the file a salted hash, of its rows nothing."""

    match_test_id: str
    incident_id: str
    revision: int
    tested_at: datetime
    tested_by: str
    counts: Mapping[str, int]
    partition_count: int
    silent_count: int
    file_salt: str
    file_sha256: str


@dataclass(frozen=True, slots=True)
class DismissalRecord:
    """One person says that it is no incident; a second one says so too, or nobody does."""

    dismissal_id: str
    incident_id: str
    match_test_id: str | None
    """The test that matched nobody; None: there are no leaked rows to compare."""
    proposed_at: datetime
    proposed_by: str
    reason: str | None
    confirmed_at: datetime | None = None
    confirmed_by: str | None = None
    revision: int | None = None
    """Of the scope that it was proposed for; None: not known."""


@dataclass(frozen=True, slots=True)
class AssessmentRecord:
    """The risk to people as somebody confirmed it: every factor of the method, and what it was changed to."""

    assessment_id: str
    incident_id: str
    assessed_at: datetime
    assessed_by: str
    factors: Sequence[Mapping[str, Any]]
    severity_hundredths: int
    proposed_risk: str
    risk: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class AdoptionRecord:
    """Counsel of this installation stands behind one version of a rule, as it read then."""

    regime_id: str
    version: int
    version_sha256: str
    adopted_at: datetime
    adopted_by: str
    reason: str | None


@dataclass(frozen=True, slots=True)
class MovementRecord:
    """That a duty's answer moved."""

    moved_at: datetime
    movement: Movement


@dataclass(frozen=True, slots=True)
class ReleaseRecord:
    """A release policy and how far it is."""

    release_id: str
    incident_id: str
    revision: int
    policy: Mapping[str, Any]
    policy_sha256: str
    mode: str
    state: str
    late_cap: int
    prepared_by: str
    prepared_role: str
    prepared_at: datetime
    released_at: datetime | None = None
    finished_at: datetime | None = None
    stopped_at: datetime | None = None
    """Since when it is paused or cancelled."""
    canary_state: str | None = None
    """As of `domain.canary.CanaryState`; None: its policy has no canary."""
    started_epoch: int | None = None
    """The incident's epoch as it was approved: what came first is told by this, not by the clocks of two machines."""
    stopped_epoch: int | None = None
    """The incident's epoch as it was cancelled or void."""
    start_number: int | None = None
    """The how manieth of its incident's releases to begin; None: it has not begun."""


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One person's approval, under one role, of one policy."""

    release_id: str
    person: str
    role: str
    policy_sha256: str
    approved_at: datetime
    reason: str | None
    sheet_sha256: str | None = None
    """The sheet that this person saw; None: they named the policy."""


_NAMED_AT_ONCE = 12


@dataclass(frozen=True, slots=True)
class GateRecord:
    """What keeps those whom it covers from being told yet."""

    gate_id: str
    incident_id: str
    kind: str
    covers: Sequence[str]
    set_at: datetime
    set_by: str
    reason: str | None
    lifted_at: datetime | None = None
    lifted_by: str | None = None
    controller: str | None = None
    """Whose people it covers; None: everybody's."""
    regime_id: str | None = None
    """The duty that it follows from; None: a person set it."""
    segments: Sequence[str] | None = None
    people: Sequence[str] | None = field(default=None, repr=False)
    """Roots of single persons whom it covers besides."""
    until_at: datetime | None = None
    """Until when it was asked for. It ends when somebody lifts it."""

    @property
    def whom(self) -> str:
        """Say whom it covers, and nobody by name."""
        few = [*self.covers[:_NAMED_AT_ONCE], *(["more"] if len(self.covers) > _NAMED_AT_ONCE else [])]
        few += [f"segment {each}" for each in self.segments or ()]
        return ", ".join([*few, *(["people named one by one"] if self.people else [])])


@dataclass(frozen=True, slots=True)
class TriedOnce:
    """One attempt of somebody who was not reached."""

    channel: str
    state: str
    hard_bounce: bool


@dataclass(frozen=True, slots=True)
class FailedPerson:
    """Somebody whom no channel reached. Holds no contact."""

    recipient_id: str
    segment_id: str | None
    channels: Sequence[str]
    has_contact: bool
    tried: Sequence[TriedOnce]
    """In order."""


@dataclass(frozen=True, slots=True)
class Retry:
    """One more attempt of somebody, by a channel that was tried before, with the text approved now."""

    recipient_id: str
    channel: str
    bundle_sha256: str


@dataclass(frozen=True, slots=True)
class FoundAttempt:
    """One attempt to tell a person, with its receipts: kind, sub-type, when."""

    attempt_id: str
    number: int
    channel: str
    provider: str
    state: str
    state_at: datetime
    handed_over_at: datetime | None
    receipts: Sequence[tuple[str, str | None, datetime]]


@dataclass(frozen=True, slots=True)
class FoundRecord:
    """One notice owed to a person, and all that was tried. Holds no contact."""

    incident_id: str
    root: str
    round: int
    segment_id: str | None
    subject_commitment: str
    final_state: str | None
    final_at: datetime | None
    held_reason: str | None
    told_in: str | None
    deadline_at: datetime | None
    attempts: Sequence[FoundAttempt]


@dataclass(frozen=True, slots=True)
class BouncedRecord:
    """A channel that leads to somebody no more."""

    incident_id: str
    root: str
    customer_id: int | None
    channel: str
    kind: str
    sub_type: str | None
    bounced_at: datetime
    contact: Mapping[str, Any] | None = field(default=None, repr=False)
    """Sealed; None once their incident is closed."""


class WaitingBeside(NamedTuple):
    """Messages of other incidents that wait for a lane, due at one moment (None: none is owed)."""

    deadline_at: datetime | None
    messages: int
    incident_id: str = ""
    """Of one that goes at a rate of its own; all others are counted together."""
    per_second: float | None = None
    """That rate."""


@dataclass(frozen=True, slots=True)
class WronglyTold:
    """Somebody who was told what is not true of them. Holds no contact."""

    recipient_id: str
    correction: str
    """not_concerned, told_too_much."""
    homes: tuple[str, ...]
    disclosures: tuple[str, ...]
    """What is true of them; empty for somebody who is not concerned."""
    first_key: Mapping[str, Any]
    """The key of the segment that they were told by."""
    lane: str
    priority: int


@dataclass(frozen=True, slots=True)
class PlannedCorrection:
    """What one of them gets: the segment's key, and why it is held, if it is."""

    person: WronglyTold
    key: SegmentKey
    held_reason: str | None


@dataclass(frozen=True, slots=True)
class PublicationRecord:
    """One publication as the case store keeps it."""

    publication_id: str
    incident_id: str
    controller: str
    medium: str
    covers: Sequence[str]
    needs: Mapping[str, Sequence[str]]
    url: str
    file_sha256: str
    text_sha256: str
    as_written: bool
    bundle_sha256: str
    locale: str
    starts_at: datetime
    ends_at: datetime
    recorded_by: str
    recorded_role: str
    recorded_at: datetime
    withdrawn_at: datetime | None = None
    withdrawn_by: str | None = None
