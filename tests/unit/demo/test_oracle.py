"""The oracle must fail a demo whose witnesses are wrong in any one thing; else its green means nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from consumers.demo import shop as shop_of
from consumers.demo.oracle import (
    Expected,
    LedgerRow,
    LogTally,
    compare_ledger,
    compare_log,
    compare_mailbox,
    expectations,
)
from consumers.demo.shop import Shop, make_shop

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)

SENTENCES: Mapping[str, Mapping[tuple[str, str], str]] = {
    language: {
        pair: f"{language} sentence on {pair[0]} {pair[1]}."
        for pair in (("derived", "fraud_assessment"), ("inferred", "payment_dispute"), ("synthetic", "transactions"))
    }
    for language in ("de", "en")
}

Message = dict[str, Any]


@pytest.fixture(scope="module")
def shop() -> Shop:
    return make_shop(300, 5, NOW)


def test_a_number_whose_sms_fail_is_one_persons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shop_of, "_phone", lambda *_: "+4915100000001")
    people = make_shop(300, 5, NOW).people
    assert sum(not person.sms_works for person in people) > 1
    assert [person.sms_works for person in people if person.phone is not None] == [False]


@pytest.fixture(scope="module")
def expected(shop: Shop) -> Sequence[Expected]:
    return expectations(shop)


def _ledger(expected: Sequence[Expected]) -> list[LedgerRow]:
    return [LedgerRow(item.roots, item.end, item.steps, f"c{number}") for number, item in enumerate(expected)]


def _mailbox(expected: Sequence[Expected]) -> list[Message]:
    messages: list[Message] = []
    for item in expected:
        language = item.locale.partition("_")[0]
        text = " ".join([f"{item.first_name}!", *(SENTENCES[language][pair] for pair in sorted(item.told))])
        messages.append({"channel": "email", "to": item.email, "text": text, "html": f"<p>{text}</p>"})
        if any(channel == "sms" for channel, _ in item.steps):
            messages.append({"channel": "sms", "to": item.phone, "text": "See your account.", "html": None})
    return messages


def _log(rows: Sequence[LedgerRow]) -> LogTally:
    return LogTally(
        {(row.commitment, number): step for row in rows for number, step in enumerate(row.steps, 1)},
        {row.commitment: str(row.end) for row in rows},
    )


def _at(rows: Sequence[Any], condition: Callable[[Any], bool]) -> int:
    return next(index for index, row in enumerate(rows) if condition(row))


def test_witnesses_that_are_right_have_no_fault(expected: Sequence[Expected]) -> None:
    rows = _ledger(expected)
    assert compare_ledger(expected, rows) == []
    assert compare_mailbox(expected, _mailbox(expected), SENTENCES) == []
    assert compare_log(rows, _log(rows)) == []


@pytest.mark.parametrize("seed", range(20))
def test_every_way_to_end_occurs_whatever_the_seed(seed: int) -> None:
    """A shop without bounces or leavers would prove nothing about them."""
    small = make_shop(200, seed, NOW)
    wanted = expectations(small)
    steps = {item.steps for item in wanted}
    assert (("email", "delivered"),) in steps
    assert (("email", "bounced"), ("sms", "delivered")) in steps
    assert any(item[-1] == ("account_notice", "read") for item in steps)
    assert (("email", "bounced"), ("account_notice", "expired"), ("letter", "delivered")) in steps
    assert (("email", "bounced"), ("account_notice", "expired"), ("letter", "bounced")) in steps
    assert (("email", "expired"), ("sms", "delivered")) in steps
    assert (("email", "complained"),) in steps
    assert {item.end for item in wanted} == {"reached", "unreachable_reported"}
    told = {item.email for item in wanted}
    leavers = [person for person in small.people if person.leaves]
    assert len(leavers) == 3
    assert all(person.email in told for person in leavers)


def test_nobody_is_expected_whom_the_leak_does_not_concern(shop: Shop, expected: Sequence[Expected]) -> None:
    assert 0 < len(expected) < len(shop.people)
    assert all(item.told for item in expected)
    assert sum(len(item.roots) for item in expected) == len({root for item in expected for root in item.roots})


class TestLedger:
    def test_a_person_who_is_missing(self, expected: Sequence[Expected]) -> None:
        (fault,) = compare_ledger(expected, _ledger(expected)[1:])
        assert "should have been told" in fault

    def test_a_person_too_many(self, expected: Sequence[Expected]) -> None:
        stranger = LedgerRow(frozenset({"customer/999999"}), "reached", (("email", "delivered"),), "x")
        (fault,) = compare_ledger(expected, [*_ledger(expected), stranger])
        assert "customer/999999 should not" in fault

    def test_a_person_twice(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        assert compare_ledger(expected, [*rows, rows[0]])

    def test_one_person_taken_for_two(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        at = _at(rows, lambda row: len(row.roots) > 1)
        first, *others = sorted(rows[at].roots)
        rows[at : at + 1] = [
            replace(rows[at], roots=frozenset({first})),
            replace(rows[at], roots=frozenset(others), commitment="x"),
        ]
        assert len(compare_ledger(expected, rows)) == 3

    @pytest.mark.parametrize("state", ["handed_over", "bounced", "unknown"])
    def test_another_state(self, state: str, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        at = _at(rows, lambda row: row.steps == (("email", "delivered"),))
        rows[at] = replace(rows[at], steps=(("email", state),))
        assert len(compare_ledger(expected, rows)) == 1

    def test_a_fallback_that_did_not_happen(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        at = _at(rows, lambda row: len(row.steps) > 1)
        rows[at] = replace(rows[at], steps=rows[at].steps[:-1])
        assert len(compare_ledger(expected, rows)) == 1

    @pytest.mark.parametrize("end", [None, "substituted", "unreachable_reported"])
    def test_another_end_or_none(self, end: str | None, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        at = _at(rows, lambda row: row.end == "reached")
        rows[at] = replace(rows[at], end=end)
        assert len(compare_ledger(expected, rows)) == 1

    def test_a_great_many_faults_are_cut(self, expected: Sequence[Expected]) -> None:
        faults = compare_ledger(expected, [])
        assert len(faults) == 21
        assert faults[-1] == f"... and {len(expected) - 20} more"


class TestMailbox:
    @pytest.mark.parametrize("channel", ["email", "sms"])
    def test_a_message_that_never_left(self, channel: str, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        del messages[_at(messages, lambda message: message["channel"] == channel)]
        assert compare_mailbox(expected, messages, SENTENCES)

    @pytest.mark.parametrize("channel", ["email", "sms"])
    def test_a_message_that_left_twice(self, channel: str, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        messages.append(messages[_at(messages, lambda message: message["channel"] == channel)])
        assert compare_mailbox(expected, messages, SENTENCES)

    def test_a_mail_to_somebody_else(self, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        messages[0]["to"] = "someone.else@de.example.com"
        assert compare_mailbox(expected, messages, SENTENCES)

    def test_two_mails_in_each_others_envelope(self, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        one, other = [message for message in messages if message["channel"] == "email"][:2]
        one["to"], other["to"] = other["to"], one["to"]
        faults = compare_mailbox(expected, messages, SENTENCES)
        assert sum("does not address its reader" in fault for fault in faults) == 2

    def test_a_sentence_that_is_missing(self, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        messages[0]["text"] = expected[0].first_name
        assert all("does not tell of" in fault for fault in compare_mailbox(expected, messages, SENTENCES))
        assert compare_mailbox(expected, messages, SENTENCES)

    def test_a_sentence_about_somebody_elses_data(self, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        at = _at(expected, lambda item: ("synthetic", "transactions") not in item.told)
        mail = messages[_at(messages, lambda message: message["to"] == expected[at].email)]
        language = expected[at].locale.partition("_")[0]
        mail["text"] += f" {SENTENCES[language]['synthetic', 'transactions']}"
        (fault,) = compare_mailbox(expected, messages, SENTENCES)
        assert fault.endswith("the mail tells of synthetic transactions data")

    @pytest.mark.parametrize("part", ["text", "html"])
    def test_a_slot_that_was_left_open(self, part: str, expected: Sequence[Expected]) -> None:
        messages = _mailbox(expected)
        messages[0][part] += " {{case_number}}"
        (fault,) = compare_mailbox(expected, messages, SENTENCES)
        assert "unfilled slot" in fault

    def test_no_fault_shows_a_personal_value(self, expected: Sequence[Expected]) -> None:
        messages = [message | {"text": "", "html": ""} for message in _mailbox(expected)]
        said = " ".join(compare_mailbox(expected, messages, SENTENCES)).lower()
        assert said
        assert not any(item.email in said or item.first_name.lower() in said.split() for item in expected)


class TestEvidenceLog:
    def test_an_attempt_that_was_not_logged(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        tally = _log(rows)
        attempts = dict(tally.attempts)
        del attempts[rows[0].commitment, 1]
        assert len(compare_log(rows, replace(tally, attempts=attempts))) == 1

    def test_an_attempt_logged_with_another_state(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        tally = _log(rows)
        altered = replace(tally, attempts={**tally.attempts, (rows[0].commitment, 1): ("email", "handed_over")})
        assert len(compare_log(rows, altered)) == 1

    def test_an_end_that_was_not_logged(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        tally = _log(rows)
        ends = {commitment: end for commitment, end in tally.ends.items() if commitment != rows[0].commitment}
        assert len(compare_log(rows, replace(tally, ends=ends))) == 1

    def test_a_person_whom_the_ledger_lost(self, expected: Sequence[Expected]) -> None:
        rows = _ledger(expected)
        (fault,) = compare_log(rows[1:], _log(rows))
        assert "whom the ledger does not know" in fault
