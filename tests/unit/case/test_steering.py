"""Steering a release: by whom, what it stops, whom it forgets (nobody), and what the log says of it."""

import io
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from rich.console import Console

from bridge.contracts.errors import BadInput, Refused
from bridge.contracts.events import AttemptState, Channel
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.case_store.progress import SqlProgress
from consumers.case import releasing, steering, workflow
from consumers.case.progress import end_in_words, ends_at, rates_now
from consumers.case.progress_commands import as_facts, lines_of, screen_of
from consumers.domain.approvals import Mode
from consumers.domain.canary import CanaryPolicy
from consumers.domain.delivery import Trigger
from consumers.domain.ledger import Intent, Lane, SentReport
from consumers.domain.metering import lane_rates, letters_per_second
from consumers.domain.sending import ReceiptKind
from consumers.stages.release import LATENESS, PROJECTED_END, show_lanes
from tests.unit.adapters.ledger_case import APPROVED, EMAIL_LANE, INCIDENT, NOW, SMS_LANE, sqlite_case
from tests.unit.adapters.ledger_case import Case as LedgerCase
from tests.unit.case.cases import APPROVER, COUNSEL, DPO, RESPONDER, SRE, VIEWER, Case

MOST = lane_rates(14, 10)
RELEASE = "1" * 32
SEALED = {"key_id": "k", "wrapped_key": "w", "nonce": "n", "ciphertext": "c"}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[LedgerCase]:
    made = sqlite_case(tmp_path)
    with made.database.write() as connection:
        # an id as the log takes it
        connection.execute(sa.update(tables.release).values(release_id=RELEASE))
    yield made
    made.database.close()


def store(case: LedgerCase) -> SqlCaseStore:
    return SqlCaseStore(case.database, case.clock)


def affected(case: LedgerCase, *numbers: int) -> None:
    """What planning knows of people, besides the recipients themselves."""
    with case.database.write() as connection:
        for number in numbers:
            connection.execute(
                sa.insert(tables.affected).values(
                    incident_id=INCIDENT, revision=1, root=f"customer/{number}", partition=0, standing="recorded",
                    departed=False, late=False, member_leaf="0" * 64, event="{}",
                )
            )  # fmt: skip


def commanded(case: LedgerCase, lane: Lane = EMAIL_LANE) -> int:
    case.ledger.begin_attempts(1000)
    return case.ledger.meter(lane)


def taken_up(case: LedgerCase) -> list[Intent]:
    return list(case.ledger.intend(case.commands(), "d1", "dispatch", {}))


def kinds(case: LedgerCase) -> list[str]:
    return [event["kind"] for event in case.case_events()]


def test_a_pause_stops_the_belt_and_what_is_in_hand_and_resuming_loses_and_doubles_nothing(ledger: LedgerCase) -> None:
    people = [ledger.person(number) for number in range(6)]
    case_store = store(ledger)
    commanded(ledger, Lane(Channel.EMAIL, belt=2, at_once=2))
    in_hand = taken_up(ledger)
    commanded(ledger, Lane(Channel.EMAIL, belt=4, at_once=2))
    with pytest.raises(Refused, match=r"vic \(viewer\) may not release.pause"):
        steering.pause(case_store, INCIDENT, VIEWER, NOW, reason="x")
    with pytest.raises(BadInput, match="needs a reason"):
        steering.pause(case_store, INCIDENT, RESPONDER, NOW, reason=" ")
    steering.pause(case_store, INCIDENT, RESPONDER, NOW, reason="wrong text", dry_run=True)
    assert set(ledger.ledger.standing(in_hand)) == {each.attempt_id for each in in_hand}
    done = steering.pause(case_store, INCIDENT, RESPONDER, NOW, reason="wrong text")
    assert (done.standing.without_end, done.standing.with_providers) == (6, 2)
    assert kinds(ledger) == ["release.paused"]
    assert not ledger.ledger.standing(in_hand), "asked before each provider call"
    ledger.ledger.report([SentReport(each.attempt_id, Trigger.RECALL, each.send_count) for each in in_hand])
    assert taken_up(ledger) == []
    assert commanded(ledger) == 0
    with pytest.raises(Refused, match="it is paused; resume it"):
        steering.pause(case_store, INCIDENT, RESPONDER, NOW, reason="again")
    with pytest.raises(Refused, match=r"may not release.steer"):
        steering.resume(case_store, INCIDENT, RESPONDER, NOW, reason="fine")
    steering.resume(case_store, INCIDENT, SRE, NOW, reason="fine")
    assert kinds(ledger) == ["release.resumed"]
    assert commanded(ledger) == 6
    intents = taken_up(ledger)
    assert {each.recipient_id for each in intents} == set(people)
    assert {each.send_count for each in intents} == {1}


def test_what_is_approved_while_its_incident_is_paused_waits_for_the_resume(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    first = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=5)
    for who in (DPO, COUNSEL):
        releasing.approve(case.store, name, first.release.policy_sha256, who, NOW, mode=Mode.TWO_APPROVERS)
    steering.pause(case.store, name, APPROVER, NOW, reason="look again")
    wider = releasing.prepare(
        case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=9,
        canary=CanaryPolicy(per_segment=2, wait_seconds=60, bound_percent=5),
    )  # fmt: skip
    for who in (DPO, COUNSEL):
        done = releasing.approve(
            case.store, wider.release.release_id, wider.release.policy_sha256, who, NOW, mode=Mode.TWO_APPROVERS
        )
    assert (done.releasing, done.release.state, done.release.canary_state) == (True, "paused", "testing")
    assert wider.release.policy["canary"] == {"per_segment": 2, "wait_seconds": 60, "bound_percent": 5}
    assert sorted(row["start_number"] for row in case.rows(tables.release)) == [1, 2]
    (waits,) = [each for each in case.published("tocsin.case-events") if each["kind"] == "release.paused_with_others"]
    assert waits["body"]["release_id"] == wider.release.release_id
    steering.resume(case.store, name, DPO, NOW, reason="it was fine")
    assert {row["state"] for row in case.rows(tables.release)} == {"releasing"}


