"""Letter batches: what the printer gets, who may read it, and that a crash prints nobody's letter twice."""

import csv
import hashlib
import io
import json
import shutil
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import Channel, Contact
from bridge.runtime.clock import SetClock
from consumers.adapters.case_store import tables
from consumers.adapters.case_store.erasures import Erasures
from consumers.adapters.case_store.incidents import SqlCaseStore
from consumers.adapters.letter_batches import LetterBatches, LetterFolder, PostedLetters, WrittenLetters
from consumers.adapters.letters import address_lines
from consumers.case.posting import record_posted, record_returned
from consumers.domain.delivery import OF_SEND
from consumers.domain.ledger import Intent, Lane, SentReport
from consumers.domain.sending import Letter, ReceiptKind
from tests.unit.adapters.ledger_case import EMAIL_LANE, INCIDENT, NOW, SMS_LANE, Case, sqlite_case
from tests.unit.case.cases import RESPONDER, VIEWER

LETTERS = [
    Letter("a1", 1, b"%PDF-1", ("Zibbet Quorn", "1 Road", "AB1 2CD London", "GB")),
    Letter("a2", 1, b"%PDF-2", ("=cmd", "2 Road", "10115 Berlin", "DE")),
]
LANE = Lane(Channel.LETTER, belt=100, at_once=100)
LONG = timedelta(days=9)


def test_a_batch_is_a_private_folder_of_files_and_their_hashes(tmp_path: Path) -> None:
    root = tmp_path / "letters"
    results = LetterFolder(root).write(INCIDENT, LETTERS, exercise=False)
    (folder,) = (root / INCIDENT).iterdir()
    manifest = (folder / "manifest.json").read_bytes()
    batch = hashlib.sha256(manifest).hexdigest()
    assert folder.name == batch[:16]
    # by place, so that the post need not sort; each result is that of its own letter
    assert [each.provider_message_id for each in results] == [f"{batch}/0002", f"{batch}/0001"]
    assert (folder / "0001.pdf").read_bytes() == b"%PDF-2"
    for path in folder.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    assert folder.stat().st_mode & 0o777 == 0o700
    rows = list(csv.DictReader(io.StringIO((folder / "addresses.csv").read_bytes().decode(), newline="")))
    assert [(row["number"], row["file"], row["country"], row["line_1"]) for row in rows] == [
        ("0001", "0001.pdf", "DE", "'=cmd"),  # no spreadsheet takes it for a formula
        ("0002", "0002.pdf", "GB", "Zibbet Quorn"),
    ]
    for name, sha256 in json.loads(manifest)["sha256"].items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == sha256
    assert b"Zibbet" not in manifest


def test_the_same_letters_make_the_same_batch_once(tmp_path: Path) -> None:
    one = LetterFolder(tmp_path / "a").write(INCIDENT, LETTERS, exercise=False)
    assert LetterFolder(tmp_path / "b").write(INCIDENT, LETTERS[::-1], exercise=False) == list(reversed(one))
    assert LetterFolder(tmp_path / "a").write(INCIDENT, LETTERS, exercise=False) == one
    assert len(list((tmp_path / "a" / INCIDENT).iterdir())) == 1


def test_a_folder_that_cannot_be_written_is_said_without_an_address(tmp_path: Path) -> None:
    (tmp_path / "letters").write_text("a file")
    with pytest.raises(Unreachable, match="letters cannot be written to") as told:
        LetterFolder(tmp_path / "letters").write(INCIDENT, LETTERS, exercise=False)
    assert "Zibbet" not in str(told.value)


def test_an_address_of_too_many_lines_still_fits_the_window() -> None:
    lines = tuple(f"line {number}" for number in range(12))
    shown = address_lines(Contact(postal_address=(*lines, "DE")))
    assert (len(shown), shown[0], shown[-1]) == (8, "line 0", "DE")
    assert address_lines(Contact()) == ()


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = sqlite_case(tmp_path)
    terms = {"bundle_sha256": "b" * 64, "channels": ["letter", "sms"]}
    with made.database.write() as connection:
        connection.execute(sa.update(tables.segment).values(channels=["letter", "sms"]))
        connection.execute(sa.update(tables.release).values(policy={"segments": {"s1": terms}}))
    yield made
    made.database.close()


