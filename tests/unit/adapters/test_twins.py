"""One person under several roots in several incidents: told each text once, and told as long as a channel works."""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from consumers.adapters.case_store import tables
from consumers.adapters.case_store.planning import PlanningTables
from consumers.domain.ledger import Intent
from consumers.domain.planning import PeopleChange, PlanId
from consumers.domain.sending import ReceiptKind
from tests.unit.adapters.ledger_case import (
    APPROVED,
    EMAIL_LANE,
    INCIDENT,
    SMS_LANE,
    Case,
    sqlite_case,
)
from tests.unit.shipped_law import shipped_law

TEXT = "d" * 64
INCIDENTS = (INCIDENT, "INC-2026-0002", "INC-2026-0003")
CHANNELS = ("email", "sms")
IN_FLIGHT = ("commanded", "intended", "handed_over", "unknown")


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    made = sqlite_case(tmp_path)
    yield made
    made.database.close()


def open_incident(case: Case, number: int) -> None:
    """Open another incident with a release of its own that runs."""
    name = INCIDENTS[number]
    with case.database.write() as connection:

        def copy(table: sa.Table, key: sa.Column[Any], value: str, **changes: Any) -> None:
            row = connection.execute(sa.select(table).where(key == value)).mappings().one()
            connection.execute(sa.insert(table).values(**{**row, **changes}))

        copy(
            tables.incident, tables.incident.c.incident_id, INCIDENT, incident_id=name, number=number + 1,
            fingerprint=name, fingerprint_sha256=f"{number:064d}",
        )  # fmt: skip
        copy(tables.segment, tables.segment.c.segment_id, "s1", segment_id=f"s{number + 1}", incident_id=name)
        copy(
            tables.release, tables.release.c.release_id, "r1", release_id=f"r{number + 1}", incident_id=name,
            policy={"segments": {f"s{number + 1}": APPROVED}},
        )  # fmt: skip


def add(case: Case, incident: int, *roots: str, text: str = TEXT, **changes: Any) -> str:
    """Add a person to whom the roots belong; the first is the one by which they are known."""
    name = INCIDENTS[incident]
    return case.person(
        sum(map(ord, roots[0])), **{
            "recipient_id": f"{name}:{roots[0]}", "incident_id": name, "segment_id": f"s{incident + 1}", "root": roots[0],
            "roots": sorted(roots), "customer_id": None, "notice_sha256": text, **changes,
        },
    )  # fmt: skip


def correct(case: Case, recipient_id: str) -> None:
    """Let a corrected scope leave out somebody who was told."""
    change = PeopleChange((), {}, (), (), {recipient_id: "not_concerned"}, ())
    planning = PlanningTables(case.database, case.clock, shipped_law, case.ledger.take_back)
    with case.database.write() as connection:
        planning._write_people(connection, PlanId(recipient_id.partition(":")[0], 1), change, case.clock.now())


def told_in(case: Case, recipient_id: str) -> str | None:
    with case.database.read() as connection:
        of_them = tables.recipient.c.recipient_id == recipient_id
        found: str | None = connection.execute(sa.select(tables.recipient.c.told_in).where(of_them)).scalar_one()
        return found


SECOND_ROOTS = [
    pytest.param(("order/11",), ("customer/1", "order/11"), id="merged there"),
    pytest.param(("customer/1", "order/11"), ("order/11",), id="merged here"),
    pytest.param(("customer/1", "order/11"), ("customer/2", "order/11"), id="merged in both"),
]