def test_a_cancel_is_final_and_the_next_release_takes_over_with_its_own_text(ledger: LedgerCase) -> None:
    told, waiting, bounced = (ledger.person(n, deadline_at=NOW + timedelta(hours=n)) for n in (1, 2, 3))
    affected(ledger, 1, 2, 3)
    case_store = store(ledger)
    commanded(ledger, Lane(Channel.EMAIL, belt=1, at_once=1))
    (first,) = taken_up(ledger)
    ledger.hand_over([first])
    ledger.receive(first, ReceiptKind.DELIVERED)
    with ledger.database.write() as connection:
        connection.execute(
            sa.update(tables.recipient)
            .where(tables.recipient.c.recipient_id == waiting)
            .values(deadline_at=NOW + timedelta(hours=9))
        )
        connection.execute(
            sa.update(tables.attempt)
            .where(tables.attempt.c.recipient_id == waiting)
            .values(due_at=NOW + timedelta(hours=9))
        )
    commanded(ledger, Lane(Channel.EMAIL, belt=1, at_once=1))
    (second,) = taken_up(ledger)
    assert second.recipient_id == bounced
    ledger.hand_over([second])
    with pytest.raises(Refused, match=r"may not release.cancel; it takes one of: dpo, counsel"):
        steering.cancel(case_store, INCIDENT, SRE, NOW, reason="x")
    done = steering.cancel(case_store, INCIDENT, DPO, NOW, reason="the text was wrong")
    standing = done.standing
    assert (standing.told, standing.arrived, standing.with_providers, standing.without_end) == (1, {"email": 1}, 1, 2)
    assert ledger.pages() == ["release.cancelled"]
    # a receipt still settles what has left; what would follow waits
    ledger.receive(second, ReceiptKind.BOUNCED_HARD)
    assert ledger.states(bounced) == [("email", "bounced"), ("sms", "planned")]
    assert commanded(ledger) == commanded(ledger, SMS_LANE) == 0
    with pytest.raises(Refused, match="it is cancelled, for good; prepare another"):
        steering.resume(case_store, INCIDENT, DPO, NOW, reason="no, go on")
    with pytest.raises(Refused, match="2 people have no end state"):
        workflow.close(case_store, INCIDENT, DPO, NOW, reason="done")
    seen = SqlProgress(ledger.database, ledger.clock).progress(INCIDENT)
    assert (seen.stopped, seen.why_not) == ("cancelled", {"wait: their release is cancelled": 2})
    with ledger.database.write() as connection:
        old = connection.execute(sa.select(tables.release)).mappings().one()
        policy = {"segments": {"s1": {**APPROVED, "bundle_sha256": "c" * 64}}}
        connection.execute(sa.insert(tables.release).values(
            **{**old, "release_id": "2" * 32, "state": "releasing", "policy": policy,
               "started_epoch": old["stopped_epoch"], "stopped_epoch": None}))  # fmt: skip
    commanded(ledger)
    commanded(ledger, SMS_LANE)
    again = taken_up(ledger)
    assert {(each.recipient_id, each.channel, each.bundle_sha256) for each in again} == {
        (waiting, Channel.EMAIL, "c" * 64),
        (bounced, Channel.SMS, "c" * 64),
    }
    assert ledger.end(told) == "reached"


def second_release(ledger: LedgerCase, **changes: Any) -> None:
    """Let another release run beside the first, of the same scope."""
    with ledger.database.write() as connection:
        old = connection.execute(sa.select(tables.release)).mappings().one()
        row = {
            **old,
            "release_id": "2" * 32,
            "state": "releasing",
            "finished_at": None,
            "released_at": ledger.clock.now(),
            "started_epoch": connection.execute(sa.select(tables.incident.c.epoch)).scalar_one(),
            "start_number": 2,
        }
        connection.execute(sa.insert(tables.release).values(**{**row, **changes}))


def test_what_was_withdrawn_says_nothing_of_a_release_that_ran(ledger: LedgerCase) -> None:
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.release).values(state="finished"))
    second_release(ledger, state="withdrawn", prepared_at=NOW + timedelta(hours=1))
    with pytest.raises(Refused, match="nothing to pause: it is finished: everybody has an end"):
        steering.pause(store(ledger), INCIDENT, SRE, NOW, reason="look")


