"""Steering what two people released, or are to: pause, resume, cancel, withdraw, try again where it failed, change a lane's rate.

Each writes its state, the incident's epoch, the act and the case event in one transaction. The meter reads the state before
each portion, and dispatch the epoch before each provider call, so that all workers obey within a tick; what a provider has
in hand already cannot be called back and is counted. Not for who may be told: gates are `workflow`'s.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import AttemptState, Channel
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body, case_event
from consumers.case.permissions import Act, Role
from consumers.case.records import FailedPerson, IncidentRecord, PageRecord, ReleaseRecord, Retry
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import ask_no_more, found, still_open
from consumers.domain.approvals import APPROVING_ROLES, Mode
from consumers.domain.canary import CanaryState
from consumers.domain.delivery import ARRIVED, PersonEnd

WITH_PROVIDERS = (AttemptState.INTENDED, AttemptState.UNKNOWN, AttemptState.HANDED_OVER)
"""A provider may have it; its receipt settles it, whatever is decided here."""


STOPPED = ("release.canary_held", "restore.paused")
"""Kinds of pages that ask whether what was stopped goes on."""
_SLOWEST = 0.001
"""Messages a second: slower ones the log would call none, and the end of a large incident would lie past all calendars."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far an incident's people are, when somebody steers. Counts are of people, but where it says messages."""

    told: int
    """With the end `reached`."""
    arrived: Mapping[str, int]
    """Messages that arrived, by channel."""
    with_providers: int
    """Messages that a provider has, or may have, without a final receipt."""
    ended_untold: int
    """Unreachable or substituted."""
    without_end: int
    """With or without a message on its way."""
    earliest_deadline_at: datetime | None
    """Of those without an end."""


@dataclass(frozen=True, slots=True)
class Steered:
    """What was done, or would be."""

    incident_id: str
    releases: Sequence[ReleaseRecord]
    standing: Standing
    voided: Sequence[str] = ()
    """Policies that waited for approval and cannot be approved any more."""
    canary_waived: bool = False


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What waits for no approval any more, or would not."""

    release: ReleaseRecord
    approved_by: Sequence[str]
    """Whose approval is void with it."""


def standing_of(case: CaseWork, incident: IncidentRecord) -> Standing:
    """Return how far the people of an incident are."""
    ends = dict(case.ends(incident.incident_id))
    arrived: dict[str, int] = Counter()
    with_providers = 0
    for (channel, state), count in case.attempt_counts(incident.incident_id).items():
        known = AttemptState(state)
        if known in ARRIVED:
            arrived[channel] += count
        elif known in WITH_PROVIDERS:
            with_providers += count
    ended = sum(count for end, count in ends.items() if end not in ("open", PersonEnd.REACHED))
    return Standing(
        told=ends.get(PersonEnd.REACHED, 0),
        arrived=dict(sorted(arrived.items())),
        with_providers=with_providers,
        ended_untold=ended,
        without_end=case.without_end_count(incident.incident_id),
        earliest_deadline_at=case.earliest_open_deadline(incident.incident_id),
    )


def pause(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, *, reason: str | None, dry_run: bool = False
) -> Steered:
    """Let nothing more leave until somebody resumes: no command is issued, those on the belt mail nobody.

    Raises Refused if nothing runs.
    """
    role = actor.acting_for(Act.PAUSE_RELEASE)
    why = needed(reason)

    def work(case: CaseWork) -> Steered:
        incident = still_open(case, incident_id)
        running = _in(case, incident, "releasing", verb="pause")
        standing = standing_of(case, incident)
        if not dry_run:
            pause_running(case, incident, running, standing, actor, role, now, reason=why)
        return Steered(incident_id, running, standing)

    return store.look(work) if dry_run else store.change(work)


def pause_running(
    case: CaseWork,
    incident: IncidentRecord,
    running: Sequence[ReleaseRecord],
    standing: Standing,
    actor: Actor,
    role: Role,
    now: datetime,
    *,
    reason: str,
) -> None:
    """Pause the releases of an incident that run, each with its act."""
    # before anything else: the epoch is what dispatch looks at
    case.update_incident(incident.incident_id, {"epoch": incident.epoch + 1})
    for each in running:
        case.update_release(each.release_id, {"state": "paused", "stopped_at": now})
        body: Body = {**named(each), **counts_of(standing)}
        record_act(case, actor, role, "release.paused", body, at=now, incident=incident, reason=reason)


def resume(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, *, reason: str | None, dry_run: bool = False
) -> Steered:
    """Let a paused release go on where it was. One that its canary held goes on by this person's word."""
    role = actor.acting_for(Act.STEER_RELEASE)
    why = needed(reason)

    def work(case: CaseWork) -> Steered:
        incident = still_open(case, incident_id)
        paused = _in(case, incident, "paused", verb="resume")
        waived = [each for each in paused if each.canary_state == CanaryState.HELD]
        standing = standing_of(case, incident)
        if not dry_run:
            for each in paused:
                changes = {"state": "releasing", "stopped_at": None}
                if each in waived:
                    changes["canary_state"] = CanaryState.WAIVED.value
                case.update_release(each.release_id, changes)
                body: Body = {**named(each), "canary_waived": each in waived}
                record_act(case, actor, role, "release.resumed", body, at=now, incident=incident, reason=why)
            case.end_pages(incident_id, STOPPED, by=actor.person_id, at=now)
        return Steered(incident_id, paused, standing, canary_waived=bool(waived))

    return store.look(work) if dry_run else store.change(work)


