"""What planning reads, and what it writes: the words that the stage and the case store share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from bridge.contracts.events import CaseEvent, Coverage
from bridge.contracts.scope import Scope
from consumers.domain.duties import Exposure


@dataclass(frozen=True, slots=True)
class PlanId:
    """One revision of one incident."""

    incident_id: str
    revision: int


@dataclass(frozen=True, slots=True)
class OpenPlan:
    """An open incident's current revision, and what its plan rests on; when any of it moves the plan is looked at again."""

    plan_id: PlanId
    complete: bool
    affected_count: int
    recorded_count: int
    resolution_count: int
    last_fact_id: int
    late_count: int = 0
    """Everything that came late: people added, and more found of people already there."""
    excluded_count: int = 0
    """Of the possible ones, those whom somebody left out."""
    exercise: bool = False
    partly_drawn: bool = False
    """Somebody ended in the middle of drawing it up."""


@dataclass(frozen=True, slots=True)
class PlannedIncident:
    """What planning needs of an incident."""

    plan_id: PlanId
    scenario: str | None
    exercise: bool
    detected_at: datetime
    scope: Scope | None
    scope_sha256: str | None
    facts: Mapping[str, Any]
    """Newest recorded value by name."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One partition's record."""

    partition: int
    partition_count: int
    affected_count: int
    merkle_root: str
    scope_sha256: str
    coverage: tuple[Coverage, ...] = ()


@dataclass(frozen=True, slots=True)
class Known:
    """A recipient as the case store has it. `row` holds all its columns."""

    recipient_id: str
    roots: tuple[str, ...]
    fixed: bool
    """Somebody has begun to write to this person, or has ended it: the segment stays."""
    row: Mapping[str, Any] = field(repr=False)
    unsent: bool = False
    """Begun, but nothing has left the house or lies on the belt: the first attempt can still be withdrawn."""
    told: bool = False
    """A notice has, or may have, arrived."""


@dataclass(frozen=True, slots=True)
class Page:
    """Somebody must look. One page for each `about`, however often it is found."""

    kind: str
    about: str
    roles: tuple[str, ...]
    title: str
    body: Mapping[str, Any]
    severity: str = "critical"


@dataclass(frozen=True, slots=True)
class Before:
    """What the case store knows when a plan is drawn up."""

    incident: PlannedIncident
    complete: bool
    answers: Sequence[Answered]


@dataclass(frozen=True, slots=True)
class Standing:
    """What the case store knows of some people."""

    recipients: Sequence[Known] = ()
    added_at: Mapping[str, datetime] = field(default_factory=dict)
    """When the newest late record came, by root; whoever was there in time and stays the same is not in it."""


@dataclass(frozen=True, slots=True)
class PeopleChange:
    """What follows for some people, written in one transaction."""

    changed: Sequence[Mapping[str, Any]]
    """Recipient rows to insert or replace, without `subject_commitment`."""
    regrouped: Mapping[str, Sequence[str]]
    """More roots of people who stay as they are, by recipient id."""
    removed: Sequence[str]
    withdrawn: Sequence[str]
    """Recipients whose first attempt goes, unsent: a fuller notice takes its place."""
    corrections: Mapping[str, str | None]
    """What people who were told are owed a correction for, by recipient id, where it changed."""
    segments: Sequence[Mapping[str, Any]]
    """Those that they fall in, without `count`."""


@dataclass(frozen=True, slots=True)
class PlanChange:
    """What follows for the plan, written together with the last of its people."""

    plan_id: PlanId
    complete_before: bool
    rules_sha256: str
    residents: Mapping[str, int]
    recipient_count: int
    held_count: int
    segments: Sequence[Mapping[str, Any]]
    exposures: Sequence[Exposure]
    """Each controller's count; empty while nobody was found and coverage leaves open whether there is somebody."""
    events: Sequence[CaseEvent]
    pages: Sequence[Page]


class Written(StrEnum):
    """What came of writing a change."""

    DONE = "done"
    BEGUN = "begun"
    """Nothing was written: somebody has begun to write to one of these people since they were read."""
    MOVED = "moved"
    """Nothing was written: the incident has ended or has another scope, or another process has drawn the plan up."""