def test_what_was_cancelled_is_not_carried_on_by_a_release_that_had_finished_before(ledger: LedgerCase) -> None:
    told = ledger.person(1)
    [intent] = ledger.claim(EMAIL_LANE)
    ledger.hand_over([intent])
    ledger.receive(intent, ReceiptKind.DELIVERED)
    assert ledger.ledger.finish_releases() == [(INCIDENT, RELEASE)]
    late = [ledger.person(number, late=True) for number in (2, 3, 4)]
    affected(ledger, 1, 2, 3, 4)
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.release).values(late_cap=0))
    ledger.clock.at += timedelta(hours=1)
    second_release(ledger, late_cap=5)
    # one is in a dispatcher's hands, one lies on the belt, one waits
    [in_hand] = ledger.claim(Lane(Channel.EMAIL, belt=1, at_once=1))
    assert ledger.ledger.meter(Lane(Channel.EMAIL, belt=1, at_once=1)) == 1
    ledger.clock.at += timedelta(minutes=1)
    steering.cancel(store(ledger), INCIDENT, DPO, ledger.clock.now(), reason="these are the wrong people")
    ledger.ledger.report([SentReport(in_hand.attempt_id, Trigger.RECALL, in_hand.send_count)])
    assert taken_up(ledger) == []
    for _ in range(2):
        assert ledger.claim(EMAIL_LANE) == [], "nobody has approved it since"
        ledger.clock.at += timedelta(minutes=5)
    with ledger.database.read() as connection:
        rows = connection.execute(sa.select(tables.release.c.release_id, tables.release.c.state)).all()
    assert {row.release_id: row.state for row in rows} == {RELEASE: "finished", "2" * 32: "cancelled"}
    with ledger.database.write() as connection:
        old = (
            connection.execute(sa.select(tables.release).where(tables.release.c.release_id == "2" * 32))
            .mappings()
            .one()
        )
        anew = {
            # by the clock of a machine that is behind: the ledger knows that it was approved after the cancel
            "release_id": "3" * 32, "state": "releasing", "released_at": ledger.clock.now() - timedelta(days=1),
            "stopped_at": None, "started_epoch": old["stopped_epoch"], "stopped_epoch": None,
        }  # fmt: skip
        connection.execute(sa.insert(tables.release).values(**{**old, **anew}))
    assert {each.recipient_id for each in ledger.claim(EMAIL_LANE)} == set(late)
    assert ledger.end(told) == "reached"


@pytest.mark.parametrize("clocks", ["the cancelling machine's is behind", "unknown"])
def test_what_was_cancelled_is_left_alone_whatever_the_clocks_of_two_machines_say(
    ledger: LedgerCase, clocks: str
) -> None:
    ledger.person(1)
    [intent] = ledger.claim(EMAIL_LANE)
    ledger.hand_over([intent])
    ledger.receive(intent, ReceiptKind.DELIVERED)
    assert ledger.ledger.finish_releases() == [(INCIDENT, RELEASE)]
    late = ledger.person(2, late=True)
    affected(ledger, 1, 2)
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.release).values(late_cap=0))
    second_release(ledger, late_cap=5)
    ledger.ledger.begin_attempts(10)
    steering.cancel(store(ledger), INCIDENT, DPO, NOW - timedelta(minutes=10), reason="the wrong people")
    if clocks == "unknown":
        with ledger.database.write() as connection:
            connection.execute(sa.update(tables.release).values(started_epoch=None, stopped_epoch=None))
    assert ledger.claim(EMAIL_LANE) == [], "the one that had finished began before the cancel"
    assert ledger.states(late) == [("email", "planned")]
    assert ledger.pages() == ["release.cancelled", "release.people_wait"]


def test_closing_over_people_who_were_not_told_names_each_with_the_reason(ledger: LedgerCase) -> None:
    people = [ledger.person(number) for number in (1, 2)]
    ledger.person(3, held_reason="no approved text")
    commanded(ledger)
    case_store = store(ledger)
    steering.cancel(case_store, INCIDENT, COUNSEL, NOW, reason="an exercise of ours after all")
    workflow.close(case_store, INCIDENT, DPO, NOW, unnotified=True, reason="nobody is owed anything")
    left = [event["body"] for event in ledger.case_events() if event["kind"] == "person.not_notified"]
    assert sorted((each["subject"], each["why"]) for each in left) == [
        (f"{1:064d}", "release_cancelled"), (f"{2:064d}", "release_cancelled"), (f"{3:064d}", "held"),
    ]  # fmt: skip
    ledger.ledger.sweep(command_patience=timedelta(0), intent_patience=timedelta(0), unknown_patience=timedelta(0))
    assert [ledger.states(each) for each in people] == [[("email", "cancelled")]] * 2


def failed(
    ledger: LedgerCase, number: int, *ends: ReceiptKind | None, channels: tuple[str, ...] = ("email", "sms")
) -> str:
    """Somebody whose every channel failed: by a receipt, or by none in time (None)."""
    person = ledger.person(number, channels)
    for end, channel in zip(ends, channels, strict=True):
        [intent] = ledger.claim(EMAIL_LANE if channel == "email" else SMS_LANE)
        ledger.hand_over([intent])
        if end is None:
            ledger.clock.at += timedelta(hours=5)
            ledger.ledger.sweep(command_patience=timedelta(hours=9), intent_patience=timedelta(hours=9),
                                unknown_patience=timedelta(hours=9))  # fmt: skip
        else:
            ledger.receive(intent, end)
    assert ledger.end(person) == "unreachable_reported"
    return person