class TwinCases:
    """Whatever database is below; a subclass has the fixture `case`."""

    @pytest.mark.parametrize(("here", "there"), SECOND_ROOTS)
    def test_who_is_told_under_another_root_is_told_once(
        self, case: Case, here: tuple[str, ...], there: tuple[str, ...]
    ) -> None:
        open_incident(case, 1)
        first, second = add(case, 0, *here), add(case, 1, *there)
        (mail,) = case.claim(EMAIL_LANE)
        assert mail.recipient_id == first
        assert case.claim(EMAIL_LANE) == [], "it may arrive yet"
        assert case.pages() == [], "nobody waits for an approval"
        case.hand_over([mail])
        case.receive(mail, ReceiptKind.DELIVERED)
        assert case.claim(EMAIL_LANE) == []
        assert (case.end(second), case.states(second), told_in(case, second)) == ("reached", [], first)

    @pytest.mark.parametrize("not_told", ["bounced", "put right"])
    @pytest.mark.parametrize(("here", "there"), SECOND_ROOTS)
    def test_who_was_not_told_under_another_root_after_all_has_their_turn_again(
        self, case: Case, here: tuple[str, ...], there: tuple[str, ...], not_told: str
    ) -> None:
        open_incident(case, 1)
        first, second = add(case, 0, *here, channels=["email"]), add(case, 1, *there)
        (mail,) = case.claim(EMAIL_LANE)
        case.hand_over([mail])
        case.receive(mail, ReceiptKind.DELIVERED)
        case.ledger.begin_attempts(10)
        assert case.end(second) == "reached"
        if not_told == "bounced":
            case.receive(mail, ReceiptKind.BOUNCED_SOFT)
        else:
            correct(case, first)
        assert (case.end(second), told_in(case, second)) == (None, None)
        (again,) = case.claim(EMAIL_LANE)
        assert again.recipient_id == second

    def test_two_roots_that_a_third_incident_knows_as_one_person_are_told_once(self, case: Case) -> None:
        open_incident(case, 1)
        open_incident(case, 2)
        first, second = add(case, 0, "customer/1"), add(case, 1, "order/11")
        both = add(case, 2, "customer/1", "order/11")
        (mail,) = case.claim(EMAIL_LANE)
        case.hand_over([mail])
        case.receive(mail, ReceiptKind.DELIVERED)
        assert case.claim(EMAIL_LANE) == []
        others = {first, second, both} - {mail.recipient_id}
        assert {told_in(case, each) for each in others} == {mail.recipient_id}
        case.receive(mail, ReceiptKind.BOUNCED_SOFT)
        assert {case.end(each) for each in (first, second, both)} == {None}

    def test_who_waits_by_way_of_a_third_incident_waits_for_no_approval_and_keeps_no_canary_open(
        self, case: Case
    ) -> None:
        open_incident(case, 1)
        open_incident(case, 2)
        case.set_release("r3", "paused")
        policy = {
            "segments": {"s2": APPROVED},
            "canary": {"per_segment": 5, "wait_seconds": 60, "bound_percent": 5},
        }
        with case.database.write() as connection:
            ours = tables.release.c.release_id == "r2"
            connection.execute(sa.update(tables.release).where(ours).values(policy=policy, canary_state="testing"))
        first = add(case, 0, "customer/1")
        add(case, 1, "order/11")
        add(case, 2, "customer/1", "order/11")
        tried = add(case, 1, "customer/7", text="e" * 64)
        mails = case.claim(EMAIL_LANE)
        assert {each.recipient_id for each in mails} == {first, tried}
        assert case.pages() == []
        case.hand_over(mails)
        (canary,) = [each for each in mails if each.recipient_id == tried]
        case.receive(canary, ReceiptKind.DELIVERED)
        assert [state.value for *_, state in case.ledger.judge_canaries()] == ["passed"]
        others = add(case, 1, "customer/8", segment_id="s1")
        case.ledger.begin_attempts(10)
        assert case.end(others) is None
        with case.database.read() as connection:
            (body,) = connection.execute(sa.select(tables.page.c.body)).scalars()
        assert body["people"] == 1, "not whoever waits for the other notice"

    def test_two_people_of_one_incident_are_told_as_two_whatever_another_one_takes_them_for(self, case: Case) -> None:
        open_incident(case, 1)
        first, second = add(case, 0, "customer/1"), add(case, 0, "order/11")
        both = add(case, 1, "customer/1", "order/11")
        mails = case.claim(EMAIL_LANE)
        assert {mail.recipient_id for mail in mails} == {first, second}
        case.hand_over(mails)
        for mail in mails:
            case.receive(mail, ReceiptKind.DELIVERED)
        assert case.claim(EMAIL_LANE) == []
        assert case.end(both) == "reached"
        case.receive(mails[0], ReceiptKind.BOUNCED_SOFT)
        (text,) = case.claim(SMS_LANE)
        assert (text.recipient_id, told_in(case, both)) == (mails[0].recipient_id, None)
        case.hand_over([text])
        case.receive(text, ReceiptKind.BOUNCED_SOFT)
        assert case.claim(EMAIL_LANE) == []
        assert told_in(case, both) == mails[1].recipient_id, "the other one still tells them"

    def test_other_texts_and_other_roots_are_told_apart(self, case: Case) -> None:
        open_incident(case, 1)
        add(case, 0, "customer/1", "order/11")
        add(case, 1, "order/11", text="e" * 64)
        add(case, 1, "order/12")
        assert len(case.claim(EMAIL_LANE)) == 3

    @pytest.mark.parametrize("root", ["customer/1", "order/11"])
    def test_what_another_law_asks_for_is_told_apart(self, case: Case, root: str) -> None:
        open_incident(case, 1)
        first = add(case, 0, "customer/1", "order/11", jurisdictions=["eu-gdpr-34"])
        second = add(case, 1, root, jurisdictions=["eu-gdpr-34", "us-ca-ind"])
        mails = case.claim(EMAIL_LANE)
        assert {each.recipient_id for each in mails} == {first, second}
        case.hand_over(mails)
        case.receive(mails[0], ReceiptKind.DELIVERED)
        assert case.claim(SMS_LANE) == []
        assert {told_in(case, each) for each in (first, second)} == {None}

    @pytest.mark.parametrize("named", ["customer/1", "order/11"])
    def test_a_hold_of_one_person_holds_them_by_whichever_root_they_are_known(self, case: Case, named: str) -> None:
        add(case, 0, "customer/1", "order/11")
        other = add(case, 0, "customer/2", "order/12")
        with case.database.write() as connection:
            connection.execute(
                sa.insert(tables.gate).values(
                    gate_id="g", incident_id=INCIDENT, kind="law_enforcement_hold", covers=[], people=[named],
                    set_at=case.clock.at, set_by="d",
                )
            )  # fmt: skip
        assert [each.recipient_id for each in case.claim(EMAIL_LANE)] == [other]


