"""Verification: the clock of its own, what policy presumes, the match test, and who may say that it was nothing."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from hashlib import sha256
from itertools import product

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.case_store import tables
from consumers.case import recording, releasing, verification, workflow
from consumers.case.overview import overview
from consumers.case.verification import (
    PRESUMED,
    AwarenessPolicy,
    Finding,
    KeyKind,
    LeakedKey,
    Matched,
    Verified,
    count_matches,
    finding_of,
    read_rows,
    verification_clock,
)
from consumers.case.watch import IncidentWatch
from consumers.case.workflow import TRANSITIONS, Move, State
from consumers.domain.approvals import Mode
from tests.unit.case.cases import COUNSEL, DPO, NOW, RESPONDER, VIEWER, Case, staff
from tests.unit.shipped_law import shipped_law

HOUR = timedelta(hours=1)
POLICY = AwarenessPolicy()
ESCALATE = AwarenessPolicy(presume=False)


class Index:
    """Knows people by address, hash and root; some partitions may be silent."""

    def __init__(self, people: Mapping[str, str] | None = None, *, silent: Sequence[int] = ()) -> None:
        self.silent = tuple(silent)
        self.people = dict(people or {})
        self.asked: list[LeakedKey] = []

    def match(self, keys: Sequence[LeakedKey]) -> Matched:
        self.asked.extend(keys)
        hashes = {sha256(address.encode()).hexdigest(): root for address, root in self.people.items()}
        known = {
            KeyKind.EMAIL: self.people,
            KeyKind.HASH: hashes,
            KeyKind.CUSTOMER: {root.partition("/")[2]: root for root in self.people.values()},
            KeyKind.ORDER: {},
        }
        found = {key: frozenset({known[key.kind][key.value]}) for key in keys if key.value in known[key.kind]}
        return Matched(found, 4, self.silent)


def verify(case: Case, name: str, content: str, index: Index, **fields: object) -> Verified:
    return verification.verify(
        case.store, name, RESPONDER, case.clock.now(), shipped_law(), test=(content.encode(), "leaked.csv"),
        matcher=index, reason="sample from the log", **fields,  # type: ignore[arg-type]
    )  # fmt: skip


def watch(case: Case, policy: AwarenessPolicy = POLICY) -> IncidentWatch:
    return IncidentWatch(case.store, shipped_law, policy)


def values(case: Case, name: str) -> Mapping[str, object]:
    return case.store.look(lambda work: workflow.known_facts(work, workflow.found(work, name)))


# --- the state machine ---------------------------------------------------------------------------------------------


def test_the_table_of_states_says_all_that_can_happen() -> None:
    undecided = {State.SUSPECTED, State.VERIFYING}
    expected = {
        **{(state, Move.ACKNOWLEDGE): State.VERIFYING for state in undecided},
        **{(state, move): State.CONFIRMED for state in (*undecided, State.CONFIRMED) for move in (Move.CONFIRM, Move.RELEASE)},
        **{(state, Move.DISMISS): State.DISMISSED for state in undecided},
        **{(state, Move.CLOSE): State.CLOSED for state in (*undecided, State.CONFIRMED, State.DISMISSED)},
        (State.CONFIRMED, Move.ACKNOWLEDGE): State.CONFIRMED,
    }  # fmt: skip
    assert {pair: TRANSITIONS.get(pair) for pair in product(State, Move) if pair in TRANSITIONS} == expected


# --- the clock and what policy presumes ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hours", "kinds"),
    [
        (0, set()),
        (1, {"verification.not_begun"}),
        (11.9, {"verification.not_begun"}),
        (12, {"verification.not_begun", "verification.warned"}),
        (23.9, {"verification.not_begun", "verification.warned"}),
        (24, {"verification.not_begun", "verification.overdue", "awareness.presumed"}),
    ],
)
def test_each_mark_of_the_clock_is_paged_when_it_has_passed(case: Case, hours: float, kinds: set[str]) -> None:
    case.receive()
    case.clock.at = NOW + timedelta(hours=hours)
    for _ in range(3):
        watch(case).look(case.clock.now())
    own = [page["kind"] for page in case.rows(tables.page) if page["kind"].startswith(("verification", "awareness"))]
    assert sorted(own) == sorted(kinds)


def test_past_the_bound_awareness_is_presumed_at_the_bound_and_marked(case: Case) -> None:
    name = case.receive().incident_id
    watch(case).look(NOW)
    before = {row["regime_id"]: row for row in case.rows(tables.obligation)}
    assert before["eu-gdpr-33"]["deadline_at"] is None
    case.clock.at = NOW + 100 * HOUR  # nobody ran the clock for days
    watch(case).look(case.clock.now())
    bound = "2026-03-03T03:00:00Z"
    assert {name: value for name, value in values(case, name).items() if name in PRESUMED} == dict.fromkeys(
        PRESUMED, bound
    )
    rows = [row for row in case.rows(tables.fact) if row["name"] in PRESUMED]
    assert {(row["recorded_by"], row["reason"]) for row in rows} == {(None, "presumed by policy")}
    events = [event for event in case.published("tocsin.case-events") if event["kind"] == "fact.presumed"]
    assert sorted(event["body"]["name"] for event in events) == sorted(PRESUMED)
    assert all(event["actor"] is None for event in events)
    # a person corrects it: the newest record holds, what was presumed stays as history
    recording.record_awareness(
        case.store, name, ["controller_aware_at"], NOW + 2 * HOUR, DPO, case.clock.now(), "the call", shipped_law()
    )
    assert values(case, name)["controller_aware_at"] == "2026-03-02T05:00:00Z"
    history = [row["value"] for row in case.rows(tables.fact) if row["name"] == "controller_aware_at"]
    assert history == [bound, "2026-03-02T05:00:00Z"]


def test_pages_about_the_clock_end_with_what_they_ask_for(case: Case) -> None:
    def standing() -> set[str]:
        return {page["kind"] for page in case.rows(tables.page) if page["acknowledged_at"] is None} & asking

    asking = {"incident_opened", "verification.not_begun", "verification.overdue", "awareness.presumed"}
    name = case.receive().incident_id
    case.clock.at = NOW + 24 * HOUR
    watch(case).look(case.clock.now())
    assert standing() == asking
    now = case.clock.now()
    verification.verify(
        case.store, name, RESPONDER, now, shipped_law(), test=None, matcher=None, confirm=True, reason="it is ours"
    )
    assert standing() == {"verification.overdue", "awareness.presumed"}, "it is begun, and decided"
    recording.record_awareness(case.store, name, PRESUMED[:2], NOW, DPO, now, "the call", shipped_law())
    assert standing() == {"verification.overdue", "awareness.presumed"}, "one instant is still the policy's"
    recording.record_awareness(case.store, name, PRESUMED[2:], NOW, DPO, now, "the call", shipped_law())
    assert standing() == set()


def test_who_was_aware_in_one_sense_is_presumed_to_be_so_in_the_others(case: Case) -> None:
    name = case.receive().incident_id
    recording.record_awareness(
        case.store, name, ["controller_aware_at"], NOW + HOUR, DPO, NOW + HOUR, "match", shipped_law()
    )
    case.clock.at = NOW + 30 * HOUR
    watch(case).look(case.clock.now())
    assert {values(case, name)[each] for each in PRESUMED} == {"2026-03-02T04:00:00Z"}


def test_what_a_person_took_back_is_not_presumed(case: Case) -> None:
    name = case.receive().incident_id
    recording.record_awareness(case.store, name, list(PRESUMED), NOW, DPO, NOW, "match", shipped_law())
    recording.record_facts(case.store, name, dict.fromkeys(PRESUMED), DPO, NOW, "another incident's", shipped_law())
    case.clock.at = NOW + 48 * HOUR
    watch(case).look(case.clock.now())
    assert not any(values(case, name).get(each) for each in PRESUMED)
    kinds = [page["kind"] for page in case.rows(tables.page)]
    assert "awareness.presumed" not in kinds
    assert "verification.overdue" in kinds  # undecided all the same


def test_escalate_only_pages_and_pages_again_for_each_bound(case: Case) -> None:
    name = case.receive().incident_id
    for hours in (24, 25, 48, 49, 72):
        case.clock.at = NOW + hours * HOUR
        watch(case, ESCALATE).look(case.clock.now())
    overdue = [page for page in case.rows(tables.page) if page["kind"] == "verification.overdue"]
    assert len(overdue) == 3
    assert all(page["severity"] == "critical" for page in overdue)
    assert not any(values(case, name).get(each) for each in PRESUMED)


def test_a_decided_incident_with_awareness_has_no_verification_clock(case: Case) -> None:
    name = case.receive().incident_id
    recording.record_awareness(case.store, name, list(PRESUMED), NOW, DPO, NOW, "match", shipped_law())
    verification.verify(case.store, name, DPO, NOW, shipped_law(), test=None, matcher=None, confirm=True, reason="seen")
    incident = case.store.look(lambda work: workflow.found(work, name))
    history = case.store.look(lambda work: work.facts(name))
    assert not verification_clock(incident, history, POLICY).running
    case.clock.at = NOW + 48 * HOUR
    watch(case).look(case.clock.now())
    assert not [page for page in case.rows(tables.page) if page["kind"].startswith(("verification", "awareness"))]


@settings(max_examples=15)
@given(st.lists(st.integers(0, 100), min_size=1, max_size=4), st.booleans())
def test_however_often_and_late_one_looks_presumption_is_the_same(hours: list[int], presume: bool) -> None:
    """The instant that is presumed depends on the detection alone, never on when somebody looked."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        case = Case(Path(folder))
        try:
            name = case.receive().incident_id
            for hour in sorted(hours):
                case.clock.at = NOW + hour * HOUR
                case.store.change(
                    lambda work: verification.escalate(
                        work, workflow.found(work, name), AwarenessPolicy(presume=presume), None, case.clock.now()
                    )
                )
            presumed = {values(case, name).get(each) for each in PRESUMED}
            assert presumed == ({"2026-03-03T03:00:00Z"} if presume and max(hours) >= 24 else {None})
        finally:
            case.database.close()


