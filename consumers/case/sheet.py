"""The sheet: everything that two people must see before they approve a release, in one content with one hash.

The content is canonical JSON, kept in the artefact store by its hash; an approval names the hash, the content is built
anew inside the approval's transaction, and whatever differs is named and refused. Late additions are not part of it: the
release policy's cap is what an approval says about them. What passes by itself (hours left) is worked out for the page and
not bound. Not for how the page looks (`consumers.adapters.sheet_page`).
"""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Protocol

import rfc8785

from bridge.contracts.errors import BadInput, Refused, TocsinError
from bridge.contracts.events import Channel, Residence
from consumers.case.adoption import adopted
from consumers.case.channel_preflight import (
    ChannelReadiness,
    ProviderStanding,
    Sending,
    channel_findings,
    sending_of,
)
from consumers.case.events import written
from consumers.case.preflight import DoubtfulMedium, Finding, Readiness, findings, in_order
from consumers.case.records import AudienceRow, GateRecord, IncidentRecord, ReleaseRecord, SegmentRecord
from consumers.case.releasing import waiting_release
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found, known_facts
from consumers.domain.canary import canary_of
from consumers.domain.delivery import what_next
from consumers.domain.duties import Law
from consumers.domain.fallback import Fallback
from consumers.domain.gates import Gate, gate_for
from consumers.domain.jurisdictions import UNKNOWN_RESIDENCE
from consumers.domain.notice_rules import NoticeRule
from consumers.domain.persons import homes_of
from consumers.domain.third_parties import ThirdParty, concerned

FORMAT = "tocsin-sheet-v1"
_NAMED_AT_ONCE = 8
_KEYS = ("segment_id", "code", "reason", "gate_id", "channel", "says", "model")
"""Members of lists are told apart by the first of these that they have."""


_MEDIA = {
    Channel.EMAIL: "email",
    Channel.SMS: "sms",
    Channel.ACCOUNT_NOTICE: "account_notice",
    Channel.LETTER: "written_letter",
}
"""Our channels as the law's media."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A sample in one medium, slots filled for a made-up person. `html` is a whole document of its own, or None."""

    medium: str
    title: str
    text: str
    html: str | None = None
    remark: str = ""

    @property
    def sha256(self) -> str:
        """SHA-256, in hex, over all of it."""
        return hashlib.sha256(rfc8785.dumps([self.medium, self.title, self.text, self.html or ""])).hexdigest()


@dataclass(frozen=True, slots=True)
class Sample:
    """What a segment's people would get, by medium. `sms_parts` is what one SMS of it is billed as."""

    media: tuple[Rendered, ...]
    sms_parts: int


@dataclass(frozen=True, slots=True)
class TextApproval:
    """Counsel's approval of a text: until when, and for which jurisdictions."""

    valid_until: datetime
    jurisdictions: tuple[str, ...]


class NoticeSamples(Protocol):
    """Renders notices for people who look at them."""

    def sample(self, key: Mapping[str, Any], *, exercise: bool = False) -> Sample:
        """Return the sample of a segment's approved text, marked if of an exercise.

        Raises TocsinError that says why there is none.
        """
        ...

    def approval(self, bundle_sha256: str, at: datetime) -> TextApproval | None:
        """Return the approval of a bundle that is in force at `at`, or None."""
        ...