def cancel(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, *, reason: str | None, dry_run: bool = False
) -> Steered:
    """End what runs or is paused, for good; what waited for approval is void, too.

    It ends the release, not the duty: receipts of what has left still settle it, and whoever is not told stands without
    an end, under this reason, until another release tells them or a named person closes the incident over it.
    """
    role = actor.acting_for(Act.CANCEL_RELEASE)
    why = needed(reason)

    def work(case: CaseWork) -> Steered:
        incident = still_open(case, incident_id)
        going = _in(case, incident, "releasing", "paused", verb="cancel")
        prepared = [each for each in case.releases(incident_id) if each.state == "prepared"]
        standing = standing_of(case, incident)
        voided = [each.release_id for each in prepared]
        if dry_run:
            return Steered(incident_id, going, standing, voided)
        case.update_incident(incident_id, {"epoch": incident.epoch + 1})
        case.end_pages(incident_id, STOPPED, by=actor.person_id, at=now)
        for release_id in voided:
            case.update_release(release_id, {"state": "void"})
            ask_no_more(case, incident_id, release_id, by=actor.person_id, at=now)
        for each in going:
            ended = {"state": "cancelled", "stopped_at": now, "stopped_epoch": incident.epoch + 1}
            case.update_release(each.release_id, ended)
            body: Body = {**named(each), **counts_of(standing), "voided": len(voided)}
            record_act(case, actor, role, "release.cancelled", body, at=now, incident=incident, reason=why)
        if standing.without_end:
            case.raise_page(_people_left(incident, going[0], standing, now))
        return Steered(incident_id, going, standing, voided)

    return store.look(work) if dry_run else store.change(work)


def withdraw(
    store: CaseStore, incident_id: str, actor: Actor, now: datetime, *, reason: str | None, dry_run: bool = False
) -> Withdrawn:
    """Take back what waits for approval, with the approvals that it has so far: they are of that release and count for no
    other, not even for the same policy prepared again. What runs goes on. Raises Refused if nothing waits.
    """
    role = actor.acting_for(Act.PREPARE)
    why = needed(reason)

    def work(case: CaseWork) -> Withdrawn:
        # the incident's row is the lock: what an approval has started in this moment does not wait any more
        incident = still_open(case, incident_id)
        (waiting,) = _in(case, incident, "prepared", verb="withdraw")
        approved_by = [each.person for each in case.approvals(waiting.release_id)]
        if not dry_run:
            case.update_release(waiting.release_id, {"state": "withdrawn", "stopped_at": now})
            ask_no_more(case, incident_id, waiting.release_id, by=actor.person_id, at=now)
            body: Body = {**named(waiting), "approval_count": len(approved_by)}
            record_act(case, actor, role, "release.withdrawn", body, at=now, incident=incident, reason=why)
        return Withdrawn(waiting, approved_by)

    return store.look(work) if dry_run else store.change(work)


def _people_left(incident: IncidentRecord, release: ReleaseRecord, standing: Standing, now: datetime) -> PageRecord:
    name = incident.incident_id
    deadline = standing.earliest_deadline_at
    return PageRecord(
        page_id=f"{release.release_id}-cancelled",
        incident_id=name,
        kind="release.cancelled",
        severity="critical",
        roles=APPROVING_ROLES,
        title=f"{name}: its release was cancelled, and {standing.without_end:,} people have no end",
        body={
            "people": standing.without_end,
            "earliest_deadline": None if deadline is None else deadline.isoformat(),
            "exercise": incident.exercise,
            "next": f"tocsin incident prepare {name}",
        },
        raised_at=now,
    )