# --- leaked rows ----------------------------------------------------------------------------------------------------

HASH = sha256(b"anna@mail.example").hexdigest()


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("email\nanna@mail.example\n", [["email"]]),
        ("anna@mail.example\nbo@mail.example\n", [["email"], ["email"]]),
        (f"Hash;Note\n{HASH};x\n", [["hash"]]),
        (f"{HASH.upper()}\n", [["hash"]]),
        ("customer_id,email\n42,anna@mail.example\n43,\n", [["customer", "email"], ["customer"]]),
        ("root\ncustomer/42\norder/7\n", [["customer"], ["order"]]),
        ("order_id\t name\n7\tx\n", [["order"]]),
        ("name,text\nAnna,paid 4\n", [[]]),
        ("id\n0\n-1\nabc\n", [[], [], []]),
        ("\ufeffE-Mail\n anna@mail.example \n\n", [["email"]]),
    ],
)
def test_rows_are_read_by_header_or_by_look(text: str, kinds: list[list[str]]) -> None:
    rows = read_rows(text.encode("utf-8"), name="leaked.csv")
    assert [[str(key.kind) for key in row] for row in rows] == kinds


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "holds no row"), (b"email\n", "a header and no row"), (b"\xff\xfe\x00", "not UTF-8")]
)
def test_a_file_that_cannot_be_compared_is_refused_by_name(content: bytes, says: str) -> None:
    with pytest.raises(BadInput, match=f"leaked.csv: .*{says}"):
        read_rows(content, name="leaked.csv")