class TestTwins(TwinCases):
    """On SQLite."""


# any incidents, roots and outcomes


@dataclass
class Model:
    """What has been done so far, and who would have to be told of what by it."""

    case: Case
    works: dict[tuple[str, str], bool]
    """By recipient and channel, whether a message arrives there in the end."""
    waiting: list[Intent] = field(default_factory=list)
    arrived: list[Intent] = field(default_factory=list)
    corrected: set[str] = field(default_factory=set)

    def people(self) -> Mapping[str, Mapping[Any, Any]]:
        with self.case.database.read() as connection:
            return {row["recipient_id"]: row for row in connection.execute(sa.select(tables.recipient)).mappings()}

    def families(self) -> dict[str, set[str]]:
        """Return with each recipient all who are the same person in other incidents and are told the same there."""
        people = self.people()
        family = {name: {name} for name in people}
        for _ in people:
            for name, row in people.items():
                for other, theirs in people.items():
                    common = {row["root"], *row["roots"]} & {theirs["root"], *theirs["roots"]}
                    if common and row["notice_sha256"] == theirs["notice_sha256"]:
                        family[name] |= family[other]
        return {
            name: {each for each in those if people[each]["incident_id"] != people[name]["incident_id"]}
            for name, those in family.items()
        }

    def go(self, channel: str) -> None:
        told = {name for name, row in self.people().items() if self.tells(row)}
        in_flight = self.in_flight()
        intents = self.case.claim(EMAIL_LANE if channel == "email" else SMS_LANE)
        families = self.families()
        for intent in intents:
            others = families[intent.recipient_id]
            assert not others & told, "told already"
            assert not others & in_flight, "being told"
            assert not others & {each.recipient_id for each in intents}, "told twice at once"
        self.case.hand_over(intents)
        self.waiting += intents

    @staticmethod
    def tells(row: Mapping[Any, Any]) -> bool:
        return row["final_state"] == "reached" and row["told_in"] is None and row["correction"] is None

    def in_flight(self) -> set[str]:
        with self.case.database.read() as connection:
            return set(
                connection.execute(
                    sa.select(tables.attempt.c.recipient_id).where(tables.attempt.c.state.in_(IN_FLIGHT))
                ).scalars()
            )

    def settle(self, place: int) -> None:
        if not self.waiting:
            return
        intent = self.waiting.pop(place % len(self.waiting))
        if self.works[intent.recipient_id, intent.channel.value]:
            self.case.receive(intent, ReceiptKind.DELIVERED)
            self.arrived.append(intent)
        else:
            self.case.receive(intent, ReceiptKind.BOUNCED_SOFT)

    def bounce_late(self, place: int) -> None:
        if self.arrived:
            intent = self.arrived.pop(place % len(self.arrived))
            self.works[intent.recipient_id, intent.channel.value] = False
            self.case.receive(intent, ReceiptKind.BOUNCED_SOFT)

    def put_right(self, place: int) -> None:
        told = sorted(name for name, row in self.people().items() if self.tells(row))
        if told:
            name = told[place % len(told)]
            correct(self.case, name)
            self.corrected.add(name)

    def wait(self) -> None:
        self.case.clock.at += timedelta(minutes=2)
        self.case.ledger.finish_releases()

    def do(self, what: str, place: int) -> None:
        if what in CHANNELS:
            self.go(what)
        elif what == "settle":
            self.settle(place)
        elif what == "bounce_late":
            self.bounce_late(place)
        elif what == "put_right":
            self.put_right(place)
        elif what == "wait":
            self.wait()
        else:
            release_id = f"r{1 + place % len(INCIDENTS)}"
            with self.case.database.write() as connection:
                before, after = ("releasing", "paused") if what == "pause" else ("paused", "releasing")
                connection.execute(
                    sa.update(tables.release)
                    .where((tables.release.c.release_id == release_id) & (tables.release.c.state == before))
                    .values(state=after)
                )

    def finish(self) -> None:
        """Let everything run to its end."""
        for place in range(len(INCIDENTS)):
            self.do("resume", place)
        for _ in range(4 * len(self.works)):
            if all(row["final_state"] is not None for row in self.people().values()):
                break
            for channel in CHANNELS:
                self.go(channel)
            while self.waiting:
                self.settle(0)
            self.wait()
        people, families = self.people(), self.families()
        told = {name for name, row in people.items() if self.tells(row)}
        for name, row in people.items():
            assert row["final_state"] is not None, name
            if row["told_in"] is not None:
                assert row["told_in"] in families[name] & told
            elif name not in self.corrected and any(self.works[name, channel] for channel in CHANNELS):
                assert row["final_state"] == "reached", name


