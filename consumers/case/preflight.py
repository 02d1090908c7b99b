"""Pre-flight: what is known today that keeps somebody from being told, or that somebody must decide before.

Pure: it looks at what was counted and names each finding with the command that mends it. Not for what a release may do
(`releasing`) nor for delivery's own readiness, which adds findings of its own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any

from bridge.contracts.scope import Scope
from consumers.case.events import written
from consumers.case.records import GateRecord, IncidentRecord, ObligationRecord, PartitionsRecord
from consumers.case.workflow import AWARENESS
from consumers.domain.coverage import gaps_in_words, is_complete
from consumers.domain.duties import OPEN
from consumers.domain.notice_rules import MediumRule
from consumers.domain.third_parties import ThirdParty

STOPS, DECIDE, NOTE = "stops", "decide", "note"
"""Some people are not told while it stands; a person should decide; good to know."""
_NAMED_AT_ONCE = 12
_WORDS = 12


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding. `says` holds counts and names of ours, no personal data; `next` is a command or empty."""

    level: str
    about: str
    says: str
    next: str = ""
    code: str = ""
    """By which somebody overrides it; empty: nobody needs to."""
    blocks: bool = False
    """No release goes while it stands, unless a named person overrides it."""
    live: str = ""
    """What passes by itself (hours left, money spent): shown, and not bound by an approval."""

    @property
    def name(self) -> str:
        """By which the evidence log knows it: the code, or in a word or two what it is about. Never refused there."""
        words = re.findall("[a-z0-9]+", (self.code or self.about).lower())[:_WORDS]
        return "-".join(words if words and words[0][0].isalpha() else ["finding", *words[1:]])

    def bound(self) -> dict[str, Any]:
        """Return what an approval binds."""
        kept = asdict(self)
        del kept["live"]
        # members of a sheet's lists are told apart by a `code` of their own, and several findings may share one
        kept["override"] = kept.pop("code")
        return kept


@dataclass(frozen=True, slots=True)
class DoubtfulMedium:
    """People who would be told first by a medium that a notice's law does not simply allow."""

    people: int
    medium: str
    regime_id: str
    rule: MediumRule
    reference: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """What pre-flight looks at: as counted for a release that would go out now. Counts are of people."""

    incident: IncidentRecord
    facts: Mapping[str, Any]
    partitions: PartitionsRecord
    obligations: Sequence[ObligationRecord]
    adopted: frozenset[tuple[str, int]]
    """Versions of rules that counsel has adopted."""
    gates: Sequence[tuple[GateRecord, int]]
    """Open gates, each with how many it keeps back."""
    held: Mapping[str, int]
    """Why people are held, and how many."""
    regions: Mapping[str, int]
    """Why notices may not pass the provider's region, for people whom planning does not hold for it."""
    without_channel: int
    senders: Mapping[str, int]
    """Why no mail may come from an address, and to how many it was to go."""
    expiring: Mapping[str, datetime | None]
    """Bundles by the end of their approval; None: not in force."""
    media: Sequence[DoubtfulMedium]
    delivery_mode: str
    third_parties: Sequence[ThirdParty] = ()
    """Who is told of the release beside people."""
    publications: Mapping[str, int] = field(default_factory=dict)
    """Public communications on record that nobody withdrew, by medium."""


def findings(seen: Readiness) -> list[Finding]:
    """Return every finding, those that stop somebody first."""
    return in_order(_findings(seen))


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """Return findings with those that stop somebody first."""
    order = {STOPS: 0, DECIDE: 1, NOTE: 2}
    return sorted(found, key=lambda each: (order[each.level], each.about, each.says))


def _findings(seen: Readiness) -> Iterable[Finding]:
    name = seen.incident.incident_id
    partitions = seen.partitions
    if partitions.partition_count is None or partitions.answered < partitions.partition_count:
        total = "?" if partitions.partition_count is None else partitions.partition_count
        yield Finding(STOPS, "partitions", f"{partitions.answered} of {total} partitions have answered",
                      "tocsin index status")  # fmt: skip
    yield from _coverage(seen)
    for reason, count in sorted(seen.held.items()):
        yield Finding(STOPS, "held", f"{people_in_words(count)} held: {reason}", f"tocsin notices segments {name}")
    for sha256, until in sorted(seen.expiring.items()):
        if until is None:
            yield Finding(STOPS, "approved texts", f"the approval of text {sha256[:12]} is not in force any more",
                          f"tocsin incident prepare {name}", code="text-not-approved", blocks=True)  # fmt: skip
        else:
            yield Finding(NOTE, "approved texts", f"text {sha256[:12]} is approved until {written(until)}")
    for reason, count in sorted(seen.regions.items()):
        yield Finding(STOPS, "regions", f"{people_in_words(count)} kept back: {reason}", "tocsin law check",
                      code="region-refused", blocks=True)  # fmt: skip
    for gate, count in seen.gates:
        yield _kept_back(name, gate, count)
    for objection, count in sorted(seen.senders.items()):
        yield Finding(STOPS, "sender", f"e-mails to {people_in_words(count)} wait: {objection}", "tocsin notices senders",
                      code="sender-unverified", blocks=True)  # fmt: skip
    yield from _beside(seen)
    if seen.without_channel:
        on_record = "" if seen.publications else ", of which none is on record"
        yield Finding(STOPS, "contacts", f"{people_in_words(seen.without_channel)} have no channel of their segment's policy (no "
                      f"usable contact): they end as unreachable, and public communication is due{on_record}",
                      f"tocsin incident obligations {name}")  # fmt: skip
    if not any(seen.facts.get(fact) for fact in AWARENESS):
        yield Finding(DECIDE, "awareness", "nobody has recorded awareness: the clocks run from the detection",
                      f"tocsin incident aware {name} --as controller_aware_at --at INSTANT --reason TEXT")  # fmt: skip
    yield from map(_doubtful, seen.media)
    yield from _unadopted(seen)
    if seen.delivery_mode != "live":
        yield Finding(
            NOTE, "delivery mode", f"delivery.mode is {seen.delivery_mode}: no notice leaves for a real person"
        )
    if seen.incident.exercise:
        yield Finding(NOTE, "exercise", "this incident is an exercise: no notice leaves for a real person")