@dataclass(frozen=True, slots=True)
class Retried:
    """What a retry plans, or would. Counts are of people."""

    incident_id: str
    by_channel: Mapping[str, int]
    """Who is tried again, and by which channel."""
    maybe_told: int
    """Of these, whose earlier message of this channel got no receipt: it may have arrived after all."""
    left_out: Mapping[str, int]
    """Who failed and is not tried again, by why."""
    release: ReleaseRecord | None = field(default=None, repr=False)


def retry(
    store: CaseStore,
    incident_id: str,
    actor: Actor,
    now: datetime,
    *,
    channels: Sequence[str] = (),
    reason: str | None,
    dry_run: bool = False,
) -> Retried:
    """Plan one more attempt for everybody whom no channel reached, by the first channel that may be tried again.

    Never one that bounced hard; of the others the first in the approved order, or only `channels`. Their end is taken
    back until the attempt has one. Raises Refused if there is nobody, or no release that may carry them.
    """
    role = actor.acting_for(Act.STEER_RELEASE)
    why = needed(reason)
    for each in channels:
        if each not in list(Channel):
            raise BadInput(f"--channel {each}: unknown; known: {', '.join(Channel)}")

    def work(case: CaseWork) -> Retried:
        incident = still_open(case, incident_id)
        failed = case.failed_people(incident_id)
        if not failed:
            raise Refused(f"{incident_id}: nobody has failed for good; see `tocsin delivery status {incident_id}`")
        release = _carrier(case, incident)
        retries: list[Retry] = []
        by_channel: dict[str, int] = Counter()
        left_out: dict[str, int] = defaultdict(int)
        maybe_told = 0
        for person in failed:
            channel, objection = _channel_again(person, release.policy.get("segments", {}), channels)
            if channel is None:
                left_out[objection] += 1
                continue
            approved = release.policy["segments"][person.segment_id]
            retries.append(Retry(person.recipient_id, channel, approved["bundle_sha256"]))
            by_channel[channel] += 1
            maybe_told += any(each.channel == channel and each.state == "expired" for each in person.tried)
        going_on: dict[str, Any] = {"state": "releasing", "finished_at": None}
        if any(each.state == "paused" for each in case.releases(incident_id)):
            # a pause holds for the whole incident
            going_on |= {"state": "paused", "stopped_at": now}
        carrier = replace(release, **going_on) if release.state == "finished" else release
        done = Retried(incident_id, dict(by_channel), maybe_told, dict(left_out), carrier)
        if dry_run:
            return done
        if not retries:
            raise Refused(f"{incident_id}: nobody of {len(failed):,} can be tried again: "
                          + "; ".join(f"{reason} ({count:,})" for reason, count in sorted(left_out.items())))  # fmt: skip
        case.add_retries(incident_id, release.release_id, retries, now)
        if release.state == "finished":
            case.update_release(release.release_id, going_on)
        body: Body = {
            **named(release),
            "people_count": len(retries),
            "left_out_count": sum(left_out.values()),
            "maybe_told_count": maybe_told,
        }
        record_act(case, actor, role, "release.retried", body, at=now, incident=incident, reason=why)
        if carrier.state == "paused" and release.state == "finished":
            say_paused_with_others(case, incident, release, now)
        return done

    return store.look(work) if dry_run else store.change(work)


def _carrier(case: CaseWork, incident: IncidentRecord) -> ReleaseRecord:
    able = [
        each
        for each in case.releases(incident.incident_id)
        if each.state in ("releasing", "paused", "finished") and each.revision == incident.revision
    ]
    able.sort(key=lambda each: each.mode == Mode.BREAK_GLASS)
    if not able:
        raise Refused(
            f"{incident.incident_id}: no release in force can carry them; prepare one: "
            f"tocsin incident prepare {incident.incident_id}"
        )
    return able[0]


def _channel_again(
    person: FailedPerson, approved: Mapping[str, Mapping[str, object]], wanted: Sequence[str]
) -> tuple[str | None, str]:
    """Return the channel by which somebody may be tried again; None, and why not."""
    own = approved.get(person.segment_id or "")
    if own is None:
        return None, "their text is not approved in this release"
    if not person.has_contact and set(person.channels) & {Channel.EMAIL, Channel.SMS}:
        return None, "their contact is not held any more"
    order = own["channels"]
    assert isinstance(order, list)
    tried = {each.channel for each in person.tried}
    hard = {each.channel for each in person.tried if each.hard_bounce}
    able = [each for each in order if each in person.channels and each in tried]
    if wanted:
        able = [each for each in able if each in wanted]
        if not able:
            return None, "not tried by that channel"
    again = next((each for each in able if each not in hard), None)
    if again is not None:
        return again, ""
    return None, "bounced hard" if hard else "no channel"