def test_a_retry_never_takes_a_channel_that_bounced_hard_and_takes_the_end_back(ledger: LedgerCase) -> None:
    soft = failed(ledger, 1, ReceiptKind.BOUNCED_SOFT, ReceiptKind.BOUNCED_HARD)
    hard = failed(ledger, 2, ReceiptKind.BOUNCED_HARD, ReceiptKind.REJECTED)
    gone = failed(ledger, 3, ReceiptKind.BOUNCED_HARD, channels=("email",))
    silent = failed(ledger, 4, None, ReceiptKind.BOUNCED_HARD)
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.recipient).values(contact=SEALED))
    assert ledger.ledger.finish_releases() == [(INCIDENT, RELEASE)]
    case_store = store(ledger)
    dry = steering.retry(case_store, INCIDENT, SRE, NOW, reason="the carrier is back", dry_run=True)
    assert ledger.end(soft) == "unreachable_reported"
    done = steering.retry(case_store, INCIDENT, SRE, NOW, reason="the carrier is back")
    assert dry == done
    assert (done.by_channel, done.left_out, done.maybe_told) == ({"email": 2, "sms": 1}, {"bounced hard": 1}, 1)
    assert [ledger.states(each)[-1] for each in (soft, hard, silent)] == [
        ("email", "planned"), ("sms", "planned"), ("email", "planned"),
    ]  # fmt: skip
    assert (ledger.end(soft), ledger.end(gone)) == (None, "unreachable_reported")
    [event] = [each for each in ledger.case_events() if each["kind"] == "release.retried"]
    assert (event["body"]["people_count"], event["body"]["left_out_count"]) == (3, 1)
    intents = ledger.claim(EMAIL_LANE) + ledger.claim(SMS_LANE)
    assert {each.recipient_id for each in intents} == {soft, hard, silent}
    assert {each.send_count for each in intents} == {1}
    ledger.hand_over(intents)
    for each in intents:
        ledger.receive(each, ReceiptKind.DELIVERED)
    assert ledger.end(soft) == ledger.end(hard) == ledger.end(silent) == "reached"
    with pytest.raises(Refused, match=r"nobody of 1 can be tried again: bounced hard \(1\)"):
        steering.retry(case_store, INCIDENT, SRE, NOW, reason="once more")


def test_a_rate_is_live_bounded_by_the_provider_and_taken_back(ledger: LedgerCase) -> None:
    for number in range(30):
        ledger.person(number)
    case_store = store(ledger)

    def rate(value: float | None) -> float | None:
        return steering.set_rate(
            case_store, INCIDENT, "email", value, SRE, ledger.clock.now(), lane_most=14, reason="bounces"
        )

    with pytest.raises(BadInput, match="at most 14, which the provider grants"):
        rate(15)
    for none in (0, 1e-7, -1, float("nan")):
        with pytest.raises(BadInput, match=r"write at least 0\.001 and at most 14"):
            rate(none)
    with pytest.raises(BadInput, match="to stop: tocsin incident pause"):
        rate(0.0004)
    assert (rate(0.001), rate(None)) == (None, 0.001)
    assert [each["body"]["per_thousand_seconds"] for each in ledger.case_events()] == [1, None]
    lane = Lane(Channel.EMAIL, belt=100, at_once=14, per_second=14)
    ledger.ledger.begin_attempts(100)
    assert ledger.ledger.meter(lane) == 14
    assert rate(3) is None
    assert taken_up(ledger) == [], "what lay on the belt by the old rate goes back"
    ledger.ledger.meter(lane)
    ledger.clock.at += timedelta(seconds=1)
    assert ledger.ledger.meter(lane) == 3
    assert rate(None) == 3
    assert steering.rates_of(case_store, INCIDENT) == {}
    with pytest.raises(BadInput, match="there is no incident INC-2026-9999"):
        steering.rates_of(case_store, "INC-2026-9999")
    assert ledger.ledger.meter(lane) == 11, "a second of the lane, with the three that lie there"


def canary(ledger: LedgerCase, people: int, *, per_segment: int = 2) -> None:
    policy: dict[str, Any] = {
        "segments": {"s1": APPROVED},
        "canary": CanaryPolicy(per_segment, wait_seconds=600, bound_percent=5).as_json(),
    }
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.release).values(policy=policy, canary_state="testing"))
    for number in range(people):
        ledger.person(number)


def test_a_canary_that_arrives_lets_the_rest_go_by_itself(ledger: LedgerCase) -> None:
    canary(ledger, 10)
    intents = ledger.claim(EMAIL_LANE)
    assert len(intents) == 2
    assert ledger.claim(EMAIL_LANE) == [], "no more of this segment, however often asked"
    ledger.hand_over(intents)
    assert ledger.ledger.judge_canaries() == []
    for each in intents:
        ledger.receive(each, ReceiptKind.DELIVERED)
    # as after a crash: whoever comes next reads the same ledger
    assert [state.value for *_, state in ledger.ledger.judge_canaries()] == ["passed"]
    assert "release.canary_passed" in kinds(ledger)
    assert ledger.ledger.judge_canaries() == []
    assert len(ledger.claim(EMAIL_LANE)) == 8


def test_watching_says_that_the_end_waits_for_the_canary(ledger: LedgerCase) -> None:
    canary(ledger, 10)
    source = SqlProgress(ledger.database, ledger.clock)

    def words() -> str:
        seen = source.progress(INCIDENT)
        ended = replace(seen, state="dismissed", why_not={"held": 1})
        assert end_in_words(ended, None, NOW) == "the incident is dismissed: nothing leaves any more"
        return end_in_words(seen, ends_at(seen, MOST, NOW), NOW)

    intents = ledger.claim(EMAIL_LANE)
    ledger.hand_over(intents)
    assert words().endswith("once the canary has passed: until then only the first of each segment leave")
    for each in intents:
        ledger.receive(each, ReceiptKind.DELIVERED)
    assert [state.value for *_, state in ledger.ledger.judge_canaries()] == ["passed"]
    assert "canary" not in words()


def test_whoever_pauses_what_is_paused_hears_so_also_when_another_release_waits_for_approval(
    ledger: LedgerCase,
) -> None:
    ledger.person(1)
    case_store = store(ledger)
    second_release(ledger, state="prepared", released_at=None, prepared_at=NOW + timedelta(hours=1))
    with pytest.raises(Refused, match="nothing to resume: it runs"):
        steering.resume(case_store, INCIDENT, SRE, NOW, reason="x")
    steering.pause(case_store, INCIDENT, SRE, NOW, reason="x")
    with pytest.raises(Refused, match="nothing to pause: it is paused; resume it"):
        steering.pause(case_store, INCIDENT, SRE, NOW, reason="x")