@given(st.binary(max_size=300))
def test_no_file_raises_anything_but_our_error(content: bytes) -> None:
    with suppress(BadInput):
        assert read_rows(content, name="leaked.csv")


def test_a_key_is_never_printed() -> None:
    assert "anna" not in repr(LeakedKey(KeyKind.EMAIL, "anna@mail.example"))


@given(
    st.lists(st.lists(st.integers(0, 9), max_size=3, unique=True), max_size=12), st.sets(st.integers(0, 9)),
    st.sets(st.integers(0, 9)),
)  # fmt: skip
def test_counts_of_rows_add_up(rows: list[list[int]], known: set[int], affected: set[int]) -> None:
    keys = {n: LeakedKey(list(KeyKind)[n % 4], str(n)) for n in range(10)}
    counts = count_matches(
        [tuple(keys[n] for n in row) for row in rows],
        {keys[n]: frozenset({f"customer/{n}"}) for n in known},
        {f"customer/{n}" for n in affected},
    )
    assert counts.matched_count == sum(bool(set(row) & known) for row in rows)
    assert counts.matched_by_contact_count == sum(any(n % 4 < 2 for n in set(row) & known) for row in rows)
    assert counts.inside_count + counts.outside_count == counts.matched_count <= counts.usable_count <= counts.row_count