def _beside(seen: Readiness) -> Iterable[Finding]:
    """Yield who else learns of it: partners and processors, and the public."""
    name = seen.incident.incident_id
    if seen.third_parties:
        named = ", ".join(f"{each.name} ({each.role})" for each in seen.third_parties[:_NAMED_AT_ONCE])
        more = len(seen.third_parties) - _NAMED_AT_ONCE
        also = f" and {more} more" if more > 0 else ""
        yield Finding(NOTE, "third parties", f"when the release begins {named}{also} are told of it, by ids and counts",
                      f"tocsin delivery third-parties {name}", code="third-parties")  # fmt: skip
    if seen.publications:
        media = ", ".join(
            f"{count} by {medium.replace('_', ' ')}" for medium, count in sorted(seen.publications.items())
        )
        says = f"public communications on record: {media}"
        yield Finding(NOTE, "publications", says, f"tocsin delivery publication list {name}", code="publications")


def _kept_back(name: str, gate: GateRecord, count: int) -> Finding:
    whose = f" of {gate.controller}" if gate.controller else ""
    until = f", until {gate.regime_id} is met" if gate.regime_id else ""
    # whoever is named one by one is counted nowhere
    waiting = "whoever it names waits" if gate.people and not count else f"{people_in_words(count)}{whose} wait"
    controller = f" --controller {gate.controller}" if gate.controller else ""
    command = f"duty {name} {gate.regime_id}{controller}" if gate.regime_id else f"lift {name} {gate.gate_id}"
    return Finding(
        STOPS,
        "holds",
        f"{waiting}: {gate.kind.replace('_', ' ')} for {gate.whom}{until}",
        f"tocsin incident {command} --reason TEXT",
    )


def _doubtful(seen: DoubtfulMedium) -> Finding:
    what = {
        "no": "does not name",
        "conditional": f"allows on a condition ({(seen.rule.condition or 'see its text').replace('_', ' ')})",
    }.get(seen.rule.allowed, "does not speak of, so that it serves beside a medium that it names")
    return Finding(
        DECIDE,
        "media",
        f"{people_in_words(seen.people)} would be told first by {seen.medium.replace('_', ' ')}, which {seen.regime_id} {what} "
        f"({seen.reference}; {seen.rule.confidence} confidence)",
        f"tocsin law explain {seen.regime_id}",
    )


def _coverage(seen: Readiness) -> Iterable[Finding]:
    coverage = list(seen.partitions.coverage)
    exposed_from = (
        None if seen.incident.scope is None else Scope.model_validate(seen.incident.scope).exposed_from
    )  # fmt: skip
    if is_complete(coverage, exposed_from):
        return
    gaps = [gap for each in coverage for gap in gaps_in_words(each, exposed_from)]
    if exposed_from is None:
        gaps.append("the scope does not say since when the data lay open")
    words = "; ".join(dict.fromkeys(gaps)) or "no partition says what it covers"
    yield Finding(DECIDE, "coverage", f"coverage is incomplete, so there may be more people: {words}",
                  f"tocsin incident show {seen.incident.incident_id}")  # fmt: skip


def _unadopted(seen: Readiness) -> Iterable[Finding]:
    rows = [each for each in seen.obligations if each.status in OPEN]
    strange = sorted(
        {
            each.regime_id
            for each in rows
            if (each.detail.get("regime_id"), each.detail.get("version")) not in seen.adopted
        }
    )
    if strange:
        more = f" and {len(strange) - _NAMED_AT_ONCE} more" if len(strange) > _NAMED_AT_ONCE else ""
        yield Finding(DECIDE, "law", f"{len(strange)} of {len({each.regime_id for each in rows})} open duties are not adopted "
                      f"by your counsel: {', '.join(strange[:_NAMED_AT_ONCE])}{more}", "tocsin law review")  # fmt: skip


def people_in_words(count: int) -> str:
    return f"{count:,} {'person' if count == 1 else 'people'}"
