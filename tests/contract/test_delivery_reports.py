"""What servers mail back about messages sent by SMTP: who is believed, what each report means, and hostile mail."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import SetClock
from consumers.adapters.delivery_reports import LENT_FOR, MAX_BYTES, MaildirReports, ReturnPath
from consumers.adapters.smtp_email import SmtpEmail
from consumers.domain.sending import Receipt, ReceiptKind, SendState
from tests.contract.aws_sandbox import bulk, entry
from tests.contract.test_smtp import AT, Inbox, smtp_running

OURS = ReturnPath("bounce@shop.example.com", b"k" * 32)
ATTEMPT, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@pytest.fixture
def box(tmp_path: Path) -> Path:
    for name in ("new", "cur", "tmp"):
        (tmp_path / name).mkdir()
    return tmp_path


def put(box: Path, mail: str | bytes, name: str = "1700000000.M1.host") -> None:
    (box / "new" / name).write_bytes(mail.encode() if isinstance(mail, str) else mail)


def report(
    fields: str = "Action: failed\nStatus: 5.1.1",
    *,
    to: str | None = None,
    kind: str = "message/delivery-status",
    envelope_id: str = "",
    date: str = "Sun, 01 Mar 2026 11:59:00 +0000",
) -> str:
    """Return a report as mail servers write them."""
    return (
        f"Return-Path: <>\nFrom: MAILER-DAEMON@mx.example.com\nTo: {to or OURS.address_for(ATTEMPT)}\n"
        f"Subject: Delivery Status\nDate: {date}\nMIME-Version: 1.0\n"
        'Content-Type: multipart/report; report-type=delivery-status; boundary="b"\n\n'
        "--b\nContent-Type: text/plain\n\nThis is the mail system. ann@x.example.com: see below.\n\n"
        f"--b\nContent-Type: {kind}\n\nReporting-MTA: dns; mx.example.com\n{envelope_id}"
        f"Arrival-Date: {date}\n\nFinal-Recipient: rfc822; ann@x.example.com\n{fields}\n"
        "Diagnostic-Code: smtp; 550 5.1.1 <ann@x.example.com> unknown\n\n"
        "--b\nContent-Type: text/rfc822-headers\n\nTo: ann@x.example.com\nSubject: About your data\n\n--b--\n"
    )


def reader(box: Path) -> MaildirReports:
    return MaildirReports(box, OURS, SetClock(AT))


def read(box: Path) -> Sequence[Receipt]:
    source = reader(box)
    deliveries = source.receive(50, 0)
    assert [delivery.error for delivery in deliveries] == [None] * len(deliveries)
    source.settle([delivery.handle for delivery in deliveries])
    return [receipt for delivery in deliveries for receipt in delivery.receipts]


@pytest.mark.parametrize(
    ("fields", "kind", "word"),
    [
        ("Action: delivered\nStatus: 2.0.0", ReceiptKind.DELIVERED, "status_2_0_0"),
        ("Action: failed\nStatus: 5.1.1", ReceiptKind.BOUNCED_HARD, "status_5_1_1"),
        ("action: FAILED\nstatus: 4.2.2 (mailbox full)", ReceiptKind.BOUNCED_SOFT, "status_4_2_2"),
        ("Action: delayed\nStatus: 4.4.1\nWill-Retry-Until: later", ReceiptKind.DELAYED, "status_4_4_1"),
        ("Action: relayed\nStatus: 2.0.0", ReceiptKind.SENT, "relayed"),
        ("Action: expanded\nStatus: 2.0.0", ReceiptKind.SENT, "expanded"),
    ],
)
@pytest.mark.parametrize("form", ["message/delivery-status", "message/global-delivery-status"])
def test_each_action_says_what_it_says(box: Path, form: str, fields: str, kind: ReceiptKind, word: str) -> None:
    put(box, report(fields, kind=form))
    (receipt,) = read(box)
    assert (receipt.provider, receipt.attempt_id, receipt.kind, receipt.sub_type) == ("smtp", ATTEMPT, kind, word)
    assert receipt.occurred_at == datetime(2026, 3, 1, 11, 59, tzinfo=UTC)
    assert re.fullmatch(r"[A-Za-z][A-Za-z0-9_]{0,39}", word), "a word that the evidence log has in clear"
    assert list(box.glob("*/*")) == []


@pytest.mark.parametrize(
    ("status", "hard"),
    [
        ("5.0.0", True), ("5.1.1", True), ("5.1.10", True), ("5.2.1", True), ("5.4.1", True), ("5.4.4", True), ("5.5.0", True),
        ("5.7.17", True), ("5.7.18", True), ("5.7.13", False),
        ("5.1.7", False), ("5.1.8", False), ("5.2.2", False), ("5.2.3", False), ("5.3.4", False), ("5.4.6", False),
        ("5.5.2", False), ("5.6.1", False), ("5.7.1", False), ("5.7.26", False), ("5.7.130", False),
    ],
)  # fmt: skip
def test_what_is_refused_over_its_sender_or_its_text_writes_nobodys_address_off(
    box: Path, status: str, *, hard: bool
) -> None:
    put(box, report(f"Action: failed\nStatus: {status}"))
    (receipt,) = read(box)
    assert receipt.kind is (ReceiptKind.BOUNCED_HARD if hard else ReceiptKind.BOUNCED_SOFT)
    assert receipt.sub_type == f"status_{status.replace('.', '_')}"


def test_a_complaint_is_a_complaint(box: Path) -> None:
    mail = report("", to="feedback@shop.example.com", kind="message/feedback-report").replace(
        "Reporting-MTA: dns; mx.example.com\n",
        f"Feedback-Type: abuse\nOriginal-Mail-From: <{OURS.address_for(ATTEMPT)}>\n",
    )
    put(box, mail)
    (receipt,) = read(box)
    assert (receipt.attempt_id, receipt.kind, receipt.sub_type) == (ATTEMPT, ReceiptKind.COMPLAINED, "abuse")


def test_reference_in_capitals_or_in_the_envelope_id(box: Path) -> None:
    put(box, report(to=OURS.address_for(ATTEMPT).upper()), "1")
    put(box, report(to="bounce@shop.example.com", envelope_id=f"Original-Envelope-Id: {OURS.reference(OTHER)}\n"), "2")
    assert {receipt.attempt_id for receipt in read(box)} == {ATTEMPT, OTHER}


def test_the_same_report_mailed_twice_is_one_event_and_two_delays_are_two(box: Path) -> None:
    put(box, report(), "1")
    put(box, report().replace("Subject: Delivery", "Subject: Another"), "2")
    assert len({receipt.provider_event_id for receipt in read(box)}) == 1
    delayed = "Action: delayed\nStatus: 4.4.1"
    put(box, report(delayed), "3")
    put(box, report(delayed, date="Sun, 01 Mar 2026 11:20:00 +0000"), "4")
    assert len({receipt.provider_event_id for receipt in read(box)}) == 2


FORGED = OURS.address_for(OTHER).replace(OTHER, ATTEMPT)


@pytest.mark.parametrize(
    "mail",
    [
        report(to="bounce@shop.example.com"),
        report(to=FORGED),
        report(to=ReturnPath("bounce@shop.example.com", b"x" * 32).address_for(ATTEMPT)),
        report(to=f"bounce+{ATTEMPT}@shop.example.com", envelope_id=f"Original-Envelope-Id: {ATTEMPT}\n"),
        f"From: ann@x.example.com\nTo: {OURS.address_for(ATTEMPT)}\nSubject: Out of office\n\nI am away.\n",
        report() + "x" * MAX_BYTES,
        b"\xff\xfe\x00",
        b"",
    ],
    ids=["no tag", "another's tag", "another key", "no tag but the id", "absence note", "huge", "bytes", "empty"],
)
def test_what_is_no_report_about_a_message_of_ours_is_left_for_people(box: Path, mail: str | bytes) -> None:
    put(box, mail)
    put(box, report(), "later")
    assert len(read(box)) == 1
    assert [path.parent.name for path in box.glob("*/*")] == ["cur"]


@pytest.mark.parametrize(
    "fields",
    [
        "Action: exploded\nStatus: 5.1.1", "Action: failed\nStatus: 9.1.1", "Action: failed", "Status: 5.1.1",
        "\n\n".join(["Action: failed\nStatus: 5.1.1"] * 17),
    ],
)  # fmt: skip
def test_a_report_of_ours_that_cannot_be_read_goes_to_the_dead_letters_by_name_only(box: Path, fields: str) -> None:
    put(box, report(fields))
    (delivery,) = reader(box).receive(50, 0)
    assert delivery.error is not None
    assert "ann" not in delivery.error
    assert (delivery.receipts, b"ann@x.example.com" in delivery.raw) == ((), True)


def test_a_report_is_there_again_after_a_crash_before_it_was_stored(box: Path) -> None:
    put(box, report())
    first = reader(box)
    assert (len(first.receive(50, 0)), len(first.receive(50, 0))) == (1, 0)
    assert len(reader(box).receive(50, 0)) == 1


def test_a_report_that_was_not_settled_comes_again_and_holds_up_no_newer_one(box: Path) -> None:
    """The bound of dead letters keeps some where they are, without an end of the process."""
    put(box, report("Action: exploded\nStatus: 5.1.1"), "1")
    put(box, report(), "2")
    clock = SetClock(AT)
    source = MaildirReports(box, OURS, clock)
    assert [each.handle for each in source.receive(1, 0)] == ["1"]
    assert [each.handle for each in source.receive(1, 0)] == ["2"]
    source.settle(["2"])
    assert source.receive(50, 0) == []
    clock.at += LENT_FOR
    assert [each.handle for each in source.receive(50, 0)] == ["1"]
    clock.at -= timedelta(days=1)
    assert [each.handle for each in source.receive(50, 0)] == ["1"], "a clock that is set back hides nothing"


def test_a_report_that_cannot_be_opened_holds_up_no_other(box: Path) -> None:
    (box / "new" / "1").mkdir()
    (box / "new" / "3").mkdir()
    put(box, report(), "2")
    (box / "new" / "4").symlink_to(box / "gone")
    source = reader(box)
    deliveries = source.receive(50, 0)
    assert [each.handle for each in deliveries] == ["2"]
    source.settle(["2"])
    with pytest.raises(Unreachable, match="reports_maildir"):
        source.receive(50, 0)


def test_dates_of_reports_are_not_believed_into_the_future(box: Path) -> None:
    put(box, report(date="Tue, 01 Jan 2999 00:00:00 +0000"), "1")
    put(box, report("Action: failed\nStatus: 5.2.1\nLast-Attempt-Date: 99999999999999", date="soon"), "2")
    assert [receipt.occurred_at for receipt in read(box)] == [AT, AT]


@pytest.mark.parametrize(
    "date", ["Fri, 31 Dec 9999 23:59:59 -1200", "Sat, 01 Jan 0101 00:00:00 +1400", "Thu, 01 Jan 1970 00:00:00 +0000"]
)
def test_a_date_that_cannot_be_breaks_nothing_and_makes_no_receipt_old(box: Path, date: str) -> None:
    put(box, report(f"Action: failed\nStatus: 5.1.1\nLast-Attempt-Date: {date}", date=date))
    (receipt,) = read(box)
    assert timedelta(0) <= AT - receipt.occurred_at <= timedelta(days=90)


def test_a_maildir_that_is_not_there_is_said_by_name(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match="reports_maildir"):
        reader(tmp_path / "none").receive(1, 0)


@given(st.binary(max_size=300), st.integers(0, 1500))
def test_no_mail_breaks_the_reader(tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int) -> None:
    box = tmp_path_factory.getbasetemp() / "noise"
    for name in ("new", "cur"):
        (box / name).mkdir(parents=True, exist_ok=True)
    whole = report().encode()
    put(box, whole[:at] + noise + whole[at:])
    source = reader(box)
    source.settle([delivery.handle for delivery in source.receive(50, 0)])
    assert list((box / "new").iterdir()) == []


@pytest.mark.parametrize("address", ["bounces-of-us@shop.example.com", "bounce", "a+b@shop.example.com", "@x.example"])
def test_a_return_path_leaves_room_for_the_tag(address: str) -> None:
    with pytest.raises(BadInput, match="return_path"):
        ReturnPath(address, b"k" * 32)
    assert len(OURS.address_for(ATTEMPT).partition("@")[0]) <= 64


class TestOnTheWire:
    """What a server gets, and what it mails back."""

    @pytest.fixture
    def server(self) -> Iterator[tuple[Inbox, SmtpEmail]]:
        with smtp_running() as (inbox, plain):
            sender = SmtpEmail(plain.server, SetClock(AT), OURS)
            yield inbox, sender
            sender.close()

    def test_each_message_has_a_return_path_of_its_own_and_the_report_finds_it(
        self, server: tuple[Inbox, SmtpEmail], box: Path
    ) -> None:
        inbox, sender = server
        results = sender.send_bulk(bulk(entry(ATTEMPT, "ann@x.example.com"), entry(OTHER, "bo@x.example.com")))
        assert [result.state for result in results] == [SendState.ACCEPTED] * 2
        for envelope in inbox.envelopes:
            assert {"RET=HDRS"} < set(envelope.mail_options)
            assert envelope.rcpt_options == ["NOTIFY=SUCCESS,FAILURE,DELAY"]
            assert envelope.mail_from is not None
            (wanted,) = (each for each in envelope.mail_options if each.startswith("ENVID="))
            to_be_reported = f"Original-Envelope-Id: {wanted.partition('=')[2]}\n"
            put(box, report(to=envelope.mail_from, envelope_id=to_be_reported), str(envelope.rcpt_tos))
        assert [mail["From"] for mail in inbox.mails] == ["Shop <privacy@shop.example.com>"] * 2
        assert {receipt.attempt_id for receipt in read(box)} == {ATTEMPT, OTHER}
        # nothing that one reader was sent tells another's
        assert not re.search(OURS.reference(OTHER), inbox.mails[0].as_string())
