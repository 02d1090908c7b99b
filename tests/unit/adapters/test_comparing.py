"""Ledger, evidence log and receipts are compared; a case store that was put back in time tells nobody twice."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import MustStop
from consumers.adapters.case_store import comparing, tables
from consumers.adapters.case_store.comparing import Comparison, Gap
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.case_store.erasures import Erasures
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.case.permissions import Role
from consumers.domain.delivery import Trigger
from consumers.domain.ledger import SentReport
from consumers.domain.sending import ReceiptKind
from tests.unit.adapters.evidence_case import RECORDS, EvidenceCase, Restored, case_event, delivered_case
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, SMS_LANE, receipt_of, sqlite_case_store
from tests.unit.adapters.test_erasures import DORA, close


def comparison_of(case: EvidenceCase) -> Comparison:
    return Comparison(case.database, case.log, case.clock, case.ledger)


Halfway = tuple[EvidenceCase, Restored]


@pytest.fixture
def delivered(tmp_path: Path) -> EvidenceCase:
    return delivered_case(tmp_path)


@pytest.fixture
def halfway(tmp_path: Path) -> Iterator[Halfway]:
    case, restored = halfway_case(EvidenceCase(tmp_path), sqlite_case_store(tmp_path / "backup.db"))
    yield case, restored
    restored.database.close()


def halfway_case(case: EvidenceCase, backup: CaseDatabase) -> Halfway:
    """Return the case as it went on, and its store as a backup has it.

    In the backup 1 and 2 have a command on its way, 3 was not begun. In truth 1 was reached by mail, 2 by SMS after a
    bounce, 3 was handed over.
    """
    case.known_person(1)
    case.known_person(2, "order/9")
    case.known_person(3)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(2)
    case.ledger.meter(EMAIL_LANE)
    commands = case.commands()
    restored = Restored(case, backup)
    case.clock.at += timedelta(minutes=1)
    intents = list(case.ledger.intend(commands, "d1", "dispatch", {("tocsin.delivery-commands", 0): 1}))
    case.hand_over(intents)
    case.sent += intents
    for each in intents:
        case.receive(each, ReceiptKind.DELIVERED if each.root == "customer/1" else ReceiptKind.BOUNCED_HARD)
    for lane in (EMAIL_LANE, SMS_LANE):
        more = case.claim(lane)
        case.hand_over(more)
        case.sent += more
        for each in more:
            if each.channel == "sms":
                case.receive(each, ReceiptKind.DELIVERED)
    case.commands()
    restored.goes_on_after(case)
    return case, restored


def test_a_store_that_was_not_restored_lacks_nothing(halfway: Halfway) -> None:
    case, restored = halfway
    assert comparison_of(case).gap() == comparison_of(case).gap_at_start() == Gap()
    assert not comparison_of(case).gap()
    gap = comparison_of(restored).gap_at_start()
    assert gap == Gap(outcome_count=4)
    assert "4 outcomes of attempts" in str(gap)


@pytest.mark.parametrize("kind", [ReceiptKind.DELIVERED, ReceiptKind.BOUNCED_HARD])
def test_whose_clock_is_behind_neither_looks_like_a_backup_nor_contradicts_the_log(
    tmp_path: Path, kind: ReceiptKind
) -> None:
    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(10)
    while claimed := [*case.claim(EMAIL_LANE), *case.claim(SMS_LANE)]:
        case.hand_over(claimed)
        case.sent += claimed
        # the receipt is settled on another machine, or by a process that read its clock and had to wait
        case.clock.at -= timedelta(seconds=2)
        for each in claimed:
            case.receive(each, kind)
    case.commands()
    assert comparison_of(case).gap() == Gap()
    close(case)
    case.commands()
    assert comparison_of(case).reconcile(INCIDENT).differences == []


def test_a_dispatcher_whose_clock_is_behind_the_one_that_let_go_looks_like_no_backup(tmp_path: Path) -> None:
    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(10)
    (claimed,) = case.claim(EMAIL_LANE)
    case.ledger.report([SentReport(claimed.attempt_id, Trigger.THROTTLED, send_count=claimed.send_count)])
    case.clock.at -= timedelta(seconds=10)
    (again,) = case.claim(EMAIL_LANE)
    case.sent.append(again)
    case.commands()
    assert comparison_of(case).gap() == Gap()


def test_a_receipt_that_waits_while_its_message_is_handed_over_neither_looks_like_a_backup_nor_contradicts_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(10)
    (claimed,) = case.claim(EMAIL_LANE)
    case.sent.append(claimed)
    read, waiting = case.clock.now, [claimed]

    def now() -> datetime:
        at = read()
        if waiting:
            case.clock.at += timedelta(minutes=5)
            case.hand_over([waiting.pop()])
        return at

    receipt = receipt_of(claimed, ReceiptKind.DELIVERED, "", read())
    monkeypatch.setattr(case.clock, "now", now)
    case.ledger.settle_receipts([receipt])
    assert case.states(claimed.recipient_id) == [("email", "delivered")]
    case.commands()
    assert comparison_of(case).gap() == Gap()
    close(case)
    case.commands()
    assert comparison_of(case).reconcile(INCIDENT).differences == []


def test_after_a_restored_backup_nobody_is_told_twice(halfway: Halfway) -> None:
    case, restored = halfway
    told = sorted(f"{each.root} by {each.channel}" for each in case.sent)
    assert told == ["customer/1 by email", "customer/2 by email", "customer/2 by sms", "customer/3 by email"]
    comparison = comparison_of(restored)
    assert comparison.replay(DORA, Role.DPO, "the disk of the database was lost") == Gap(outcome_count=4)
    assert not comparison.gap()
    for number in (1, 2, 3):
        recipient = f"{INCIDENT}:customer/{number}"
        assert restored.states(recipient) == case.states(recipient)
        assert restored.end(recipient) == case.end(recipient)
    # whatever release and dispatch do now, and however often the old commands are read again
    again = [*restored.claim(EMAIL_LANE), *restored.claim(SMS_LANE)]
    assert again == []
    # what 3's provider still had to say is understood, and closes the case
    with restored.database.read() as connection:
        attempt_id = connection.execute(
            sa.select(tables.attempt.c.attempt_id).where(tables.attempt.c.state == "handed_over")
        ).scalar_one()
    intent = next(each for each in case.sent if each.attempt_id == attempt_id)
    restored.receive(intent, ReceiptKind.DELIVERED)
    assert restored.end(f"{INCIDENT}:customer/3") == "reached"
    restored.commands()
    assert comparison.reconcile(INCIDENT).differences == []
    assert comparison.replay(DORA, Role.DPO, "once more") == Gap()
    assert restored.export(restored.log.parent / "package").report.whole


@pytest.mark.parametrize("last", [ReceiptKind.DELIVERED, ReceiptKind.BOUNCED_SOFT])
def test_what_receipts_said_after_the_backup_the_log_knows_and_nothing_differs(
    tmp_path: Path, last: ReceiptKind
) -> None:
    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(10)
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    case.receive(mail, ReceiptKind.SENT)
    case.commands()
    restored = Restored(case, sqlite_case_store(tmp_path / "backup.db"))
    case.clock.at += timedelta(minutes=1)
    for kind in (ReceiptKind.DELIVERED, last):
        case.receive(mail, kind)
    case.commands()
    restored.goes_on_after(case)
    comparison = comparison_of(restored)
    comparison.replay(DORA, Role.DPO, "the disk of the database was lost")
    assert restored.states(mail.recipient_id)[0] == ("email", "bounced" if "bounced" in last else "delivered")
    restored.commands()
    found = comparison.reconcile(INCIDENT)
    assert found.differences == []
    delivered = next(row for row in found.rows if row["what"] == "ses: delivered")
    assert delivered["providers"] == 1
    # whom nobody said it of is still told apart
    with restored.database.write() as connection:
        connection.execute(sa.insert(tables.attempt).values(**_by_hand(connection, mail.recipient_id)))
        ours = tables.receipt.c.attempt_id == mail.attempt_id
        of_theirs = {**connection.execute(sa.select(tables.receipt).where(ours)).mappings().first()}  # type: ignore[dict-item]
        connection.execute(
            sa.insert(tables.receipt).values(**of_theirs | {"provider_event_id": "hand", "attempt_id": "hand"})
        )
    assert "1 attempts are delivered in the ledger, and ses never said so" in comparison.reconcile(INCIDENT).differences
    restored.database.close()


def _by_hand(connection: sa.Connection, recipient_id: str) -> dict[str, object]:
    whose = tables.attempt.c.recipient_id == recipient_id
    row = dict(connection.execute(sa.select(tables.attempt).where(whose)).mappings().first())  # type: ignore[arg-type]
    return row | {"attempt_id": "hand", "number": 9, "state": "delivered", "provider": "ses"}


@pytest.mark.parametrize("kind", [ReceiptKind.DELIVERED, ReceiptKind.BOUNCED_HARD])
def test_a_status_that_names_the_message_alone_finds_it_after_a_restored_backup(
    tmp_path: Path, kind: ReceiptKind
) -> None:
    case, restored = text_on_its_way(EvidenceCase(tmp_path), sqlite_case_store(tmp_path / "backup.db"))
    judge_late_status(case, restored, kind)
    restored.database.close()


def text_on_its_way(case: EvidenceCase, backup: CaseDatabase) -> Halfway:
    """Return the case in which two texts left after the backup, in which their commands are on their way."""
    case.known_person(1, channels=("sms", "account_notice"))
    case.known_person(2, channels=("sms", "account_notice"))
    case.resolve(RECORDS)
    case.ledger.begin_attempts(2)
    case.ledger.meter(SMS_LANE)
    commands = case.commands()
    restored = Restored(case, backup)
    case.clock.at += timedelta(minutes=1)
    case.sent = list(case.ledger.intend(commands, "d1", "dispatch", {("tocsin.delivery-commands", 0): 1}))
    case.hand_over(case.sent)
    case.commands()
    restored.goes_on_after(case)
    return case, restored


def judge_late_status(case: EvidenceCase, restored: Restored, kind: ReceiptKind) -> None:
    """Hold that both statuses are understood, and one of another message is kept aside."""
    comparison_of(restored).replay(DORA, Role.DPO, "the disk of the database was lost")
    statuses = [replace(receipt_of(each, kind, "late", case.clock.now()), attempt_id=None) for each in case.sent]
    strange = replace(statuses[0], provider_event_id="strange", provider_message_id="of-somebody-else")
    handed = restored.ledger.settle_receipts([*statuses, strange])
    assert (handed.applied, handed.kept_aside) == (2, 1)
    state = "delivered" if kind is ReceiptKind.DELIVERED else "bounced"
    for each in case.sent:
        assert restored.states(each.recipient_id)[0] == ("sms", state)
    assert (restored.end(case.sent[0].recipient_id) == "reached") == (kind is ReceiptKind.DELIVERED)
    with restored.database.read() as connection:
        assert connection.execute(sa.select(tables.lost_message)).all() == []
        known = connection.execute(sa.select(tables.attempt.c.provider_message_id).where(tables.attempt.c.number == 1))
        assert set(known.scalars()) == {f"m-{each.attempt_id}" for each in case.sent}
    # whatever comes later is found by the id itself
    again = [replace(each, provider_event_id=f"{each.provider_event_id}/again") for each in statuses]
    assert restored.ledger.settle_receipts(again).kept_aside == 0


def test_what_was_kept_aside_for_a_month_is_removed_and_all_else_stays(tmp_path: Path) -> None:
    case, restored = text_on_its_way(EvidenceCase(tmp_path), sqlite_case_store(tmp_path / "backup.db"))
    strays = [
        replace(
            receipt_of(case.sent[0], ReceiptKind.SENT, str(n), case.clock.now()),
            attempt_id=None, provider_message_id=f"x{n}",
        )
        for n in range(501)
    ]  # fmt: skip
    case.ledger.settle_receipts(strays)
    case.receive(case.sent[0], ReceiptKind.DELIVERED)
    case.clock.at += timedelta(days=29)
    assert case.ledger.forget_strays() == 0
    case.ledger.settle_receipts([replace(strays[0], provider_event_id="young")])
    case.clock.at += timedelta(days=2)
    assert case.ledger.forget_strays() == 501
    assert case.ledger.forget_strays() == 0
    with case.database.read() as connection:
        kept = set(connection.execute(sa.select(tables.receipt.c.attempt_id)).scalars())
    assert kept == {None, case.sent[0].attempt_id}
    restored.database.close()


def test_what_a_restored_store_does_before_it_is_reconciled_does_not_hide_whom_it_told(halfway: Halfway) -> None:
    case, restored = halfway
    # the release goes on: commands that nobody takes are called back, and 3, who was told, gets a first attempt
    case.clock.at += timedelta(hours=1)
    patience = timedelta(minutes=1)
    assert restored.ledger.sweep(
        command_patience=patience, intent_patience=patience, unknown_patience=timedelta(hours=9)
    )
    assert restored.ledger.begin_attempts(10).people
    restored.commands()
    comparison = comparison_of(restored)
    # 2's second channel was never begun there, and each of the other three attempts looks newer than what the log has
    assert comparison.gap() == comparison.gap_at_start() == Gap(outcome_count=4)
    assert comparison.replay(DORA, Role.DPO, "the disk of the database was lost") == Gap(outcome_count=4)
    assert not comparison.gap()
    assert [*restored.claim(EMAIL_LANE), *restored.claim(SMS_LANE)] == []
    for number in (1, 2, 3):
        assert restored.states(f"{INCIDENT}:customer/{number}") == case.states(f"{INCIDENT}:customer/{number}")
    restored.commands()
    assert comparison.reconcile(INCIDENT).differences == []


def test_a_call_that_a_provider_put_off_is_no_gap_while_its_leaf_is_still_to_come(tmp_path: Path) -> None:
    case = EvidenceCase(tmp_path)
    case.known_person(1)
    case.resolve(RECORDS)
    case.ledger.begin_attempts(1)
    intents = case.claim(EMAIL_LANE)
    case.commands()
    case.clock.at += timedelta(seconds=1)
    case.ledger.report([SentReport(each.attempt_id, Trigger.THROTTLED, each.send_count) for each in intents])
    assert case.states(f"{INCIDENT}:customer/1") == [("email", "planned")]
    assert comparison_of(case).gap_at_start() == Gap()


def test_a_backup_older_than_any_number_of_leaves_is_found_at_a_start(
    halfway: Halfway, monkeypatch: pytest.MonkeyPatch
) -> None:
    case, restored = halfway
    monkeypatch.setattr(comparing, "_AT_ONCE", 3)
    for _ in range(6):  # whatever is logged after the outcomes that the backup lacks, and however much of it
        case.log_events(case_event("people.listed", {"people": "all", "listed_count": 3}))
    assert comparison_of(restored).gap_at_start()
    assert comparison_of(restored).gap_at_start()
    replayed = comparison_of(restored)
    replayed.replay(DORA, Role.DPO, "the disk of the database was lost")
    assert not replayed.gap_at_start()
    # from now on a start reads what is new, and dispatch keeps up while it runs
    size = replayed._reader().size  # type: ignore[union-attr]
    assert replayed._mark() == size
    case.log_events(case_event("people.listed", {"people": "all", "listed_count": 3}))
    stopped = threading.Event()
    stopped.set()
    replayed.follow(stopped)
    assert replayed._mark() == size + 1
    # a store that goes back in time under it keeps its old mark, and the next start finds the gap
    with restored.database.write() as connection:
        connection.execute(sa.update(tables.kafka_position).values(next_offset=size))
    with pytest.raises(MustStop, match="put back in time"):
        replayed.follow(stopped)
    assert replayed._mark() == size
    other = comparison_of(restored)
    other._keep_mark(size - 1)
    assert other._mark() == size


def test_people_whom_a_backup_does_not_know_keep_dispatch_refusing(
    halfway: Halfway,
) -> None:
    _, restored = halfway
    with restored.database.write() as connection:
        connection.execute(sa.delete(tables.attempt).where(tables.attempt.c.recipient_id.like("%customer/1")))
        connection.execute(sa.delete(tables.recipient).where(tables.recipient.c.root == "customer/1"))
    comparison = comparison_of(restored)
    assert comparison.replay(DORA, Role.DPO, "an old backup") == Gap(outcome_count=3, unknown_count=1)
    assert comparison.gap_at_start() == Gap(unknown_count=1)
    # where there is no newer backup, somebody takes it on by name, and everybody else is told
    assert comparison.replay(DORA, Role.DPO, "the only backup", accept_unknown=True) == Gap(unknown_count=1)
    assert not comparison.gap_at_start()
    accepted = [
        each["body"]["unknown_accepted"] for each in restored.case_events() if each["kind"] == "restore.reconciled"
    ]
    assert accepted == [False, True]


def test_erased_keys_that_came_back_keep_dispatch_refusing_until_they_are_erased_again(tmp_path: Path) -> None:
    case = delivered_case(tmp_path)
    close(case)
    restored = Restored(case, sqlite_case_store(tmp_path / "backup.db"))
    Erasures(case.database, case.clock).ask("customer/1", DORA, Role.DPO, "a letter")
    case.commands()
    comparison = comparison_of(restored)
    assert comparison.gap_at_start() == Gap(erasure_count=1)
    assert comparison.replay(DORA, Role.DPO, "the disk was lost") == Gap(erasure_count=1)
    assert not comparison.gap()
    restored.database.close()


def test_an_ended_incident_is_compared_by_itself_and_a_difference_is_paged(delivered: EvidenceCase) -> None:
    case = delivered
    comparison = comparison_of(case)
    assert comparison.reconcile_ended() == 0
    close(case)
    assert comparison.reconcile_ended() == 0
    events = {each["kind"]: each["body"] for each in case.case_events()}
    assert events["evidence.reconciled"] == {
        "log_size": events["evidence.reconciled"]["log_size"], "attempt_count": 4, "logged_attempt_count": 4,
        "end_count": 4, "logged_end_count": 4, "difference_count": 0,
    }  # fmt: skip
    assert comparison.reconcile(INCIDENT).differences == []
    counted = {
        row["what"]: (row["ledger"], row["log"], row["providers"]) for row in comparison.reconcile(INCIDENT).rows
    }
    assert counted["attempts"] == (4, 4, None)
    assert counted["sns: delivered"] == (1, None, 1)


def test_a_damaged_log_is_a_difference_and_stops_nobody(delivered: EvidenceCase) -> None:
    case = delivered
    close(case)
    for bundle in (case.log / "tile/entries").rglob("*.p/*"):
        bundle.write_bytes(b"\0")
    comparison = comparison_of(case)
    assert (comparison.reconcile_ended(), comparison.reconcile_ended()) == (1, 1)


def test_a_difference_is_told_when_the_log_has_had_its_time_and_ends_by_itself(delivered: EvidenceCase) -> None:
    case = delivered
    close(case)
    with case.database.write() as connection:
        connection.execute(
            sa.update(tables.attempt).where(tables.attempt.c.state == "delivered").values(state="expired")
        )
        connection.execute(sa.update(tables.recipient).values(final_state="unreachable_reported"))
    comparison = comparison_of(case)
    assert comparison.reconcile_ended() == 0  # leaves may be on their way still
    case.clock.at += timedelta(minutes=11)
    assert comparison.reconcile_ended() == 1
    assert case.pages() == ["evidence.differs"]
    said = comparison.reconcile(INCIDENT).differences
    assert "3 attempts have another state in the log than in the ledger" in said
    assert "3 people have another end in the log than in the ledger" in said
    assert "2 attempts were delivered by ses, and the ledger does not have it" in said
    with case.database.write() as connection:
        connection.execute(
            sa.update(tables.attempt).where(tables.attempt.c.state == "expired").values(state="delivered")
        )
        connection.execute(
            sa.update(tables.recipient).where(tables.recipient.c.root != "customer/3").values(final_state="reached")
        )
    assert comparison.reconcile_ended() == 1  # not looked at again at once
    case.clock.at += timedelta(seconds=31)
    assert comparison.reconcile_ended() == 0


def recalled_case(root: Path) -> EvidenceCase:
    """Return a case in which 1 was claimed and let wait again before anybody was called, and 2 was told."""
    case = EvidenceCase(root)
    case.known_person(1)
    case.known_person(2)
    case.resolve({"customer/1": ("r1",), "customer/2": ("r2",)})
    intents = {each.root: each for each in case.claim(EMAIL_LANE)}
    case.hand_over([intents["customer/2"]])
    case.receive(intents["customer/2"], ReceiptKind.DELIVERED)
    case.ledger.report([SentReport(intents["customer/1"].attempt_id, Trigger.RECALL, 1)])
    case.commands()
    return case


def test_who_was_claimed_and_not_called_is_no_difference_when_the_incident_ends_without_them(tmp_path: Path) -> None:
    case = recalled_case(tmp_path)
    case.set_release("r1", "cancelled")
    close(case)
    case.ledger.sweep(
        command_patience=timedelta(minutes=1), intent_patience=timedelta(minutes=1), unknown_patience=timedelta(hours=1)
    )
    case.commands()
    assert case.states(f"{INCIDENT}:customer/1") == [("email", "cancelled")]
    assert comparison_of(case).reconcile(INCIDENT).differences == []


def test_who_was_claimed_and_not_called_is_no_gap_when_their_release_is_void(tmp_path: Path) -> None:
    case = recalled_case(tmp_path)
    store = SqlCaseStore(case.database, case.clock)
    store.change(lambda work: work.withdraw_attempts("r1"))
    case.commands()
    assert comparison_of(case).gap() == Gap()
    assert comparison_of(case).reconcile(INCIDENT).differences == []
