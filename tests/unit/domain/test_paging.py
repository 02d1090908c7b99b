"""When pages go out: at once, again, further; nothing is forgotten while nobody looks, and nothing goes on once somebody does."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.domain.paging import (
    UNSENT,
    PagingPolicy,
    ReceiverKind,
    Sent,
    StandingPage,
    is_due,
    is_escalated,
    summary,
    without_contacts,
)

NOW = datetime(2026, 3, 1, 3, 0, tzinfo=UTC)
POLICY = PagingPolicy()
KINDS = st.sampled_from(list(ReceiverKind))
MINUTES = st.integers(0, 600).map(lambda number: timedelta(minutes=number))


def page(raised: timedelta = timedelta(), **facts: object) -> StandingPage:
    known: dict[str, object] = {
        "page_id": "p1", "incident_id": "INC-2026-0007", "kind": "incident.opened", "severity": "critical",
        "title": "INC-2026-0007 suspected: output log exposed", "facts": {}, "next_command": "tocsin incident ack INC-2026-0007",
        "raised_at": NOW - raised, "settled": False, "exercise": False, "deadline_at": None,
    } | facts  # fmt: skip
    return StandingPage(**known)  # type: ignore[arg-type]


def due(
    standing: StandingPage, kind: ReceiverKind, sent: Sent = UNSENT, *, reached_other: bool = False, at: datetime = NOW
) -> bool:
    return is_due(standing, kind, sent, reached_other=reached_other, now=at, policy=POLICY)


@given(KINDS, MINUTES, st.booleans())
def test_an_unsettled_page_always_comes_due_for_some_receiver(
    kind: ReceiverKind, waited: timedelta, other: bool
) -> None:
    """Whatever was delivered before, it is told again within the longest interval."""
    standing = page(waited)
    sent = Sent(NOW - POLICY.repeat_critical, 0, NOW - POLICY.repeat_critical, settled=False)
    expected = kind is not ReceiverKind.ESCALATION or waited >= POLICY.escalate_after
    if kind is ReceiverKind.LAST_RESORT:
        expected = not other and waited >= POLICY.last_resort_after
    assert due(standing, kind, sent, reached_other=other) is expected


@given(KINDS, MINUTES, st.integers(0, 40))
def test_a_receiver_that_fails_is_tried_again_within_two_minutes(
    kind: ReceiverKind, waited: timedelta, failures: int
) -> None:
    standing = page(waited + timedelta(hours=1))
    sent = Sent(None, failures, NOW, settled=False)
    assert due(standing, kind, sent, at=NOW + POLICY.longest_pause)
    assert due(standing, kind, sent) is (failures == 0)


@given(KINDS, MINUTES, st.booleans())
def test_a_settled_page_is_told_once_to_those_who_heard_of_it(
    kind: ReceiverKind, waited: timedelta, heard: bool
) -> None:
    standing = page(waited, settled=True)
    sent = Sent(NOW - timedelta(minutes=1) if heard else None, 0, None, settled=False)
    assert due(standing, kind, sent) is heard
    assert not due(standing, kind, Sent(NOW, 0, NOW, settled=True))


def test_the_last_resort_is_one() -> None:
    fresh, old = page(), page(POLICY.last_resort_after)
    assert not due(fresh, ReceiverKind.LAST_RESORT)
    assert due(old, ReceiverKind.LAST_RESORT)
    assert not due(old, ReceiverKind.LAST_RESORT, reached_other=True)


def test_who_cannot_be_acknowledged_is_told_once_each_time_it_is_raised() -> None:
    standing = page(timedelta(hours=9), incident_id=None)
    sent = Sent(NOW - timedelta(hours=8), 0, NOW - timedelta(hours=8), settled=False)
    assert not due(standing, ReceiverKind.ON_CALL, sent)
    assert due(page(timedelta(hours=1), incident_id=None), ReceiverKind.ON_CALL, sent)
    assert not is_escalated(standing, NOW, POLICY)


def test_a_page_says_what_how_many_and_how_long() -> None:
    said = summary(
        page(
            facts={"affected_count": 22014, "unknown": ["x@y.example"], "ok": True},
            deadline_at=NOW + timedelta(hours=71),
        ),
        NOW,
    )
    assert said == "INC-2026-0007 suspected: output log exposed; affected 22,014; 71 h to the earliest deadline"
    assert "missed 2 h ago" in summary(page(deadline_at=NOW - timedelta(hours=2)), NOW)
    assert summary(page(exercise=True), NOW).startswith("EXERCISE: ")
    assert summary(page(title="provider ill"), NOW).startswith("INC-2026-0007: provider ill")


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("INC-2026-0007 suspected: log of fraud-scorer 7", "INC-2026-0007 suspected: log of fraud-scorer 7"),
        ("mail to kim@shop.example seen", "mail to [left out] seen"),
        ("call +49 171 3920002 now", "call [left out] now"),
        ("INC-2026-0007: (0171) 392-0002", "INC-2026-0007: ([left out]"),
        ("<kim@shop.example>", "[left out]"),
    ],
)
def test_what_looks_like_a_contact_stays_here(said: str, kept: str) -> None:
    assert without_contacts(said) == kept