@pytest.mark.parametrize("why", ["bounces", "silence"])
def test_a_canary_that_does_not_arrive_holds_the_rest_until_a_named_person_resumes(
    ledger: LedgerCase, why: str
) -> None:
    canary(ledger, 10)
    intents = ledger.claim(EMAIL_LANE)
    ledger.hand_over(intents)
    if why == "bounces":
        ledger.receive(intents[0], ReceiptKind.BOUNCED_HARD)
        ledger.receive(intents[1], ReceiptKind.DELIVERED)
    else:
        assert ledger.ledger.judge_canaries() == []
        ledger.clock.at += timedelta(seconds=601)
    assert [state.value for *_, state in ledger.ledger.judge_canaries()] == ["held"]
    assert ledger.pages() == ["release.canary_held"]
    assert ledger.claim(EMAIL_LANE) == []
    seen = SqlProgress(ledger.database, ledger.clock).progress(INCIDENT)
    assert seen.stopped == "held by its canary"
    done = steering.resume(store(ledger), INCIDENT, SRE, NOW, reason="the two addresses are old ones")
    [event] = [each for each in ledger.case_events() if each["kind"] == "release.resumed"]
    assert done.canary_waived is event["body"]["canary_waived"] is True
    with ledger.database.read() as connection:
        assert connection.execute(sa.select(tables.page.c.acknowledged_by)).scalars().all() == [SRE.person_id]
    assert len(ledger.claim(EMAIL_LANE)) == 8


def test_the_page_about_a_cancelled_release_ends_with_the_approval_of_another(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)

    def release() -> None:
        waiting = releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=5)
        for who in (DPO, COUNSEL):
            releasing.approve(case.store, name, waiting.release.policy_sha256, who, NOW, mode=Mode.TWO_APPROVERS)

    def answered() -> list[str | None]:
        pages = case.store.look(lambda work: work.pages(name))
        return [each.acknowledged_by for each in pages if each.kind == "release.cancelled"]

    release()
    steering.cancel(case.store, name, DPO, NOW, reason="the wrong text")
    assert answered() == [None]
    release()
    assert answered() == [COUNSEL.person_id]


def test_a_held_canary_holds_every_release_of_its_incident(ledger: LedgerCase) -> None:
    canary(ledger, 2)
    intents = ledger.claim(EMAIL_LANE)
    ledger.hand_over(intents)
    second_release(ledger, policy={"segments": {"s1": APPROVED}}, canary_state=None)
    for each in intents:
        ledger.receive(each, ReceiptKind.BOUNCED_HARD)
    assert [state.value for *_, state in ledger.ledger.judge_canaries()] == ["held"]
    told = [each for each in ledger.case_events() if each["kind"].startswith("release.")]
    assert [(each["kind"], each["body"]["release_id"]) for each in told] == [
        ("release.paused_with_others", "2" * 32), ("release.canary_held", RELEASE),
    ]  # fmt: skip
    others = {ledger.person(number) for number in (7, 8, 9)}
    assert ledger.claim(EMAIL_LANE) == [], "the other release has the same text for them, and no canary"
    seen = SqlProgress(ledger.database, ledger.clock).progress(INCIDENT)
    assert seen.stopped == "held by its canary"
    steering.resume(store(ledger), INCIDENT, SRE, NOW, reason="old addresses")
    assert {each.recipient_id for each in ledger.claim(EMAIL_LANE)} == others


def test_whom_a_canary_is_about_no_later_release_begins_without_one(ledger: LedgerCase) -> None:
    canary(ledger, 8, per_segment=1)
    second_release(
        ledger,
        policy={"segments": {"s1": APPROVED}}, canary_state=None, released_at=NOW - timedelta(minutes=1),
    )  # fmt: skip
    # the second approval's clock is behind; and of a large incident only some can begin at once, and releases share alike
    assert ledger.ledger.begin_attempts(4).people == 4
    assert len(ledger.claim(EMAIL_LANE)) == 1
    with ledger.database.read() as connection:
        assert set(connection.execute(sa.select(tables.attempt.c.release_id)).scalars()) == {RELEASE}


def test_what_is_tried_again_during_a_pause_waits_for_the_resume(ledger: LedgerCase) -> None:
    person = failed(ledger, 1, ReceiptKind.BOUNCED_SOFT, channels=("email",))
    with ledger.database.write() as connection:
        connection.execute(sa.update(tables.recipient).values(contact=SEALED))
    assert ledger.ledger.finish_releases() == [(INCIDENT, RELEASE)]
    # an older one of the incident runs again, as by a late bounce, and is paused
    second_release(ledger, prepared_at=NOW - timedelta(hours=1))
    case_store = store(ledger)
    steering.pause(case_store, INCIDENT, SRE, NOW, reason="look")
    dry = steering.retry(case_store, INCIDENT, SRE, NOW, reason="the server is back", dry_run=True)
    done = steering.retry(case_store, INCIDENT, SRE, NOW, reason="the server is back")
    assert done == dry
    assert done.release is not None
    assert done.release.state == "paused"
    assert ledger.claim(EMAIL_LANE) == []
    steering.resume(case_store, INCIDENT, SRE, NOW, reason="go on")
    assert [each.recipient_id for each in ledger.claim(EMAIL_LANE)] == [person]


def test_a_canary_of_whom_nobody_may_be_told_yet_has_passed_nothing(ledger: LedgerCase) -> None:
    canary(ledger, 3)
    workflow.set_gate(store(ledger), INCIDENT, "law_enforcement_hold", ["*"], DPO, NOW, "letter")
    assert ledger.claim(EMAIL_LANE) == []
    assert ledger.ledger.judge_canaries() == []