def written(case: Case, root: Path, *, reported: bool = True) -> list[Intent]:
    intents = case.claim(LANE)
    letters = [Letter(each.attempt_id, each.send_count, b"%PDF", (each.root, "DE")) for each in intents]
    results = LetterFolder(root).write(INCIDENT, letters, exercise=False)
    if reported:
        case.ledger.report(
            [
                SentReport(intent.attempt_id, OF_SEND[result.state], intent.send_count, result.provider_message_id)
                for intent, result in zip(intents, results, strict=True)
            ]
        )
    return intents


def test_what_a_dying_dispatcher_wrote_is_found_and_not_printed_twice(case: Case, tmp_path: Path) -> None:
    person = case.person(1, ("letter",))
    written(case, tmp_path / "letters", reported=False)
    nobody = timedelta(0)
    case.clock.at += timedelta(minutes=1)
    case.ledger.sweep(command_patience=nobody, intent_patience=nobody, unknown_patience=timedelta(hours=1))
    assert case.states(person) == [("letter", "unknown")]
    source = LetterBatches(tmp_path / "letters", case.clock)
    (delivery,) = source.receive(200, 0)
    case.ledger.settle_receipts(delivery.receipts)
    assert case.states(person) == [("letter", "handed_over")]
    source.settle([delivery.handle])
    case.clock.at += timedelta(minutes=1)
    assert source.receive(200, 0) == []
    assert LetterBatches(tmp_path / "letters", SetClock(NOW)).receive(200, 0) == []


def test_a_letter_that_was_written_twice_is_posted_once_and_erased_twice(case: Case, tmp_path: Path) -> None:
    person, root = case.person(1, ("letter",)), tmp_path / "letters"
    written(case, root, reported=False)
    for minutes in (1, 10):
        case.clock.at += timedelta(minutes=minutes)
        case.ledger.sweep(command_patience=None, intent_patience=timedelta(0), unknown_patience=timedelta(minutes=5))
    assert case.states(person) == [("letter", "planned")], "nobody had read the folder"
    (again,) = written(case, root)
    source = LetterBatches(root, case.clock)
    for delivery in source.receive(200, 0):
        case.ledger.settle_receipts(delivery.receipts)
    assert case.states(person) == [("letter", "handed_over")]
    store, post = SqlCaseStore(case.database, case.clock), PostedLetters(root, case.ledger)
    batches = sorted(post.batches(INCIDENT), key=lambda each: each.ready_count)
    first, second = batches
    assert (first.ready_count, second.ready_count) == (0, 1)
    assert first.kept_back == {1: f"written once more: 0001 of {second.name}"}
    assert json.loads((second.folder / "manifest.json").read_bytes())["letters"][0]["call"] == again.send_count
    record = partial(record_posted, store, post, INCIDENT, actor=RESPONDER, now=NOW, at=NOW, reason="r")
    with pytest.raises(Refused, match=r"0001 \(written once more: 0001 of .*\); take them out"):
        record(first.name)
    assert record(second.name)[1] == 1
    assert case.end(person) == "reached"
    ask_to_erase(case, person, WrittenLetters(root))
    assert [path.name for path in root.glob("*/*/*.pdf")] == []


def ask_to_erase(case: Case, recipient_id: str, letters: WrittenLetters) -> None:
    with case.database.write() as connection:
        notices = connection.execute(
            sa.select(tables.recipient.c.recipient_id, tables.recipient.c.incident_id).where(
                tables.recipient.c.recipient_id == recipient_id
            )
        ).all()
        Erasures(case.database, case.clock, letters)._erase_letters(connection, notices)


def test_a_clock_that_is_set_back_hides_no_letters(case: Case, tmp_path: Path) -> None:
    source = LetterBatches(tmp_path / "letters", case.clock)
    assert source.receive(200, 0) == []
    case.person(1, ("letter",))
    written(case, tmp_path / "letters", reported=False)
    case.clock.at -= timedelta(hours=1)
    assert len(source.receive(200, 0)) == 1