def set_rate(
    store: CaseStore,
    incident_id: str,
    channel: str,
    per_second: float | None,
    actor: Actor,
    now: datetime,
    *,
    lane_most: float,
    reason: str | None,
    dry_run: bool = False,
) -> float | None:
    """Bound what of an incident goes by one channel, from the next portion on; None: the lane's own rate again.

    `lane_most` is what the provider grants. Returns what was in force before (None: the lane's own). Raises BadInput for
    a rate that is none, slower than the log can say, or above the lane's.
    """
    role = actor.acting_for(Act.STEER_RELEASE)
    why = needed(reason)
    least = min(_SLOWEST, lane_most)
    if per_second is not None and not least <= per_second <= lane_most:
        raise BadInput(
            f"--per-second {per_second:g}: write at least {least:g} and at most {lane_most:g}, which the provider grants"
            + (f"; to stop: tocsin incident pause {incident_id} --reason TEXT" if per_second < least else "")
        )

    def work(case: CaseWork) -> float | None:
        incident = still_open(case, incident_id)
        before = case.lane_rates(incident_id).get(channel)
        if dry_run or before == per_second:
            return before
        case.set_lane_rate(incident_id, channel, per_second, by=actor.person_id, at=now)
        # what lies on the belt by the old rate goes back
        case.update_incident(incident_id, {"epoch": incident.epoch + 1})
        body: Body = {
            "channel": channel,
            "per_thousand_seconds": None if per_second is None else round(per_second * 1000),
        }
        record_act(case, actor, role, "release.rate_set", body, at=now, incident=incident, reason=why)
        return before

    return store.look(work) if dry_run else store.change(work)


def rates_of(store: CaseStore, incident_id: str) -> Mapping[str, float]:
    """Return the rates of its own that an incident has, by channel. Raises BadInput."""
    return store.look(lambda case: case.lane_rates(found(case, incident_id).incident_id))


def _in(case: CaseWork, incident: IncidentRecord, *states: str, verb: str) -> list[ReleaseRecord]:
    releases = case.releases(incident.incident_id)
    chosen = [each for each in releases if each.state in states]
    if not chosen:
        known = [each.state for each in releases]
        # one that runs, or may go on, says more than what was prepared since, and one that ran more than what never did
        going = [] if verb == "withdraw" else [state for state in ("paused", "releasing") if state in known]
        ran = [] if verb == "withdraw" else [state for state in known if state not in ("withdrawn", "void")]
        newest = next(iter([*going, *ran, *known]), None)
        advice = {
            "paused": f"it is paused; resume it: tocsin incident resume {incident.incident_id} --reason TEXT",
            "releasing": "it runs",
            "finished": "it is finished: everybody has an end",
            "cancelled": f"it is cancelled, for good; prepare another: tocsin incident prepare {incident.incident_id}",
            "prepared": f"it waits for approval; take it back: tocsin incident withdraw {incident.incident_id} --reason TEXT",
            "withdrawn": f"it was withdrawn; prepare another: tocsin incident prepare {incident.incident_id}",
            "void": "it is void",
            None: "there is no release",
        }[newest]
        raise Refused(f"{incident.incident_id}: nothing to {verb}: {advice}")
    return chosen


def named(release: ReleaseRecord) -> dict[str, str]:
    """Return how a case event names a release."""
    return {"release_id": release.release_id, "policy_sha256": release.policy_sha256, "mode": release.mode}


def say_paused_with_others(case: CaseWork, incident: IncidentRecord, release: ReleaseRecord, now: datetime) -> None:
    """Put on record that a release waits, as another one of its incident is paused."""
    case.publish_case_event(
        case_event(
            "release.paused_with_others", incident_id=incident.incident_id, actor=None, role=None, at=now,
            body=named(release), exercise=incident.exercise,
        )
    )  # fmt: skip


def counts_of(standing: Standing) -> dict[str, int]:
    """Return what a case event says of a standing."""
    return {
        "told_count": standing.told,
        "with_providers_count": standing.with_providers,
        "without_end_count": standing.without_end,
    }


def of_incident(store: CaseStore, incident_id: str) -> Standing:
    """Return how far the people of an incident are. Raises BadInput."""
    return store.look(lambda case: standing_of(case, found(case, incident_id)))