def test_a_canary_held_back_by_a_gate_is_not_waited_for(ledger: LedgerCase) -> None:
    canary(ledger, 2)
    ledger.person(7, residence=[{"code": "FR", "source": "store"}])
    gate_id = workflow.set_gate(store(ledger), INCIDENT, "law_enforcement_hold", ["DE"], DPO, NOW, "letter")
    [intent] = ledger.claim(EMAIL_LANE)
    ledger.hand_over([intent])
    ledger.receive(intent, ReceiptKind.DELIVERED)
    assert [state.value for *_, state in ledger.ledger.judge_canaries()] == ["passed"]
    assert SqlProgress(ledger.database, ledger.clock).progress(INCIDENT).why_not == {"are kept back by a hold": 2}
    workflow.lift_gate(store(ledger), INCIDENT, gate_id, DPO, NOW, "released")
    assert len(ledger.claim(EMAIL_LANE)) == 2, "at once, not when the meter looks at them again"


NOTICE_LANE = Lane(Channel.ACCOUNT_NOTICE, belt=1000, at_once=1000)


@pytest.mark.parametrize("parallel", [True, False])
def test_a_canary_is_not_passed_by_account_notices_that_go_before_the_first_email(
    ledger: LedgerCase, parallel: bool
) -> None:
    canary(ledger, 0)
    approved = {**APPROVED, "channels": ["email", "account_notice"]}
    key = {"together": [approved["channels"]]} if parallel else {}
    with ledger.database.write() as connection:
        policy = connection.execute(sa.select(tables.release.c.policy)).scalar_one()
        connection.execute(sa.update(tables.release).values(policy={**policy, "segments": {"s1": {**approved, **key}}}))
        connection.execute(sa.update(tables.segment).values(channels=approved["channels"], key=key))
    for number in range(10):
        channels = ("email", "account_notice") if parallel or number < 5 else ("account_notice",)
        ledger.person(number, channels=channels)
    # e-mails go slowly, or not at all at this moment
    notices = ledger.claim(NOTICE_LANE)
    assert len(notices) == 2
    ledger.hand_over(notices)
    assert ledger.ledger.judge_canaries() == [], "whether e-mails arrive is not known yet"
    assert ledger.claim(NOTICE_LANE) == []
    for each in notices:
        ledger.receive(each, ReceiptKind.READ)
    assert ledger.ledger.judge_canaries() == [], "an e-mail that need not leave any more says nothing either"
    emails = ledger.claim(EMAIL_LANE)
    assert len(emails) == 2
    ledger.hand_over(emails)
    for each in emails:
        ledger.receive(each, ReceiptKind.BOUNCED_HARD)
    assert [state.value for *_, state in ledger.ledger.judge_canaries()] == ["held"]
    assert ledger.claim(EMAIL_LANE) == ledger.claim(NOTICE_LANE) == []


def test_the_canary_of_a_second_release_keeps_nobody_of_the_first_one_back(ledger: LedgerCase) -> None:
    for number in range(10):
        ledger.person(number)
    assert ledger.ledger.begin_attempts(100).people == 10
    with ledger.database.write() as connection:
        row = connection.execute(sa.select(tables.segment)).mappings().one()
        connection.execute(sa.insert(tables.segment).values(**{**row, "segment_id": "s2", "name": "two"}))
    policy = {
        "segments": {"s1": APPROVED, "s2": APPROVED},
        "canary": CanaryPolicy(2, wait_seconds=600, bound_percent=5).as_json(),
    }
    second_release(ledger, policy=policy, canary_state="testing", released_at=NOW + timedelta(seconds=1))
    others = {ledger.person(20 + number, segment_id="s2") for number in range(5)}
    told = {each.recipient_id for each in ledger.claim(EMAIL_LANE)}
    assert len(told & others) == 2, "the first of its own"
    assert len(told - others) == 10


def test_watching_says_how_and_why_not_and_when_it_ends_against_the_deadline(ledger: LedgerCase) -> None:
    for number in range(30):
        ledger.person(number, deadline_at=NOW + timedelta(hours=31))
    ledger.person(99, held_reason="no approved text")
    intents = ledger.claim(Lane(Channel.EMAIL, belt=3, at_once=3))
    ledger.hand_over(intents)
    ledger.receive(intents[0], ReceiptKind.DELIVERED)
    source = SqlProgress(ledger.database, ledger.clock)
    slow = {**MOST, Channel.EMAIL: 1 / 300}
    seen = source.progress(INCIDENT)
    assert (seen.people, seen.reached, seen.reached_by) == (31, 1, {"email": 1})
    assert seen.why_not == {
        "wait for a receipt (email)": 2, "wait for their turn (email)": 27, "are held: no approved text": 1,
    }  # fmt: skip
    assert sum(seen.why_not.values()) + seen.reached == seen.people, "everybody is somewhere"
    end = ends_at(seen, slow, NOW)
    assert end_in_words(seen, end, NOW) == "the last message leaves in 2 h 15 min, 1 d 4 h before the earliest deadline"
    late = end_in_words(seen, ends_at(seen, {Channel.EMAIL: 27 / (40 * 3600)}, NOW), NOW)
    assert late.endswith("9 h 0 min AFTER the earliest deadline")
    ledger.ledger.note_pace({Channel.EMAIL: 14.0})
    ledger.clock.at += timedelta(seconds=10)
    ledger.ledger.meter(Lane(Channel.EMAIL, belt=20, at_once=20))
    ledger.ledger.note_pace({Channel.EMAIL: 14.0})
    assert rates_now(source.progress(INCIDENT), MOST, ledger.clock.now()) == {"email": pytest.approx(2.0)}
    text = "\n".join(lines_of(seen, MOST, NOW))
    assert "reached:      1 of 31 people (3.2%)" in text
    assert "customer/" not in text
    tray = replace(seen, waiting={"letter": 100_000}, pace={})
    rates = {**MOST, Channel.LETTER: letters_per_second(200, 300)}
    assert "the last message leaves in 1 d 17 h" in end_in_words(tray, ends_at(tray, rates, NOW), NOW)
    screen = Console(width=120, record=True, file=io.StringIO())
    screen.print(screen_of(seen, MOST, NOW))
    shown = screen.export_text()
    assert "1 of 31 people (3.2%)" in shown
    assert "are held: no approved text" in shown
    assert as_facts(seen, MOST, NOW)["seconds_before_deadline"] > 0
    with pytest.raises(BadInput, match="did you mean 'INC-2026-0001'"):
        source.progress("INC-2026-0002")