class Artefacts(Protocol):
    """Where sheets are kept by hash."""

    def put(self, content: bytes) -> str: ...
    def get(self, sha256: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Means:
    """What delivery can do and costs. Rates per second, prices in `currency`; None: nobody has said."""

    delivery_mode: str
    provider_region: str
    storage_region: str | None
    email_per_second: float
    sms_per_second: float
    email_price_per_thousand: float | None
    sms_price_per_part: float | None
    currency: str
    from_address: str = ""
    """Where mails come from whose segment names no address of its own."""
    may_not_send: Mapping[str, str] = field(default_factory=dict)
    """Addresses from which no mail may come, and why."""
    standing: ProviderStanding = field(default_factory=ProviderStanding)
    """What the providers say of themselves."""
    third_parties: Sequence[ThirdParty] = ()
    """Who is told of releases, beside people."""
    letters_per_second: float | None = None
    """How fast letters are written for the printer."""

    def within(self, own: Mapping[str, float]) -> "Means":
        """Return the same for an incident that has rates of its `own`, by channel."""
        return replace(
            self,
            email_per_second=min(self.email_per_second, own.get(Channel.EMAIL, self.email_per_second)),
            sms_per_second=min(self.sms_per_second, own.get(Channel.SMS, self.sms_per_second)),
        )


@dataclass(frozen=True, slots=True)
class Given:
    """An approval that is there already. `since` says what has changed since that person's sheet; None: they saw none."""

    person: str
    role: str
    since: Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet as it was made: `content` is what the hash binds, the rest is for the page."""

    content: Mapping[str, Any]
    sha256: str
    title: str
    samples: Mapping[str, Sample]
    """By segment."""
    late_count: int
    approvals: Sequence["Given"]
    made_at: datetime
    findings: Sequence[Finding]
    """What the content's pre-flight binds, with what passes by itself."""
    sending: Sending
    """How long sending takes now, fallbacks apart."""


@dataclass(frozen=True, slots=True)
class Preflight:
    """What a release would meet if it began now."""

    segments: Mapping[str, SegmentRecord]
    people: Sequence["_Audience"]
    """Late additions apart."""
    gates: Sequence[GateRecord]
    approvals: Mapping[str, TextApproval | None]
    rendered: Mapping[str, Sample | str]
    findings: Sequence[Finding]
    sending: Sending
    earliest_deadline_at: datetime | None
    own_rates: Mapping[str, float]
    """What somebody bounds this incident to, by channel, in messages a second."""

    def counts(self) -> dict[str, int]:
        """Return how many people: in all, by record, only possible, held, ended in an earlier release."""
        return _counted(self.people)

    def channels(self, means: Means) -> dict[str, Any]:
        """Return by which channel how many are told first, and how many later at most."""
        return _channels(self.people, means.within(self.own_rates))

    def without_channel(self) -> int:
        """Return how many people have no channel of their segment's policy."""
        return _firsts(self.people)["none"]

    def cost(self, means: Means) -> dict[str, Any]:
        """Return what sending costs; None: nobody has said a price."""
        return _cost(self.people, self.rendered, means)

    def blocking(self, overridden: Iterable[str] = ()) -> list[Finding]:
        """Return the findings that keep a release back, those apart that a named person has overridden."""
        allowed = set(overridden)
        return [each for each in self.findings if each.blocks and each.code not in allowed]


@dataclass(frozen=True, slots=True)
class _Audience:
    """A group of alike people with what follows for them."""

    row: AudienceRow
    homes: tuple[str, ...]
    policy: Fallback
    """The channels that exist for them, in their policy's order."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The channels of `policy`, in the order in which they are begun."""
        return self.policy.order

    @property
    def begun(self) -> tuple[Channel, ...]:
        """Those by which they are told first: several where a law asks for two."""
        return what_next((), self.policy, self.channels).channels

    @property
    def going(self) -> bool:
        return self.row.held_reason is None and self.row.final_state is None


def make_sheet(
    store: CaseStore, name: str, law: Law, samples: NoticeSamples, means: Means, artefacts: Artefacts, now: datetime
) -> Sheet:
    """Return the sheet of what waits for approval and keep its content by hash. `name`: an incident or a release.

    Raises Refused if nothing is prepared.
    """

    def work(case: CaseWork) -> Sheet:
        release = waiting_release(case, name)
        incident = found(case, release.incident_id)
        found_now = preflight_of(case, incident, law, samples, means, now)
        content = sheet_content(case, incident, release, found_now, means)
        shown = {
            each["segment_id"]: samples.sample(record.key, exercise=incident.exercise)
            for each in content["segments"]
            for record in case.segments(incident.incident_id, incident.revision)
            if record.segment_id == each["segment_id"] and each["sample"]
        }
        return Sheet(
            content=content,
            sha256=sheet_sha256(content),
            title=incident.title,
            samples=shown,
            late_count=case.late_count(incident.incident_id),
            approvals=[
                Given(each.person, each.role, _since(artefacts, each.sheet_sha256, content))
                for each in case.approvals(release.release_id)
            ],
            made_at=now,
            findings=found_now.findings,
            sending=found_now.sending,
        )

    sheet = store.look(work)
    # A crash before this leaves nothing; after it the content is there, whether or not anybody reads the page.
    artefacts.put(rfc8785.dumps(dict(sheet.content)))
    return sheet


def _since(artefacts: Artefacts, sha256: str | None, content: Mapping[str, Any]) -> Sequence[str] | None:
    if sha256 is None:
        return None
    return differences(seen_content(artefacts, sha256, content["incident"]["incident_id"]), content)


def sheet_sha256(content: Mapping[str, Any]) -> str:
    """Return SHA-256 over the canonical JSON (RFC 8785) of a content, in hex."""
    return hashlib.sha256(rfc8785.dumps(dict(content))).hexdigest()


def seen_content(artefacts: Artefacts, sha256: str, name: str) -> Mapping[str, Any]:
    """Return the content that a hash names. Raises BadInput if there is no such sheet of `name`, an incident or release."""
    try:
        content = json.loads(artefacts.get(sha256))
    except (Refused, BadInput, ValueError):
        content = None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise BadInput(
            f"--sheet {sha256[:80]}: no sheet has this hash; make one with `tocsin incident sheet {name} -o sheet.html` "
            "and take the hash that it shows"
        )
    return content


def refuse_if_other(seen: Mapping[str, Any], now_content: Mapping[str, Any], incident_id: str) -> None:
    """Raise Refused, naming what differs, unless both contents are the same."""
    changed = differences(seen, now_content)
    if changed:
        more = f"; and {len(changed) - _NAMED_AT_ONCE} more" if len(changed) > _NAMED_AT_ONCE else ""
        raise Refused(
            f"{incident_id}: since this sheet was made, {'; '.join(changed[:_NAMED_AT_ONCE])}{more}. Nothing was approved; "
            f"look again: `tocsin incident sheet {incident_id} -o sheet.html`"
        )


def differences(before: Any, after: Any, where: str = "") -> list[str]:
    """Return each value that differs between two contents as `path: old -> new`."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        return [
            each
            for key in sorted({*before, *after})
            for each in differences(before.get(key), after.get(key), f"{where}.{key}".lstrip("."))
        ]
    if _keyed(before) and _keyed(after):
        one, other = _by_key(before), _by_key(after)
        return [
            each
            for key in sorted({*one, *other})
            for each in _member(one.get(key), other.get(key), f"{where} {_called({**one, **other}[key])}")
        ]
    return [] if before == after else [f"{where}: {_short(before)} -> {_short(after)}"]


def _member(before: Any, after: Any, where: str) -> list[str]:
    if before is None:
        return [f"{where} is new"]
    if after is None:
        return [f"{where} is gone"]
    return differences(before, after, where)


def _keyed(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, Mapping) and _key(each) for each in value)


def _key(member: Mapping[str, Any]) -> str:
    return next((str(member[key]) for key in _KEYS if key in member), "")


def _by_key(members: Iterable[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {_key(member): member for member in members}


def _called(member: Mapping[str, Any]) -> str:
    return str(member.get("name") or _key(member))


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:59]}…"


# What stands on it


def preflight_of(
    case: CaseWork, incident: IncidentRecord, law: Law, samples: NoticeSamples, means: Means, now: datetime
) -> Preflight:
    """Return what a release of the incident would meet now, whether or not one is prepared."""
    segments = {each.segment_id: each for each in case.segments(incident.incident_id, incident.revision)}
    everybody = [_audience(row, segments) for row in case.audience(incident.incident_id)]
    frozen = [each for each in everybody if not each.row.late]
    gates = [each for each in case.gates(incident.incident_id) if each.lifted_at is None]
    approvals = {
        sha256: samples.approval(sha256, now)
        for sha256 in sorted({str(each.bundle_sha256) for each in segments.values() if each.bundle_sha256})
    }
    rendered = {segment_id: _sample(samples, each, exercise=incident.exercise) for segment_id, each in segments.items()}
    readiness = _readiness(case, incident, frozen, gates, law, means, approvals, segments)
    own_rates = case.lane_rates(incident.incident_id)
    channels = _channel_readiness(case, incident, frozen, segments, rendered, law, means, own_rates, now)
    deadlines = [at for each in frozen if each.going and (at := each.row.earliest_deadline_at) is not None]
    return Preflight(
        segments=segments,
        own_rates=own_rates,
        people=frozen,
        gates=gates,
        approvals=approvals,
        rendered=rendered,
        findings=in_order([*findings(readiness), *channel_findings(channels)]),
        sending=sending_of(channels),
        earliest_deadline_at=min(deadlines, default=None),
    )


def sheet_content(
    case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, seen: Preflight, means: Means
) -> dict[str, Any]:
    """Return all that an approval by sheet binds, as the case store has it at this moment."""
    partitions = case.partitions(incident.incident_id, incident.revision)
    frozen = seen.people
    return {
        "format": FORMAT,
        "incident": {
            "incident_id": incident.incident_id, "revision": incident.revision, "scenario": incident.scenario,
            "exercise": incident.exercise, "detected_at": written(incident.detected_at),
            "scope_sha256": incident.scope_sha256,
        },
        "release": {
            "release_id": release.release_id, "policy_sha256": release.policy_sha256, "mode": release.mode,
            "late_cap": release.late_cap, "prepared_by": release.prepared_by, "prepared_role": release.prepared_role,
            "rules_sha256": release.policy.get("rules_sha256"),
            **({"canary": release.policy["canary"]} if "canary" in release.policy else {}),
        },
        "people": {
            **seen.counts(),
            "accounts_and_orders": partitions.affected_count,
            "partitions_answered": partitions.answered, "partition_count": partitions.partition_count,
        },
        "coverage": [
            {
                "model": f"{each.model_id}/{each.attribute}",
                "recorded_since": None if each.recorded_since is None else written(each.recorded_since),
                "untagged": each.untagged_count,
            }
            for each in partitions.coverage
        ],
        "jurisdictions": _jurisdictions(frozen),
        "segments": [
            _segment(
                each,
                [one for one in frozen if one.row.segment_id == segment_id],
                seen.rendered[segment_id],
                seen.approvals,
            )
            for segment_id, each in sorted(
                seen.segments.items(), key=lambda item: (item[1].priority, item[1].name, item[0])
            )
        ],
        "channels": seen.channels(means),
        "cost": seen.cost(means),
        "held": _held(frozen),
        "gates": [
            {"gate_id": each.gate_id, "kind": each.kind, "covers": list(each.covers), "regime_id": each.regime_id}
            for each in seen.gates
        ],
        "earliest_deadline_at": None if seen.earliest_deadline_at is None else written(seen.earliest_deadline_at),
        "preflight": [each.bound() for each in seen.findings],
        "overrides": [
            {"code": each.code, "overridden_by": each.overridden_by, "role": each.role}
            for each in case.overrides(release.release_id)
        ],
    }  # fmt: skip


def segments_of(case: CaseWork, incident_id: str) -> list[dict[str, Any]]:
    """Return an incident's segments, most urgent first: counts of people, terms, why some are held, and the key."""
    incident = found(case, incident_id)
    segments = {each.segment_id: each for each in case.segments(incident_id, incident.revision)}
    everybody = [_audience(row, segments) for row in case.audience(incident_id)]
    rows = []
    for segment in sorted(segments.values(), key=lambda each: (each.priority, each.name, each.segment_id)):
        own = [each for each in everybody if each.row.segment_id == segment.segment_id]
        why: Counter[str] = Counter()
        for each in own:
            if each.row.held_reason is not None and each.row.final_state is None:
                why[each.row.held_reason] += each.row.count
        rows.append({**_segment(segment, own, "", {}), "why_held": dict(why), "key": segment.key})
    return rows


def _audience(row: AudienceRow, segments: Mapping[str, SegmentRecord]) -> _Audience:
    homes = homes_of([Residence.model_validate(claim) for claim in row.residence])
    segment = segments.get(row.segment_id or "")
    available = {Channel(name) for name in row.channels}
    policy = Fallback(()) if segment is None else segment.fallback.narrowed(available)
    return _Audience(row, homes, policy)


def _counted(groups: Sequence[_Audience]) -> dict[str, int]:
    """Return how many people: in all, by record, only possible, held, ended in an earlier release."""
    people: Counter[str] = Counter()
    for each in groups:
        people["people"] += each.row.count
        people[each.row.standing] += each.row.count
        people["ended_before"] += each.row.count if each.row.final_state else 0
        people["held"] += each.row.count if each.row.held_reason and not each.row.final_state else 0
    return {name: people[name] for name in ("people", "recorded", "possible", "held", "ended_before")}


def _jurisdictions(groups: Sequence[_Audience]) -> list[dict[str, Any]]:
    """Return the counts by home; who may live in two counts in both, who has none stands under `unknown`."""
    at_home: dict[str, list[_Audience]] = defaultdict(list)
    for each in groups:
        for home in each.homes or (UNKNOWN_RESIDENCE,):
            at_home[home].append(each)
    rows = []
    for code, own in at_home.items():
        dates = [at for each in own if (at := each.row.earliest_deadline_at) is not None]
        rows.append(
            {
                "code": code, **_counted(own),
                "notices_owed_under": sorted({name for each in own for name in each.row.jurisdictions}),
                "earliest_deadline_at": written(min(dates)) if dates else None,
            }
        )  # fmt: skip
    return sorted(rows, key=lambda row: (-row["people"], row["code"]))


def _sample(samples: NoticeSamples, segment: SegmentRecord, *, exercise: bool) -> Sample | str:
    if segment.bundle_sha256 is None:
        return "no approved text"
    try:
        return samples.sample(segment.key, exercise=exercise)
    except TocsinError as error:
        return str(error).splitlines()[0]


def _segment(
    segment: SegmentRecord,
    groups: Sequence[_Audience],
    sample: Sample | str,
    approvals: Mapping[str, TextApproval | None],
) -> dict[str, Any]:
    approval = approvals.get(segment.bundle_sha256 or "")
    firsts = _firsts(groups)
    return {
        "segment_id": segment.segment_id,
        "name": segment.name,
        **_counted(groups),
        "without_channel": firsts.pop("none", 0),
        "first_channel": dict(sorted(firsts.items())),
        "channels": list(segment.channels),
        "fallback": str(segment.fallback),
        "lane": segment.lane,
        "priority": segment.priority,
        "sms_details": segment.sms_details,
        "locale": segment.key.get("locale"),
        "bundle": segment.key.get("bundle"),
        "bundle_sha256": segment.bundle_sha256,
        "approved_until": None if approval is None else written(approval.valid_until),
        "approved_for": [] if approval is None else list(approval.jurisdictions),
        "disclosures": list(segment.key.get("disclosures", ())),
        "sample": {each.medium: each.sha256 for each in sample.media} if isinstance(sample, Sample) else {},
        "no_sample_because": sample if isinstance(sample, str) else None,
    }


def doubtful_media(
    told: Iterable[tuple[Iterable[str], Channel | None, int]], notices: Mapping[str, NoticeRule]
) -> list[DoubtfulMedium]:
    """Return which first channels a law does not simply allow. `told`: regimes whose notice is owed, first channel, count."""
    people: Counter[tuple[str, Channel]] = Counter()
    for regimes, first, count in told:
        if first is not None:
            people.update({(regime, first): count for regime in regimes if regime in notices})
    found: list[DoubtfulMedium] = []
    for (regime, first), count in sorted(people.items()):
        notice, medium = notices[regime], _MEDIA[first]
        rule = next((each for each in notice.media if each.medium == medium), None)
        if rule is not None and rule.allowed != "yes":
            found.append(DoubtfulMedium(count, first.value, regime, rule, notice.media_reference))
    return found


def _first(audience: _Audience) -> Channel | None:
    return audience.begun[0] if audience.begun else None


def _firsts(groups: Iterable[_Audience]) -> Counter[str]:
    """Return by which channel how many are told first, by each of two that are begun together; `none` are those for whom no
    channel exists.
    """
    counts: Counter[str] = Counter()
    for each in groups:
        if each.going:
            counts.update(dict.fromkeys([channel.value for channel in each.begun] or ["none"], each.row.count))
    return counts


def _channels(groups: Sequence[_Audience], means: Means) -> dict[str, Any]:
    firsts = _firsts(groups)
    later: Counter[str] = Counter()
    for each in groups:
        if each.going:
            later.update({channel.value: each.row.count for channel in each.channels if channel not in each.begun})
    rates = {Channel.EMAIL.value: means.email_per_second, Channel.SMS.value: means.sms_per_second}
    slowest = max((count / rates[name] for name, count in firsts.items() if name in rates), default=0.0)
    return {
        "first": {channel.value: firsts[channel.value] for channel in Channel},
        "later_at_most": {channel.value: later[channel.value] for channel in Channel},
        "without": firsts["none"],
        "seconds": int(-(-slowest // 1)),
    }


def _cost(
    groups: Sequence[_Audience], rendered: Mapping[str, Sample | str], means: Means
) -> dict[str, Any]:  # fmt: skip
    """Return what sending costs: by first channel, and at most, if every message failed but the last."""
    emails, parts, parts_at_most = 0, 0, 0
    for each in groups:
        sample = rendered.get(each.row.segment_id or "")
        if not each.going or not each.channels or not isinstance(sample, Sample):
            continue
        emails += each.row.count if Channel.EMAIL in each.channels else 0
        own = each.row.count * sample.sms_parts if Channel.SMS in each.channels else 0
        parts_at_most += own
        parts += own if Channel.SMS in each.begun else 0
    email_price, sms_price = means.email_price_per_thousand, means.sms_price_per_part
    return {
        "currency": means.currency,
        "emails": emails,
        "email": None if email_price is None else f"{emails * email_price / 1000:.2f}",
        "sms_parts": parts,
        "sms_parts_at_most": parts_at_most,
        "sms": None if sms_price is None else f"{parts * sms_price:.2f}",
        "sms_at_most": None if sms_price is None else f"{parts_at_most * sms_price:.2f}",
    }


def _held(groups: Sequence[_Audience]) -> list[dict[str, Any]]:
    by_reason: dict[str, list[_Audience]] = defaultdict(list)
    for each in groups:
        if each.row.held_reason is not None and each.row.final_state is None:
            by_reason[each.row.held_reason].append(each)
    rows = []
    for reason, own in sorted(by_reason.items()):
        dates = [at for each in own if (at := each.row.earliest_deadline_at) is not None]
        where = sorted({home for each in own for home in each.homes or (UNKNOWN_RESIDENCE,)})
        rows.append(
            {
                "reason": reason, "people": sum(each.row.count for each in own), "jurisdictions": where,
                "earliest_deadline_at": written(min(dates)) if dates else None,
            }
        )  # fmt: skip
    return rows


def _readiness(
    case: CaseWork,
    incident: IncidentRecord,
    groups: Sequence[_Audience],
    gates: Sequence[GateRecord],
    law: Law,
    means: Means,
    approvals: Mapping[str, TextApproval | None],
    segments: Mapping[str, SegmentRecord],
) -> Readiness:
    senders: Counter[str] = Counter()
    regions: Counter[str] = Counter()
    kept_back: Counter[str] = Counter()
    as_gates = [
        Gate(each.gate_id, each.kind, each.covers, each.controller, frozenset(each.segments or ())) for each in gates
    ]
    for each in groups:
        if not each.going:
            continue
        objection = law.regions.objection(each.homes, each.row.controller, means.provider_region, means.storage_region)
        if objection is not None:
            regions[objection] += each.row.count
        segment = segments.get(each.row.segment_id or "")
        sender = {} if segment is None else segment.key.get("sender") or {}
        no_mail = means.may_not_send.get(sender.get("from_address") or means.from_address)
        if no_mail is not None and Channel.EMAIL in each.channels:
            senders[no_mail] += each.row.count
        closed = gate_for(each.homes, as_gates, each.row.controller, segment_id=each.row.segment_id)
        if closed is not None:
            kept_back[closed.gate_id] += each.row.count
    return Readiness(
        incident=incident,
        facts=known_facts(case, incident),
        partitions=case.partitions(incident.incident_id, incident.revision),
        obligations=case.obligations(incident.incident_id),
        adopted=frozenset(adopted(law.rules, case.adoptions())),
        gates=[(each, kept_back[each.gate_id]) for each in gates],
        held={each["reason"]: each["people"] for each in _held(groups)},
        regions=dict(regions),
        without_channel=_firsts(groups)["none"],
        senders=dict(senders),
        media=doubtful_media(
            [(each.row.jurisdictions, _first(each), each.row.count) for each in groups if each.going], law.rules.notices
        ),
        expiring={sha256: None if each is None else each.valid_until for sha256, each in approvals.items()},
        delivery_mode=means.delivery_mode,
        third_parties=concerned(means.third_parties, incident.scope) if _tells_others(incident, means) else (),
        publications=Counter(
            each.medium for each in case.publications(incident.incident_id) if each.withdrawn_at is None
        ),
    )


def _tells_others(incident: IncidentRecord, means: Means) -> bool:
    """Say whether third parties hear of this incident: of an exercise only where the sandbox is all that hears."""
    return means.delivery_mode != "simulator" and (not incident.exercise or means.delivery_mode == "sandbox")


def _channel_readiness(
    case: CaseWork,
    incident: IncidentRecord,
    groups: Sequence[_Audience],
    segments: Mapping[str, SegmentRecord],
    rendered: Mapping[str, Sample | str],
    law: Law,
    means: Means,
    own_rates: Mapping[str, float],
    now: datetime,
) -> ChannelReadiness:
    first: Counter[Channel] = Counter()
    at_most: Counter[Channel] = Counter()
    lacking: Counter[Channel] = Counter()
    homes: Counter[str] = Counter()
    due: dict[Channel, Counter[datetime | None]] = {
        channel: Counter() for channel in (Channel.EMAIL, Channel.SMS, Channel.LETTER)
    }
    refused: dict[Channel, Counter[str]] = defaultdict(Counter)
    stays: Counter[Channel] = Counter()
    parts = 0
    for each in groups:
        if not each.going:
            continue
        count = each.row.count
        for channel in means.standing.second.keys() & set(each.channels):
            second = means.standing.second[channel]
            to_second = law.regions.objection_to_second(each.homes, each.row.controller, second.name, second.region)
            if to_second is not None:
                refused[channel][to_second] += count
                stays[channel] += count if channel in each.begun else 0
        first.update(dict.fromkeys(each.begun, count))
        for channel in due.keys() & set(each.begun):
            due[channel][each.row.earliest_deadline_at] += count
        at_most.update(dict.fromkeys(each.channels, count))
        segment = segments.get(each.row.segment_id or "")
        lacking.update(
            {
                channel: count
                for channel in (Channel.EMAIL, Channel.SMS)
                if segment is not None and channel.value in segment.channels and channel not in each.channels
            }
        )
        if Channel.SMS in each.channels:
            homes.update({home.partition("-")[0]: count for home in each.homes})
        sample = rendered.get(each.row.segment_id or "")
        if Channel.SMS in each.begun and isinstance(sample, Sample):
            parts += count * sample.sms_parts
    prepared = next((each for each in case.releases(incident.incident_id) if each.state == "prepared"), None)
    return ChannelReadiness(
        canary=None if prepared is None else canary_of(prepared.policy),
        prepared=prepared is not None,
        standing=means.standing,
        now=now,
        first=first,
        at_most=at_most,
        due=list(due[Channel.EMAIL].items()),
        texts_due=list(due[Channel.SMS].items()),
        letters_due=list(due[Channel.LETTER].items()),
        letters_per_second=means.letters_per_second,
        refused_by_second=refused,
        first_refused=stays,
        beside=case.waiting_beside(incident.incident_id, exercise=incident.exercise),
        per_second={Channel.EMAIL: means.email_per_second, Channel.SMS: means.sms_per_second},
        own_rates={Channel(channel): rate for channel, rate in own_rates.items()},
        incident_id=incident.incident_id,
        lacking=lacking,
        suppressed=case.suppressed_people(incident.incident_id, incident.revision, means.standing.suppressed),
        bounced=case.hard_bounced_people(incident.incident_id),
        sms_homes=homes,
        sms_parts=parts,
        part_price=means.sms_price_per_part,
        currency=means.currency,
    )