@pytest.mark.parametrize(
    ("counts", "silent", "finding"),
    [
        ((5, 5, 0, 0), 0, Finding.NOBODY),
        ((5, 4, 0, 0), 0, Finding.OPEN),
        ((5, 5, 0, 0), 1, Finding.OPEN),
        ((5, 5, 2, 0), 0, Finding.IDS_ONLY),
        ((5, 5, 2, 1), 0, Finding.REAL),
        ((5, 1, 1, 1), 3, Finding.REAL),
    ],
)
def test_nobody_is_said_only_where_everything_was_compared(
    counts: tuple[int, int, int, int], silent: int, finding: Finding
) -> None:
    names = ("row_count", "usable_count", "matched_count", "matched_by_contact_count")
    assert finding_of(dict(zip(names, counts, strict=True)), silent) is finding


# --- the match test ---------------------------------------------------------------------------------------------------


def test_a_match_confirms_starts_the_controllers_clock_and_says_what_moved(case: Case) -> None:
    name = case.receive().incident_id
    case.count(name, {"DE": 3, "US-CA": 2}, kinds=("synthetic",))
    watch(case).look(NOW)
    case.clock.at = NOW + 2 * HOUR
    index = Index({"anna@mail.example": "customer/1"})
    rows = "email\nanna@mail.example\nno@mail.example\n"
    before = {table.name: case.rows(table) for table in tables.metadata.sorted_tables}
    dry = verify(case, name, rows, index, dry_run=True)
    assert {table.name: case.rows(table) for table in tables.metadata.sorted_tables} == before
    done = verify(case, name, rows, index)
    assert (dry.counts, dry.facts, len(dry.moved)) == (done.counts, done.facts, len(done.moved))
    assert done.counts is not None
    assert (done.counts.matched_count, done.counts.row_count, done.finding) == (1, 2, Finding.REAL)
    assert done.state == "confirmed"
    assert done.facts == {"match_test_positive_at": "2026-03-02T05:00:00Z", "sensitivity": "derived_or_memorised"}
    moved = {each.regime_id: each for each in done.moved}
    assert "its clock began 2026-03-02T05:00:00Z" in moved["eu-gdpr-33"].sentence
    assert moved["eu-gdpr-33"].why.startswith("a fact changed")
    assert case.kinds()[-1] == "obligations.computed"
    assert "incident.verified" in case.kinds()


def test_neither_row_nor_key_is_kept_anywhere(case: Case) -> None:
    name = case.receive().incident_id
    index = Index({"anna@mail.example": "customer/1"})
    verify(case, name, f"email\nanna@mail.example\n{HASH}\n", index)
    everything = str([case.rows(table) for table in tables.metadata.sorted_tables if table.name != "alert"])
    for secret in ("anna", "mail.example", HASH, sha256(f"email\nanna@mail.example\n{HASH}\n".encode()).hexdigest()):
        assert secret not in everything


def test_rows_outside_the_scope_say_that_it_is_too_narrow(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name, people=1)
    index = Index({"a@x.example": "customer/0", "b@x.example": "customer/77"})
    done = verify(case, name, "a@x.example\nb@x.example\n", index)
    assert done.counts is not None
    assert (done.counts.inside_count, done.counts.outside_count) == (1, 1)
    assert any("scope has not found; widen it: tocsin incident rescope" in remark for remark in done.remarks)


def test_ids_alone_are_left_to_a_person(case: Case) -> None:
    name = case.receive().incident_id
    done = verify(case, name, "customer_id\n1\n", Index({"a@x.example": "customer/1"}))
    assert (done.finding, done.facts, done.state) == (Finding.IDS_ONLY, {}, "verifying")
    assert any("may be chance" in remark for remark in done.remarks)