def test_watching_counts_whoever_has_two_channels_at_once_as_one(ledger: LedgerCase) -> None:
    together = {"bundle_sha256": "b" * 64, "channels": ["email", "sms"], "together": [["email", "sms"]]}
    with ledger.database.write() as connection:
        connection.execute(
            sa.update(tables.segment).values(channels=["email", "sms"], key={"together": [["email", "sms"]]})
        )
        connection.execute(sa.update(tables.release).values(policy={"segments": {"s1": together}}))
    for number in range(5):
        ledger.person(number)
    ledger.ledger.begin_attempts(10)
    source = SqlProgress(ledger.database, ledger.clock)
    seen = source.progress(INCIDENT)
    assert (seen.people, sum(seen.why_not.values()), seen.waiting) == (5, 5, {"email": 5, "sms": 5})
    ledger.hand_over(ledger.claim(Lane(Channel.SMS, belt=2, at_once=2)))
    ledger.ledger.meter(Lane(Channel.EMAIL, belt=3, at_once=3))
    seen = source.progress(INCIDENT)
    assert seen.why_not["wait for a receipt (sms)"] == 2
    assert sum(seen.why_not.values()) == 5
    assert sum(seen.waiting.values()) == 8, "messages that have not left"


def test_watching_says_that_everybody_has_an_end_though_an_earlier_release_was_cancelled(ledger: LedgerCase) -> None:
    people = [ledger.person(number) for number in range(2)]
    affected(ledger, 0, 1)
    commanded(ledger)
    steering.cancel(store(ledger), INCIDENT, DPO, NOW, reason="the text was wrong")
    assert taken_up(ledger) == []
    source = SqlProgress(ledger.database, ledger.clock)

    def words() -> str:
        seen = source.progress(INCIDENT)
        shown = as_facts(seen, MOST, NOW)["in_words"]
        assert f"end:          {shown}" in lines_of(seen, MOST, NOW)
        return str(shown)

    assert words().startswith("does not end: cancelled; the earliest deadline is in")
    second_release(ledger, prepared_at=NOW + timedelta(minutes=1), stopped_at=None)
    intents = ledger.claim(EMAIL_LANE)
    assert {each.recipient_id for each in intents} == set(people)
    ledger.hand_over(intents)
    for each in intents:
        ledger.receive(each, ReceiptKind.DELIVERED)
    assert ledger.ledger.finish_releases() == [(INCIDENT, "2" * 32)]
    assert words() == "everybody has an end"
    assert source.progress(INCIDENT).stopped is None


def test_every_state_of_an_attempt_has_a_place_on_the_screen(ledger: LedgerCase) -> None:
    people = {state: ledger.person(number) for number, state in enumerate(AttemptState)}
    ledger.ledger.begin_attempts(100)
    with ledger.database.write() as connection:
        for state, person in people.items():
            ended = state in ("delivered", "read", "complained")
            failed_ = state in ("bounced", "rejected", "expired", "cancelled")
            connection.execute(
                sa.update(tables.attempt).where(tables.attempt.c.recipient_id == person).values(state=state.value)
            )
            end = "reached" if ended else "unreachable_reported" if failed_ else None
            connection.execute(
                sa.update(tables.recipient).where(tables.recipient.c.recipient_id == person).values(final_state=end)
            )
    seen = SqlProgress(ledger.database, ledger.clock).progress(INCIDENT)
    assert seen.reached + seen.unreachable + sum(seen.why_not.values()) == seen.people == len(AttemptState)