ROOTS = ("customer/1", "customer/2", "order/11", "order/12")


@st.composite
def worlds(draw: st.DrawFn) -> list[tuple[int, list[str], str]]:
    """Return people: incident, roots, text; no root twice in one incident."""
    people = []
    for incident in range(len(INCIDENTS)):
        groups: dict[int, list[str]] = defaultdict(list)
        for root in ROOTS:
            groups[draw(st.integers(-1, 2))].append(root)
        for number, roots in groups.items():
            if number >= 0:
                people.append((incident, draw(st.permutations(roots)), draw(st.sampled_from((TEXT, TEXT, "e" * 64)))))
    return people


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            (*CHANNELS, *CHANNELS, "settle", "settle", "bounce_late", "put_right", "wait", "pause", "resume")
        ),
        st.integers(0, 5),
    ),
    max_size=25,
)


def without_durability(case: Case) -> Case:
    """Nobody's power fails here."""
    sa.event.listen(case.database.engine, "connect", lambda made, _: made.execute("PRAGMA synchronous=OFF"))
    case.database.engine.dispose()
    return case


@settings(max_examples=settings().max_examples // 10)
@given(people=worlds(), works=st.lists(st.booleans(), min_size=18, max_size=18), steps=STEPS)
def test_nobody_is_told_a_text_twice_and_everybody_with_a_channel_that_works_is_told(
    people: list[tuple[int, list[str], str]], works: list[bool], steps: list[tuple[str, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        case = without_durability(sqlite_case(Path(folder)))
        open_incident(case, 1)
        open_incident(case, 2)
        names = [add(case, incident, *roots, text=text) for incident, roots, text in people]
        fates = {
            (name, channel): works[2 * number + place]
            for number, name in enumerate(names)
            for place, channel in enumerate(CHANNELS)
        }
        model = Model(case, fates)
        for what, place in steps:
            model.do(what, place)
        model.finish()
        case.database.close()