def test_a_batch_that_cannot_be_read_or_marked_holds_up_no_other(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unreadable = tmp_path / INCIDENT / "000" / "manifest.json"
    unreadable.mkdir(parents=True)
    source = LetterBatches(tmp_path, case.clock)
    with pytest.raises(Unreachable, match="letters cannot be read"):
        source.receive(200, 0)
    case.person(1, ("letter",))
    written(case, tmp_path)
    case.clock.at += timedelta(seconds=2)
    (delivery,) = source.receive(200, 0)
    # whoever printed it removes it in this moment
    shutil.rmtree(delivery.handle)
    source.settle([delivery.handle])
    unreadable.rmdir()
    case.clock.at += timedelta(seconds=2)
    assert source.receive(200, 0) == []


def test_a_manifest_that_is_none_is_said_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / INCIDENT / "abc"
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    (delivery,) = LetterBatches(tmp_path, SetClock(NOW)).receive(200, 0)
    assert delivery.error is not None
    assert "not the manifest of a letter batch" in delivery.error


def test_who_hands_letters_to_the_post_says_so_and_what_comes_back_goes_on_by_the_next_channel(
    case: Case, tmp_path: Path
) -> None:
    people = [case.person(number, ("letter", "sms")) for number in (1, 2)]
    root = tmp_path / "letters"
    intents = written(case, root)
    store, post = SqlCaseStore(case.database, case.clock), PostedLetters(root, case.ledger)
    (batch,) = post.batches(INCIDENT)
    assert batch.states == {"handed_over": 2}
    with pytest.raises(Refused, match=r"may not letters\.record"):
        record_posted(store, post, INCIDENT, batch.name, VIEWER, NOW, NOW, reason="r")
    with pytest.raises(BadInput, match="lies ahead"):
        record_posted(store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW + timedelta(hours=1), reason="r")
    with pytest.raises(BadInput, match="has no letter batch"):
        record_posted(store, post, INCIDENT, "beef", RESPONDER, NOW, NOW, reason="r")
    assert record_posted(store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW, reason="receipt 12")[1] == 2
    assert record_posted(store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW, reason="once more")[1] == 0
    assert [case.end(person) for person in people] == ["reached", "reached"]
    number = next(n for n, (attempt_id, _) in batch.letters.items() if attempt_id == intents[0].attempt_id)
    with pytest.raises(BadInput, match="has no letter 9"):
        record_returned(store, post, INCIDENT, batch.name, [9], RESPONDER, NOW, reason="r")
    assert record_returned(store, post, INCIDENT, batch.name, [number], RESPONDER, NOW, reason="moved away")[1] == 1
    assert case.states(intents[0].recipient_id) == [("letter", "bounced"), ("sms", "planned")]
    events = [each for each in case.case_events() if each["kind"].startswith("letters.")]
    assert [each["body"]["letter_count"] for each in events] == [2, 2, 1]
    assert {each["body"]["manifest_sha256"] for each in events} == {batch.sha256}


@pytest.mark.parametrize("deadline", [timedelta(hours=-1), timedelta(minutes=30)])
def test_a_near_deadline_gives_up_no_letter_that_lies_ready_where_no_channel_is_left(
    case: Case, tmp_path: Path, deadline: timedelta
) -> None:
    person = case.person(1, ("letter",), deadline_at=NOW + deadline)
    hurried = case.person(2, ("letter", "sms"), deadline_at=NOW + deadline)
    written(case, tmp_path)
    store, post = SqlCaseStore(case.database, case.clock), PostedLetters(tmp_path, case.ledger)
    sweep = partial(case.ledger.sweep, command_patience=None, intent_patience=LONG, unknown_patience=LONG)
    case.clock.at += timedelta(hours=3, minutes=59)
    assert (sweep(), sweep()) == (1, 0)
    assert (case.states(person), case.end(person)) == ([("letter", "handed_over")], None)
    assert case.states(hurried) == [("letter", "expired"), ("sms", "planned")]
    assert post.batches(INCIDENT)[0].ready_count == 2
    (text,) = case.claim(SMS_LANE)
    case.hand_over([text])
    case.receive(text, ReceiptKind.DELIVERED)
    assert post.batches(INCIDENT)[0].ready_count == 1, "who was reached meanwhile needs no letter"
    case.clock.at += timedelta(minutes=2)
    assert sweep() == 1, "for as long as a letter may"
    assert (case.states(person), case.end(person)) == ([("letter", "expired")], "unreachable_reported")
    (batch,) = post.batches(INCIDENT)
    record_posted(store, post, INCIDENT, batch.name, RESPONDER, case.clock.at, case.clock.at, reason="late")
    assert case.end(person) == "reached"


def test_a_letter_beside_a_mail_is_awaited_past_a_deadline_and_ends_with_its_incident(
    case: Case, tmp_path: Path
) -> None:
    terms = {"bundle_sha256": "b" * 64, "channels": ["email", "letter"], "together": [["email", "letter"]]}
    with case.database.write() as connection:
        connection.execute(
            sa.update(tables.segment).values(channels=terms["channels"], key={"together": terms["together"]})
        )
        connection.execute(sa.update(tables.release).values(policy={"segments": {"s1": terms}}))
    person = case.person(1, ("email", "letter"), deadline_at=NOW + timedelta(minutes=30))
    (mail,) = case.claim(EMAIL_LANE)
    case.hand_over([mail])
    case.receive(mail, ReceiptKind.DELIVERED)
    written(case, tmp_path)
    sweep = partial(case.ledger.sweep, command_patience=None, intent_patience=LONG, unknown_patience=LONG)
    case.clock.at += timedelta(hours=1)
    assert sweep() == 0
    assert case.end(person) is None
    with case.database.write() as connection:
        connection.execute(sa.update(tables.attempt).values(expires_at=case.clock.at))
        connection.execute(sa.update(tables.incident).values(state="closed", closed_at=case.clock.at))
    case.clock.at += timedelta(minutes=1)
    assert sweep() == 1
    assert case.end(person) == "reached"


def hold(case: Case, **changes: Any) -> None:
    row: dict[str, Any] = {
        "gate_id": "g1", "incident_id": INCIDENT, "kind": "law_enforcement_hold", "covers": [], "controller": None,
        "segments": None, "people": None, "set_at": NOW, "set_by": "dora", "reason": "r",
    }  # fmt: skip
    with case.database.write() as connection:
        connection.execute(sa.insert(tables.gate).values(**{**row, **changes}))


def test_a_letter_that_was_written_before_a_hold_is_taken_out_and_posted_once_it_is_lifted(
    case: Case, tmp_path: Path
) -> None:
    free, held = (case.person(number, ("letter",)) for number in (1, 2))
    intents = written(case, tmp_path)
    store, post = SqlCaseStore(case.database, case.clock), PostedLetters(tmp_path, case.ledger)
    hold(case, people=["customer/2"])
    (batch,) = post.batches(INCIDENT)
    number = next(n for n, (each, _) in batch.letters.items() if each == intents[1].attempt_id)
    assert (batch.ready_count, batch.kept_back) == (1, {number: "a hold"})
    record = partial(record_posted, store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW, reason="r")
    with pytest.raises(Refused, match=rf"000{number} \(a hold\); take them out and say --without {number}"):
        record()
    assert case.end(free) is None
    with pytest.raises(BadInput, match="has no letter 9"):
        record(without=[9])
    assert record(without=[number])[1] == 1
    assert (case.end(free), case.end(held)) == ("reached", None)
    with case.database.write() as connection:
        connection.execute(sa.update(tables.gate).values(lifted_at=NOW, lifted_by="dora"))
    assert record()[1] == 1
    assert case.end(held) == "reached"
    events = [each["body"]["letter_count"] for each in case.case_events() if each["kind"] == "letters.posted"]
    assert events == [1, 2]


@pytest.mark.parametrize("state", ["paused", "cancelled", "void"])
def test_letters_of_a_release_that_was_stopped_are_not_asked_for_and_what_went_all_the_same_is_recorded(
    case: Case, tmp_path: Path, state: str
) -> None:
    person = case.person(1, ("letter",))
    written(case, tmp_path)
    store, post = SqlCaseStore(case.database, case.clock), PostedLetters(tmp_path, case.ledger)
    with case.database.write() as connection:
        connection.execute(sa.update(tables.release).values(state=state))
    (batch,) = post.batches(INCIDENT)
    assert (batch.ready_count, batch.kept_back) == (0, {1: f"their release is {state}"})
    assert batch.kept_back_in_words == f"0001 (their release is {state})"
    record = partial(record_posted, store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW, reason="r")
    with pytest.raises(Refused, match="nothing was recorded"):
        record()
    assert record(all_went=True)[1] == 1
    assert case.end(person) == "reached"


def test_files_that_are_not_what_was_written_are_not_posted(case: Case, tmp_path: Path) -> None:
    person = case.person(1, ("letter",))
    written(case, tmp_path)
    store, post = SqlCaseStore(case.database, case.clock), PostedLetters(tmp_path, case.ledger)
    (batch,) = post.batches(INCIDENT)
    (batch.folder / "0001.pdf").write_bytes(b"another")
    with pytest.raises(Refused, match="not what was written"):
        record_posted(store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW, reason="r")
    (batch.folder / "0001.pdf").unlink()
    with pytest.raises(Refused, match="is missing"):
        record_posted(store, post, INCIDENT, batch.name, RESPONDER, NOW, NOW, reason="r")
    assert case.end(person) is None