def test_a_hold_in_the_middle_of_a_release_stops_whom_it_names_and_nobody_else(ledger: LedgerCase) -> None:
    named = ledger.person(1, roots=["customer/1", "order/11"])
    of_segment = ledger.person(2, segment_id="s2")
    abroad = ledger.person(3, residence=[{"code": "US-CA", "source": "store"}])
    free = ledger.person(4)
    with ledger.database.write() as connection:
        row = connection.execute(sa.select(tables.segment)).mappings().one()
        connection.execute(sa.insert(tables.segment).values(**{**row, "segment_id": "s2", "name": "two"}))
        connection.execute(sa.update(tables.release).values(policy={"segments": {"s1": APPROVED, "s2": APPROVED}}))
    commanded(ledger)
    intents = taken_up(ledger)
    assert len(intents) == 4
    case_store = store(ledger)

    def hold(**whom: Any) -> workflow.Held:
        return workflow.hold_people(case_store, INCIDENT, "law_enforcement_hold", DPO, NOW, reason="a letter", **whom)

    with pytest.raises(BadInput, match="--person customer/77: INC-2026-0001 is not about them"):
        hold(people=["customer/77"])
    with pytest.raises(BadInput, match="--segment s3: INC-2026-0001 has none of this id"):
        hold(segments=["s3"])
    with pytest.raises(BadInput, match=r"--until .*lies in the past"):
        hold(covers=["DE"], until=NOW)
    with pytest.raises(BadInput, match="--covers XX: not a jurisdiction"):
        hold(covers=["XX"], as_given=True)
    with pytest.raises(BadInput, match="--covers PR: residences there are kept as US-PR; write US-PR"):
        hold(covers=["PR"], as_given=True)
    for elsewhere in ("US-CO", "unknown", "FR"):
        with pytest.raises(Refused, match=f"--covers {elsewhere}: nobody of .*; they live in DE, US-CA; .*--as-given"):
            hold(covers=["DE", elsewhere])
    assert hold(covers=["FR"], as_given=True, dry_run=True).covered == 0
    assert not [each for each in ledger.case_events() if each["kind"] == "gate.set"]
    whom = {"covers": ["US"], "segments": ["s2"], "people": ["order/11"], "until": NOW + timedelta(days=30)}
    dry = hold(**whom, dry_run=True)
    assert (dry.gate_id, dry.covered, dry.named) == (None, 2, 1)
    assert len(ledger.ledger.standing(intents)) == 4
    done = hold(**whom)
    assert (done.covered, done.covered_told, done.named) == (2, 0, 1)
    [event] = [each for each in ledger.case_events() if each["kind"] == "gate.set"]
    assert (event["body"]["segment_count"], event["body"]["person_count"]) == (1, 1)
    assert "customer/1" not in json.dumps(event)
    with ledger.database.read() as connection:
        kept = connection.execute(sa.select(tables.gate.c.people)).scalar_one()
    assert kept == ["customer/1", "order/11"], "by whichever they are known tomorrow"
    # the claims in hand are asked about before the provider is called: none stands, the free one goes anew
    assert not ledger.ledger.standing(intents)
    ledger.ledger.report([SentReport(each.attempt_id, Trigger.RECALL, each.send_count) for each in intents])
    commanded(ledger)
    assert [each.recipient_id for each in taken_up(ledger)] == [free]
    ledger.ledger.remind_of_holds()
    assert ledger.pages() == []
    ledger.clock.at += timedelta(days=31)
    for _ in range(2):
        ledger.ledger.remind_of_holds()
    assert ledger.pages() == ["gate.until_passed"]
    assert commanded(ledger) == 0, "a hold ends when somebody lifts it"
    assert done.gate_id is not None
    workflow.lift_gate(case_store, INCIDENT, done.gate_id, DPO, ledger.clock.now(), "the police say so")
    assert commanded(ledger) == 3
    assert {each.recipient_id for each in taken_up(ledger)} == {named, of_segment, abroad}


def test_lanes_say_how_old_their_oldest_is_and_when_they_end(ledger: LedgerCase) -> None:
    for number in range(4):
        ledger.person(number, deadline_at=NOW + timedelta(hours=5))
    assert ledger.ledger.lane_ages() == {}
    ledger.hand_over(ledger.claim(Lane(Channel.EMAIL, belt=1, at_once=1)))
    ledger.clock.at += timedelta(minutes=3)
    age = ledger.ledger.lane_ages()[Channel.EMAIL]
    assert (age.waiting, age.queue_seconds, age.silent_seconds, age.seconds_to_deadline) == (3, 180, 180, 4.95 * 3600)
    steering.pause(store(ledger), INCIDENT, DPO, NOW, reason="wait")
    assert ledger.ledger.lane_ages()[Channel.EMAIL].waiting == 0, "what is paused is in nobody's queue"


def test_a_lane_ends_when_the_slowest_incident_on_it_does(ledger: LedgerCase) -> None:
    for number in range(4):
        ledger.person(number, deadline_at=NOW + timedelta(minutes=30))
    ledger.claim(Lane(Channel.EMAIL, belt=1, at_once=1))
    steering.set_rate(store(ledger), INCIDENT, "email", 0.001, SRE, NOW, lane_most=14, reason="bounces")
    ages = ledger.ledger.lane_ages()
    [own] = ages[Channel.EMAIL].bounded
    assert (own.per_second, own.seconds_to_deadline) == (0.001, 1800)
    show_lanes(ages, {Channel.EMAIL: 14.0})
    assert PROJECTED_END.labels("email")._value.get() == own.waiting / 0.001
    assert LATENESS.labels("email")._value.get() == own.waiting / 0.001 - 1800
    steering.pause(store(ledger), INCIDENT, DPO, NOW, reason="wait")
    assert Channel.EMAIL not in ledger.ledger.lane_ages() or not ledger.ledger.lane_ages()[Channel.EMAIL].bounded
    show_lanes({}, {})


def test_lanes_know_those_whose_turn_to_begin_has_not_come(ledger: LedgerCase) -> None:
    assert ledger.ledger.lane_ages(beginning=True) == {}
    for number in range(4):
        ledger.person(number, ("email", "sms"), deadline_at=NOW + timedelta(hours=5 - number))
    ledger.person(8, ("sms",), deadline_at=NOW + timedelta(hours=9))
    ledger.person(9, ("sms",), held_reason="asked for")
    ledger.clock.at += timedelta(minutes=1)
    assert ledger.ledger.begin_attempts(1, [EMAIL_LANE]).more
    ages = ledger.ledger.lane_ages(beginning=True)
    assert {channel: age.waiting for channel, age in ages.items()} == {Channel.EMAIL: 4, Channel.SMS: 1}
    email = ages[Channel.EMAIL]
    assert (email.queue_seconds, email.seconds_to_deadline) == (60, 2 * 3600 - 60)
    assert ages[Channel.SMS].seconds_to_deadline == 9 * 3600 - 60
    steering.pause(store(ledger), INCIDENT, DPO, NOW, reason="wait")
    assert ledger.ledger.lane_ages(beginning=True) == {}