@pytest.mark.parametrize(
    ("kinds", "possible", "silent", "plan", "says"),
    [
        (("synthetic",), 0, (), True, None),
        (("synthetic", "derived"), 0, (), True, "records of the kind derived"),
        (("synthetic",), 2, (), True, "2 people hold a value without a record"),
        (("synthetic",), 0, (3,), True, "did not answer"),
        (("synthetic",), 0, (), False, "not every partition has answered"),
    ],
)
def test_purely_synthetic_takes_that_nothing_speaks_against_it(
    case: Case, kinds: tuple[str, ...], possible: int, silent: tuple[int, ...], plan: bool, says: str | None
) -> None:
    name = case.receive().incident_id
    if plan:
        case.plan(name)
    case.count(name, {"DE": 3}, kinds=kinds, possible=possible)
    done = verify(case, name, "x@y.example\n", Index(silent=silent))
    assert done.facts == ({"sensitivity": "synthetic_only"} if says is None else {})
    if says is not None:
        assert any(says in remark for remark in done.remarks)


def test_purely_synthetic_is_recorded_and_not_notified(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    case.count(name, {"DE": 3}, kinds=("synthetic",))
    watch(case).look(NOW)
    verify(case, name, "x@y.example\n", Index())
    rows = {row["regime_id"]: row["status"] for row in case.rows(tables.obligation)}
    assert rows["eu-gdpr-33"] == rows["eu-gdpr-34"] == "not_due"
    assert not [regime for regime, status in rows.items() if status.startswith("due")]
    with pytest.raises(Refused, match="recorded, not notified"):
        releasing.prepare(case.store, name, RESPONDER, NOW, mode=Mode.TWO_APPROVERS, late_cap=0)
    following = overview(case.store, name).next
    assert following is not None
    assert following.command == f"tocsin incident dismiss {name} --reason TEXT"
    workflow.close(case.store, name, DPO, NOW, reason="nobody behind it")  # without --unnotified
    # and what a fact says about it needs the same evidence
    other = case.receive(fingerprint="leak-2").incident_id
    with pytest.raises(Refused, match="no match test of revision 1"):
        recording.record_facts(
            case.store, other, {"sensitivity": "synthetic_only"}, DPO, NOW, "so they say", shipped_law()
        )


# --- dismissal ------------------------------------------------------------------------------------------------------


def test_a_dismissal_takes_evidence_and_a_second_person(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    with pytest.raises(Refused, match="needs a match test of its scope as it is"):
        verification.dismiss(case.store, name, RESPONDER, NOW, "false alarm")
    verify(case, name, "x@y.example\n", Index())
    first = verification.dismiss(case.store, name, RESPONDER, NOW, "false alarm")
    assert first.state == "verifying"
    with pytest.raises(Refused, match="a second person decides"):
        verification.dismiss(case.store, name, RESPONDER, NOW, "really")
    with pytest.raises(Refused, match=r"may not incident\.dismiss"):
        verification.dismiss(case.store, name, VIEWER, NOW, "really")
    done = verification.dismiss(case.store, name, COUNSEL, NOW, "agreed")
    assert (done.state, done.contacts_removed) == ("dismissed", 3)
    assert case.published("tocsin.incidents")[-1]["status"] == "closed"
    with pytest.raises(Refused, match="is dismissed"):
        verification.dismiss(case.store, name, DPO, NOW, "again")
    assert [kind for kind in case.kinds() if kind.startswith("incident.dis")] == [
        "incident.dismissal_proposed", "incident.dismissed",
    ]  # fmt: skip
    case.clock.at = NOW + 48 * HOUR
    assert watch(case).look(case.clock.now()).moved_count == 0
    assert "awareness.presumed" not in [page["kind"] for page in case.rows(tables.page)]


def test_what_matched_somebody_is_not_dismissed_whatever_comes_later(case: Case) -> None:
    name = case.receive().incident_id
    verify(case, name, "customer_id\n1\n", Index({"a@x.example": "customer/1"}))
    case.clock.at = NOW + HOUR
    verify(case, name, "x@y.example\n", Index())
    with pytest.raises(Refused, match="matched 1 of 1 rows; what is about people is not dismissed"):
        verification.dismiss(case.store, name, DPO, NOW, "false alarm")


def test_a_corrected_scope_needs_a_test_of_its_own(case: Case) -> None:
    name = case.receive().incident_id
    verify(case, name, "x@y.example\n", Index())
    workflow.rescope(case.store, name, DPO, NOW, settings={"model_versions": ["6"]}, reason="the other version")
    with pytest.raises(Refused, match="revision 2"):
        verification.dismiss(case.store, name, DPO, NOW, "false alarm")


def test_a_false_alarm_without_rows_is_dismissed_by_two_one_of_them_dpo_or_counsel(case: Case) -> None:
    name = case.receive().incident_id
    case.plan(name)
    with pytest.raises(Refused, match=f"tocsin incident dismiss {name} --without-rows --reason TEXT"):
        verification.dismiss(case.store, name, RESPONDER, NOW, "false alarm")
    first = verification.dismiss(case.store, name, RESPONDER, NOW, "a test of the monitor", without_rows=True)
    assert (first.state, first.record.match_test_id) == ("suspected", None)
    (page,) = [row for row in case.rows(tables.page) if row["kind"] == "dismissal.proposed"]
    assert page["roles"] == ["dpo", "counsel"]
    assert page["body"]["next"] == f"tocsin incident dismiss {name} --without-rows --reason TEXT"
    with pytest.raises(Refused, match="a second person decides"):
        verification.dismiss(case.store, name, RESPONDER, NOW, "really", without_rows=True)
    with pytest.raises(Refused, match="no rows were compared, so a dpo or counsel decides"):
        verification.dismiss(case.store, name, staff("ray", *RESPONDER.person.roles), NOW, "yes", without_rows=True)
    done = verification.dismiss(case.store, name, COUNSEL, NOW, "agreed", without_rows=True)
    assert done.state == "dismissed"
    said = [each for each in case.published("tocsin.case-events") if each["kind"].startswith("incident.dis")]
    assert [(each["kind"], each["body"].get("match_test_id"), each["role"]) for each in said] == [
        ("incident.dismissal_proposed", None, "responder"),
        ("incident.dismissed", None, "counsel"),
    ]


def test_rows_that_there_are_want_to_be_compared_and_another_scope_to_be_proposed_anew(case: Case) -> None:
    name = case.receive().incident_id
    verification.dismiss(case.store, name, RESPONDER, NOW, "false alarm", without_rows=True)
    workflow.rescope(case.store, name, DPO, NOW, settings={"model_versions": ["6"]}, reason="the other version")
    again = verification.dismiss(case.store, name, DPO, NOW, "false alarm, too", without_rows=True)
    assert again.state != "dismissed"
    assert again.record.proposed_by == "dan"
    verify(case, name, "email\nx@y.example\nno-address\n", Index())
    with pytest.raises(Refused, match=r"rows were tested on .*, so there are some; compare every one of them"):
        verification.dismiss(case.store, name, COUNSEL, NOW, "agreed", without_rows=True)


def test_two_proposals_at_once_are_one(case: Case) -> None:
    name = case.receive().incident_id
    verify(case, name, "x@y.example\n", Index())
    verification.dismiss(case.store, name, RESPONDER, NOW, "false alarm")
    verification.dismiss(case.store, name, staff("ray", *DPO.person.roles), NOW, "agreed")
    assert [row["confirmed_by"] for row in case.rows(tables.dismissal)] == ["ray"]


def test_nothing_is_compared_without_an_index(case: Case) -> None:
    name = case.receive().incident_id
    with pytest.raises(Refused, match="start `tocsin run index`"):
        verification.verify(
            case.store,
            name,
            RESPONDER,
            NOW,
            shipped_law(),
            test=(b"a@b.example", "leaked.csv"),
            matcher=None,
            reason="x",
        )
    with pytest.raises(BadInput, match="none of 1 rows has an e-mail address"):
        verify(case, name, "name\nAnna\n", Index())
    assert case.store.look(lambda work: work.match_tests(name)) == []
    with case.database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(tables.match_test)).scalar() == 0
