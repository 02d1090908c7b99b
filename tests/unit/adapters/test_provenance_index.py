"""The index file: it answers what the definition says, survives what happens to files, and has one owner."""

import itertools
import json
import multiprocessing
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import (
    CustomerAffected,
    CustomerChanged,
    CustomerDeparted,
    Kind,
    OrderChanged,
    ProvenanceRecorded,
    Residence,
    SealedContact,
    Sensitivity,
    UntaggedWrite,
    Unwatched,
    WatchStarted,
)
from bridge.contracts.scope import Scope
from bridge.contracts.topics import STORE_CHANGES
from consumers.adapters import index_file
from consumers.adapters.index_file import PartitionFile
from consumers.adapters.provenance_index import ProvenanceIndex
from consumers.domain.coverage import EVERYTHING
from consumers.domain.resolution import ANY_ATTRIBUTE, Person, affected, members_root, set_root, why_of
from consumers.domain.scope_matching import UntaggedValue, named_attributes, named_models, verdict
from tests.unit.domain.test_scope_matching import record

NOW = datetime(2026, 11, 20, tzinfo=UTC)
BASE = datetime(2026, 3, 1, tzinfo=UTC)
HASH = "ab" * 32


def opened(index: ProvenanceIndex, partition: int = 0, **changes: Any) -> PartitionFile:
    facts: dict[str, Any] = {
        "topic": STORE_CHANGES.name,
        "cluster": "c",
        "partition_count": 4,
        "bounds": {STORE_CHANGES.name: (0, 1000)},
        "now": NOW,
    }
    return index.open(partition, **(facts | changes))


@pytest.fixture
def index(tmp_path: Path) -> Iterator[ProvenanceIndex]:
    index = ProvenanceIndex(tmp_path / "index", takeover_seconds=0.2)
    yield index
    index.close()


def customer(number: int, **changes: Any) -> CustomerChanged:
    facts: dict[str, Any] = {
        "root": f"customer/{number}",
        "customer_id": number,
        "website_id": 1,
        "store_id": 1,
        "locale": "de_DE",
        "residence": (Residence(code="DE", source="default_billing"),),
        "contact": SealedContact(key_id="k", wrapped_key="d3JhcHBlZA==", nonce="bm9uY2U=", ciphertext="c2VhbGVk"),
        "email_hmac": HASH,
    }
    return CustomerChanged(**(facts | changes))


_OFFSETS = itertools.count(1)


def numbered(records: Iterable[ProvenanceRecorded]) -> list[tuple[int, ProvenanceRecorded]]:
    """Records as they come from a topic: each at a later offset than all before it."""
    return [(next(_OFFSETS), each) for each in records]


# What random histories are made of: few values, so that records and scopes meet often.
_INSTANTS = st.integers(0, 6).map(lambda days: BASE + timedelta(days=days))
_MODELS = st.sampled_from(["m1", "m2"])
_VERSIONS = st.sampled_from(["1", "2", "v2.1.0-rc.1", "2024.05", "unknown", ""])
_RANGES = st.sampled_from([">=2", "<2.1", ">1 <=2.1.0", "2.0.0"])
_HMACS = st.sampled_from([character * 64 for character in "ab"])
_ATTRIBUTES = st.sampled_from(["score", "band", "text"])
_COUNTRIES = st.sampled_from(["DE", "US-CA", "US-NY"])
_MAYBE = st.sampled_from([None, "x", "y"])
_KINDS = st.sampled_from(list(Kind))
_SENSITIVITIES = st.sampled_from(list(Sensitivity))
_CATEGORIES = st.lists(st.sampled_from(["c1", "c2"]), max_size=2, unique=True).map(tuple)
_ROOTS = st.sampled_from(["customer/1", "customer/2", "customer/3", "order/1", "order/2"])


@st.composite
def _records(draw: st.DrawFn) -> list[ProvenanceRecorded]:
    return [
        record(
            record_id=f"r{number}",
            root=(root := draw(_ROOTS)),
            customer_id=int(root.partition("/")[2])
            if root.startswith("customer")
            else draw(st.sampled_from([None, 1])),
            attribute=draw(_ATTRIBUTES),
            model_id=draw(_MODELS),
            model_version=draw(_VERSIONS),
            run_id=draw(_MAYBE),
            source_system=draw(_MAYBE),
            generated_at=draw(_INSTANTS),
            deleted_at=draw(st.none() | _INSTANTS),
            kind=draw(_KINDS),
            sensitivity=draw(_SENSITIVITIES),
            categories=draw(_CATEGORIES),
            loaded_at=draw(st.sampled_from([None, None, NOW])),
        )
        for number in range(draw(st.integers(0, 8)))
    ]


@st.composite
def _persons(draw: st.DrawFn) -> list[Person]:
    persons: list[Person] = []
    for root in sorted(draw(st.sets(_ROOTS))):
        kind, _, number = root.partition("/")
        facts: dict[str, Any] = {
            "root": root,
            "website_id": draw(st.integers(1, 2)),
            "store_id": draw(st.integers(1, 2)),
            "locale": "en_US",
            "residence": tuple(
                Residence(code=code, source="last_order")
                for code in draw(st.lists(_COUNTRIES, max_size=2, unique=True))
            ),
            "email_hmac": draw(st.none() | _HMACS),
        }
        if kind == "order":
            customer_id = draw(st.sampled_from([None, 2]))
            persons.append(OrderChanged(**facts, customer_id=customer_id, order_id=int(number)))
            continue
        facts["attribute_hmacs"] = dict.fromkeys(draw(st.sets(_ATTRIBUTES)), HASH)
        if draw(st.booleans()):
            persons.append(CustomerChanged(**facts, customer_id=int(number)))
        else:
            facts |= {"departed_at": NOW, "expires_at": NOW + timedelta(days=1)}
            persons.append(CustomerDeparted(**facts, customer_id=int(number)))
    return persons


def _scopes(depth: int = 2, *, people_only: bool = False) -> st.SearchStrategy[Scope]:
    few: dict[str, st.SearchStrategy[Any]] = {
        "model_ids": st.sampled_from(["m1", "m2", "m3"]),
        "model_versions": _VERSIONS,
        "version_ranges": _RANGES,
        "run_ids": st.sampled_from(["x", "y"]),
        "source_systems": st.sampled_from(["x", "y"]),
        "attributes": _ATTRIBUTES,
        "entity_types": st.sampled_from(["customer", "order"]),
        "kinds": _KINDS.map(str),
        "sensitivities": _SENSITIVITIES.map(str),
        "categories": st.sampled_from(["c1", "c2"]),
        "record_ids": st.integers(0, 8).map(lambda number: f"r{number}"),
        "roots": _ROOTS,
        "website_ids": st.integers(1, 2),
        "store_ids": st.integers(1, 2),
        "countries": st.sampled_from(["DE", "US", "US-CA", "us-ny"]),
        "email_hmacs": _HMACS,
    }
    if people_only:
        few = {name: few[name] for name in ("roots", "website_ids", "store_ids", "countries", "email_hmacs")}
    fields: dict[str, st.SearchStrategy[Any]] = {
        name: st.lists(values, min_size=1, max_size=2, unique=True).map(tuple) for name, values in few.items()
    }
    for window in () if people_only else ("generated", "exposed"):
        fields[f"{window}_from"] = _INSTANTS
        fields[f"{window}_to"] = _INSTANTS
    if depth:
        parts = st.lists(_scopes(depth - 1, people_only=people_only), min_size=1, max_size=2).map(tuple)
        fields |= dict.fromkeys(("all_of", "any_of", "none_of"), parts)

    def build(chosen: dict[str, Any]) -> Scope:
        for window in ("generated", "exposed"):
            start, end = chosen.get(f"{window}_from"), chosen.get(f"{window}_to")
            if start is not None and end is not None and start > end:
                chosen = chosen | {f"{window}_from": end, f"{window}_to": start}
        return Scope(**chosen)

    # Few fields at a time: a scope that asks for everything matches nothing.
    return (
        st.lists(st.sampled_from(sorted(fields)), max_size=3, unique=True)
        .flatmap(lambda names: st.fixed_dictionaries({name: fields[name] for name in names}))
        .map(build)
    )


def _oracle(
    scope: Scope, records: list[ProvenanceRecorded], persons: dict[str, Person]
) -> dict[str, tuple[str, frozenset[str]]]:
    """The answer by definition: standing and record ids by root."""
    certain: dict[str, set[str]] = {}
    uncertain: dict[str, set[str]] = {}
    for each in records:
        said = verdict(scope, each, persons.get(each.root))
        if said is not False:
            (certain if said else uncertain).setdefault(each.root, set()).add(each.record_id)
    answer = {root: ("possible", frozenset(ids)) for root, ids in uncertain.items()}
    answer |= {root: ("recorded", frozenset(ids)) for root, ids in certain.items()}
    seen = {each.model_id for each in records}
    for root, person in persons.items():
        for attribute in getattr(person, "attribute_hmacs", {}):
            if any(each.root == root and each.attribute == attribute for each in records):
                continue
            writers: set[str | None] = {each.model_id for each in records if each.attribute == attribute}
            if not writers or named_models(scope) - seen:
                writers.add(None)
            values = [UntaggedValue(root, person.customer_id, attribute, writer) for writer in writers]
            if any(verdict(scope, value, person) is not False for value in values):
                answer.setdefault(root, ("possible", frozenset()))
    for root, person in persons.items() if scope.everyone else ():
        said = verdict(scope, UntaggedValue(root, person.customer_id, "", None), person)
        if said is not False:
            standing, ids = answer.get(root, ("possible", frozenset()))
            answer[root] = ("recorded" if said else standing, ids)
    return answer


_EVERYONE = _scopes(people_only=True).map(lambda scope: scope.model_copy(update={"everyone": True}))


@pytest.fixture(scope="module")
def shared_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PartitionFile]:
    index = ProvenanceIndex(tmp_path_factory.mktemp("shared"))
    yield opened(index)
    index.close()


class _Undo(Exception):
    """Ends an example without leaving a trace in the file."""


@given(
    records=_records(),
    persons=_persons(),
    scopes=st.lists(_scopes() | _EVERYONE, min_size=1, max_size=4),
    merged=st.booleans(),
)
# an example asks a dozen questions
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=settings().max_examples // 6)
def test_the_file_answers_what_the_definition_says(
    shared_file: PartitionFile,
    records: list[ProvenanceRecorded],
    persons: list[Person],
    scopes: list[Scope],
    merged: bool,
) -> None:
    by_root = {person.root: person for person in persons}
    with pytest.raises(_Undo):
        _compare(shared_file, records, by_root, scopes, merged)


def _compare(
    file: PartitionFile,
    records: list[ProvenanceRecorded],
    persons: dict[str, Person],
    scopes: list[Scope],
    merged: bool,
) -> None:
    """Fill the file, compare its answers with the oracle's, and undo the filling by raising."""
    with file.transaction():
        file.put_persons([each for each in persons.values() if not isinstance(each, CustomerDeparted)])
        file.put_departed([each for each in persons.values() if isinstance(each, CustomerDeparted)])
        file.put_records(numbered(records))
        assert file.records([each.record_id for each in records]) == records
        assert file.persons(persons) == persons
        if merged:
            file.merge(least=1)
        for scope in scopes:
            found = file.answer(scope)
            expected = _oracle(scope, records, persons)
            assert {
                each.root: (each.standing, frozenset(each.why.record_ids if each.why else ())) for each in found
            } == expected
            assert [each.root for each in found] == sorted(expected)
            records_of = {each.record_id: each for each in records}
            for each in found:
                if each.why is not None:
                    assert each.why == why_of(records_of[record_id] for record_id in each.why.record_ids)
            part = set(list(expected)[:2]) | {"customer/1"}
            assert {each.root for each in file.answer(scope, part)} == part & set(expected)
        _compare_frozen(file, scopes[0])
        for scope in scopes:
            _compare_coverage(file, scope, records, persons)
        raise _Undo


def _compare_frozen(file: PartitionFile, scope: Scope) -> None:
    """Compare what is frozen, published and counted without objects with what the objects say."""
    found = file.answer(scope)
    members = list(file.find(scope))
    file.thaw(file.freeze({"incident_id": "INC-2026-0001", "revision": 1, "partition": 0}))
    events = [CustomerAffected.model_validate_json(event) for some in file.events() for _, event in some]
    assert events == [affected(each, incident_id="INC-2026-0001", revision=1, partition=0) for each in found]
    assert members_root(members) == set_root(events)
    preview = file.preview(scope)
    assert preview.affected_count == len(found)
    assert preview.departed_count == sum(each.departed for each in events)


def _compare_coverage(
    file: PartitionFile, scope: Scope, records: list[ProvenanceRecorded], persons: dict[str, Person]
) -> None:
    """Hold since when what is recorded, and the values without a record, against the history itself."""
    models, attributes = named_models(scope), named_attributes(scope)
    covered = {(each.model_id, each.attribute): each for each in file.coverage(scope)}
    assert models <= {model for model, _ in covered}
    for key in {(each.model_id, each.attribute) for each in records}:
        if (models and key[0] not in models) or (attributes and key[1] not in attributes):
            continue
        written = [each for each in records if (each.model_id, each.attribute) == key]
        live = [each.generated_at for each in written if each.loaded_at is None]
        loaded = [each.generated_at for each in written if each.loaded_at is not None]
        each = covered[key]
        assert (each.recorded_since, each.loaded_since) == (min(live, default=None), min(loaded, default=None))
    explained = {(each.root, each.attribute) for each in records}
    for each in covered.values():
        if each.attribute != ANY_ATTRIBUTE:
            holders = [
                root for root, person in persons.items() if each.attribute in getattr(person, "attribute_hmacs", {})
            ]
            assert each.untagged_count == len([root for root in holders if (root, each.attribute) not in explained])
            # nothing said since when these values are watched
            assert each.unwatched == (Unwatched(since=None, until=None),)
    # Whoever is possible without a record holds a value that some line of the coverage counts.
    if any(each.standing == "possible" and each.why is None for each in file.answer(scope)) and not scope.everyone:
        assert any(each.untagged_count for each in covered.values())


def test_state_and_position_survive_together_or_not_at_all(index: ProvenanceIndex) -> None:
    file = opened(index)
    with file.transaction():
        file.put_persons([customer(1)])
        file.set_positions({STORE_CHANGES.name: 5})
    with pytest.raises(_Undo):
        _fail_midway(file)
    index.close(0)
    file = opened(index)
    assert file.positions() == {STORE_CHANGES.name: 5}
    assert file.persons(["customer/1", "customer/2"]) == {"customer/1": customer(1)}


def _fail_midway(file: PartitionFile) -> None:
    with file.transaction():
        file.put_persons([customer(2)])
        file.set_positions({STORE_CHANGES.name: 6})
        raise _Undo


def test_a_deleted_record_stays_and_the_stores_own_word_wins_over_a_kept_copy(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_records(numbered([record()]))
    assert file.mark_deleted({"r1": (next(_OFFSETS), NOW)}) == ["r1"]
    file.mark_deleted({"r1": (next(_OFFSETS), NOW + timedelta(days=1))})
    assert file.records(["r1"]) == [record(deleted_at=NOW)]
    file.put_records(numbered([record()]))
    file.keep_records([record(deleted_at=NOW), record(record_id="r2", deleted_at=NOW)])
    assert [each.deleted_at for each in file.records(["r1", "r2"])] == [None, NOW]


def test_the_last_offset_of_a_record_holds_before_and_after_merging(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_records([(1, record(model_version="1")), (3, record(model_version="3")), (2, record(model_version="2"))])
    assert [each.model_version for each in file.records(["r1"])] == ["3"]
    assert file.merge(least=1)
    assert not file.merge(least=1)
    file.put_records([(4, record(model_version="4"))])
    assert [each.model_version for each in file.records(["r1"])] == ["4"]
    file.merge(least=1)
    assert [each.model_version for each in file.records(["r1"])] == ["4"]
    # what it said before is a record of its own: append-only means that nobody changes one
    kept = file.take_kept_contents()
    assert sorted(each.model_version for each in kept) == ["1", "2", "3"]
    assert (file.take_kept_contents(), file.status().record_count) == ([], 4)


@pytest.mark.parametrize("merged", [False, True])
def test_whatever_root_a_record_names_is_the_one_that_it_is_about(index: ProvenanceIndex, merged: bool) -> None:
    file = opened(index)
    named = {
        "a": ("customer/7", 7, None),
        "b": ("customer/007", 7, None),
        "c": ("order/5", 7, 5),
        "d": ("order/5", None, 5),
        "e": ("customer/8", None, None),
        "f": ("customer/" + "9" * 30, None, None),
    }
    records = [
        record(record_id=name, root=root, customer_id=customer_id, order_id=order_id, generated_at=BASE)
        for name, (root, customer_id, order_id) in named.items()
    ]
    roots = sorted({each.root for each in records})
    with file.transaction():
        file.put_records(numbered(records))
        if merged:
            file.merge(least=1)
    assert file.records(named) == records
    assert [each.root for each in file.answer(Scope(model_ids=("fraud-scorer",)))] == roots
    assert {root for root, _ in file.newest_records(roots)} == set(roots)
    assert file.newest_records(["customer/7"]) == {("customer/7", records[0].attribute): BASE}
    assert [each.record_id for each in file.inspect("order/5").records] == ["c", "d"]
    with file.transaction():
        file.put_erased({"order/5": NOW, "customer/7": NOW})
        gone = file.forget_erased()
    assert gone == [("provenance/a", "customer/7"), ("provenance/c", "order/5"), ("provenance/d", "order/5")]


def test_a_record_behind_its_tombstone_is_there_again(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_records([(1, record()), (9, record(record_id="r2"))])
    assert file.mark_deleted({"r1": (5, NOW), "r2": (5, NOW), "r3": (5, NOW)}) == ["r1", "r3"]
    assert [each.deleted_at for each in file.records(["r1", "r2"])] == [NOW, None]


@pytest.mark.parametrize(
    "spoiled",
    [
        b"no json",
        b"[]",
        b'{"record_id": "r2"}',
        b'{"root":"customer/x",',
        b'{"kind":"guessed",',
        b'{"sensitivity":"extreme",',
        b'{"generated_at":"2026-03-01T00:00:00",',
        b'{"deleted_at":"yesterday",',
        b'{"customer_id":"many",',
        b'{"model_id":null,',
        b'{"root":"customer/-5",',
        b'{"categories":"contact",',
        b'{"elements":{"email":1},',
    ],
)
def test_what_is_no_record_is_left_out_and_named(index: ProvenanceIndex, spoiled: bytes) -> None:
    file = opened(index)
    good = record().model_dump_json().encode()
    if spoiled.endswith(b","):
        # a later field of the same name would win: take the good one out
        name = spoiled.split(b'"')[1].decode()
        spoiled += record(record_id="r2").model_dump_json(exclude={name}).encode()[1:]
    try:
        left_out = file.append([1, 2], [good, spoiled])
    except BadInput:
        left_out = [1, 2]
    assert 2 in left_out
    file.put_records([(offset, record()) for offset in left_out if offset == 1])
    assert file.records(["r1", "r2"]) == [record()]


def test_no_id_below_zero_makes_a_root(index: ProvenanceIndex) -> None:
    file = opened(index)
    below = record(record_id="r2").model_dump_json().replace('"customer/1"', '"customer/-1"')
    assert file.append([1, 2], [record().model_dump_json().encode(), below.replace(":1,", ":-1,", 1).encode()]) == [2]


@given(values=st.lists(st.text(st.characters(codec="utf-8"), max_size=8), max_size=4).map(tuple))
def test_lists_come_back_whatever_their_members_hold(shared_file: PartitionFile, values: tuple[str, ...]) -> None:
    file, written = shared_file, record(record_id="r1", categories=values, elements=values[::-1], input_fields=values)
    with pytest.raises(_Undo), file.transaction():
        # as a writer in another language might: with escapes and spaces
        line = json.dumps(written.model_dump(mode="json"), ensure_ascii=True, separators=(" , ", " : "))
        assert file.append([1], [line.encode()]) == []
        assert file.records(["r1"]) == [written]
        raise _Undo


def test_lines_hold_their_offsets_however_they_are_cut(index: ProvenanceIndex) -> None:
    file = opened(index)
    first, *others = [record(record_id=f"r{number}").model_dump_json().encode() for number in range(5)]
    newer = first[:-1] + b',"a_newer_field":{"x":[1]}}'
    assert file.append([1, 5, 6, 9, 11], [newer, b"\n".join(others[:3]), others[3]]) == []
    assert file.roots_since(11) == ["customer/1"]
    assert file.roots_since(12) == []
    assert file.records(["r0", "r4"]) == [record(record_id="r0"), record(record_id="r4")]
    long = record(record_id="long", run_id="x" * 1_000_000)
    assert file.append([10, 12], [b"\n".join([long.model_dump_json().encode(), others[0]])]) == []
    assert file.records(["long"]) == [long]
    with pytest.raises(Refused, match="1 offsets are no 2 lines"), file.batch():
        file.append([13], [b"\n".join(others[:2])])
    assert file.roots_since(13) == []
    assert file.append([13, 14, 15], [b"\n".join(others[:2])]) == [15]


@pytest.mark.parametrize(("many", "kept"), [(1, True), (1000, False)])
def test_row_groups_of_bulk_are_not_written_twice_and_those_of_live_changes_are_put_together(
    index: ProvenanceIndex, monkeypatch: pytest.MonkeyPatch, many: int, kept: bool
) -> None:
    monkeypatch.setattr("consumers.adapters.index_file._MANY", many)
    file = opened(index)
    for _ in range(3):
        with file.transaction():
            file.put_records(numbered(record(record_id=f"r{number}") for number in range(10)))
        file.rows("CHECKPOINT")
    groups = file.rows("SELECT DISTINCT row_group_id FROM pragma_storage_info('record')")
    assert (len(groups) == 3) is kept


def test_a_present_customer_hides_a_departed_one(index: ProvenanceIndex) -> None:
    file = opened(index)
    gone = CustomerDeparted(
        root="customer/1", customer_id=1, website_id=1, store_id=1, locale="", departed_at=NOW, expires_at=NOW
    )
    file.put_departed([gone])
    assert file.persons(["customer/1"]) == {"customer/1": gone}
    assert file.expired(NOW) == ["customer/1"]
    file.put_persons([customer(1)])
    assert file.persons(["customer/1"]) == {"customer/1": customer(1)}


@pytest.mark.parametrize("damage", ["foreign", "truncated", "empty", "asked"])
def test_a_file_that_cannot_serve_is_rebuilt(index: ProvenanceIndex, damage: str) -> None:
    file = opened(index)
    with file.transaction():
        file.put_records(numbered([record(record_id=f"r{number}") for number in range(20_000)]))
        file.set_positions({STORE_CHANGES.name: 5})
    index.close(0)
    content = file.path.read_bytes()
    if damage == "foreign":
        file.path.write_bytes(b"no database" * 1000)
    elif damage == "truncated":
        file.path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        file.path.write_bytes(b"")
    else:
        index.ask_rebuild(0)
    file = opened(index)
    assert file.positions() == {}
    assert file.status().record_count == 0
    assert not index.rebuild_asked(0)


@pytest.mark.parametrize(
    "changes",
    [
        {"cluster": "another"},
        {"topic": "another"},
        {"partition_count": 6},
        {"bounds": {STORE_CHANGES.name: (6, 1000)}},
        {"bounds": {STORE_CHANGES.name: (0, 4)}},
        {"now": NOW + timedelta(days=7)},
    ],
    ids=["cluster", "topic", "partition count", "below the log's start", "beyond its end", "too old"],
)
def test_a_file_of_another_topic_or_time_is_rebuilt(index: ProvenanceIndex, changes: dict[str, Any]) -> None:
    opened(index).set_positions({STORE_CHANGES.name: 5})
    index.close(0)
    assert opened(index).positions() == {STORE_CHANGES.name: 5}
    index.close(0)
    assert opened(index, **changes).positions() == {}


@pytest.mark.parametrize("cut", [0, 300_000], ids=["whole", "cut off"])
def test_a_file_that_gave_back_room_at_its_end_is_whole_unless_it_was_cut_off(index: ProvenanceIndex, cut: int) -> None:
    file = opened(index)
    file.set_positions({STORE_CHANGES.name: 5})
    index.close(0)
    with duckdb.connect(str(file.path)) as connection:
        connection.execute("CREATE TABLE gone AS SELECT range AS number, hash(range) AS value FROM range(400_000)")
    largest = file.path.stat().st_size
    with duckdb.connect(str(file.path)) as connection:
        connection.execute("CREATE TABLE stays AS SELECT hash(range) AS value FROM range(100_000)")
        connection.execute("DROP TABLE gone")
    with duckdb.connect(str(file.path)) as connection:
        connection.execute("CREATE OR REPLACE TABLE stays AS SELECT hash(range) AS value FROM range(100_000)")
    size = file.path.stat().st_size
    assert size < largest
    with file.path.open("r+b") as content:
        content.truncate(size - cut)
    assert opened(index).positions() == ({} if cut else {STORE_CHANGES.name: 5})


def _hold(directory: Path, holding: Any, release: Any) -> None:
    index = ProvenanceIndex(directory)
    opened(index)
    holding.set()
    release.wait(30)
    index.close()


def test_two_processes_never_hold_the_same_partition(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    holding, release = context.Event(), context.Event()
    holder = context.Process(target=_hold, args=(tmp_path, holding, release))
    holder.start()
    try:
        assert holding.wait(30)
        index = ProvenanceIndex(tmp_path, takeover_seconds=0.3)
        opened(index, 1)
        with pytest.raises(Unreachable, match=f"process {holder.pid} still holds"):
            opened(index, 0)
        release.set()
        patient = ProvenanceIndex(tmp_path, takeover_seconds=30)
        assert opened(patient, 0).positions() == {}
        patient.close()
        index.close()
    finally:
        release.set()
        holder.join(30)
    assert holder.exitcode == 0


def test_a_frozen_answer_holds_no_contact_and_thaws_to_the_same_set(
    index: ProvenanceIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index_file, "_EVENTS_AT_ONCE", 1)
    file = opened(index)
    file.put_persons([customer(1), customer(2)])
    file.put_records(numbered([record(), record(record_id="it's", root="customer/2", customer_id=2)]))
    found = file.answer(Scope(model_ids=("fraud-scorer",)))
    members = [affected(each, incident_id="INC-2026-0001", revision=1, partition=0) for each in found]
    assert all(member.contact is not None for member in members)
    assert members_root(file.find(Scope(model_ids=("fraud-scorer",)))) == set_root(members)
    header = {"incident_id": "INC-2026-0001", "revision": 1, "partition": 0, "note": "it's"}
    content = file.freeze(header)
    assert b"c2VhbGVk" not in content
    read, thawed = file.thaw(content)
    assert read == header
    assert members_root(thawed) == set_root(members)
    assert [CustomerAffected.model_validate_json(event) for some in file.events() for _, event in some] == members
    with pytest.raises(Refused):
        file.thaw(content[:100])
    assert list(file.path.parent.glob("*.partial")) == []


def test_coverage_says_since_when_and_how_many_values_have_no_record(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_persons(
        [
            customer(1, attribute_hmacs={"fraud_score": HASH}),
            customer(2, attribute_hmacs={"fraud_score": HASH, "income_band": HASH}),
        ]
    )
    file.put_records(numbered([record()]))
    covered = {
        (each.model_id, each.attribute): (each.recorded_since, each.untagged_count)
        for each in file.coverage(Scope(model_ids=("fraud-scorer", "ghost")))
    }
    assert covered == {
        ("fraud-scorer", "fraud_score"): (BASE, 1),
        ("fraud-scorer", "income_band"): (None, 1),
        ("ghost", "income_band"): (None, 1),
        ("ghost", "*"): (None, 1),
    }


def test_loaded_history_does_not_show_that_writes_were_recorded(index: ProvenanceIndex) -> None:
    file = opened(index)
    past = record(record_id="old", generated_at=BASE - timedelta(days=400), loaded_at=BASE)
    file.put_records(numbered([past]))
    scope = Scope(model_ids=("fraud-scorer",))
    (covered,) = file.coverage(scope)
    assert (covered.recorded_since, covered.loaded_since) == (None, past.generated_at)
    file.put_records(numbered([record()]))
    (covered,) = file.coverage(scope)
    assert (covered.recorded_since, covered.loaded_since) == (BASE, past.generated_at)
    assert file.records(["old"]) == [past]


def test_of_an_attribute_the_earliest_watch_holds_and_what_the_topic_has_is_not_said_again(
    index: ProvenanceIndex,
) -> None:
    file = opened(index)
    seen = WatchStarted(attribute="fraud_score", at=NOW)
    known = WatchStarted(attribute="fraud_score", at=BASE)
    silence = WatchStarted(attribute=EVERYTHING, at=BASE + timedelta(days=2), after=BASE + timedelta(days=1))
    file.put_watch([seen], kept=False)
    assert (file.unkept_watch(), file.watched_attributes()) == ([seen], {"fraud_score"})
    file.put_watch([known, silence], kept=True)
    file.put_watch([seen], kept=False)
    assert (file.unkept_watch(), file.watched()) == ([], [silence, known])
    file.put_records(numbered([record()]))
    (covered,) = file.coverage(Scope(model_ids=("fraud-scorer",), exposed_from=BASE))
    assert covered.unwatched == (Unwatched(since=silence.after, until=silence.at),)
    (covered,) = file.coverage(Scope(model_ids=("fraud-scorer",), exposed_from=NOW))
    assert covered.unwatched == ()


def test_an_empty_partition_covers_nothing(index: ProvenanceIndex) -> None:
    covered = opened(index).coverage(Scope())
    assert [(each.model_id, each.attribute, each.recorded_since) for each in covered] == [("*", "*", None)]


def test_preview_counts_people_by_where_they_live_and_what_is_held(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_persons([customer(1, channels=("email", "sms")), customer(2, residence=(), faults=("telephone", "row"))])
    file.put_records(
        numbered([record(), record(record_id="r2"), record(record_id="r3", root="customer/2", kind=Kind.SYNTHETIC)])
    )
    preview = file.preview(Scope(model_ids=("fraud-scorer",)))
    assert (preview.affected_count, preview.possible_count, preview.record_count) == (2, 0, 3)
    assert preview.by_jurisdiction == {"DE": 1, "unknown": 1}
    assert preview.by_kind == {"derived": 1, "synthetic": 1}
    assert preview.by_channel == {"email": 1, "sms": 1, "none": 1}
    reach = file.reach()
    assert [(each.country, each.channels, each.count) for each in reach.groups] == [
        ("DE", ("email", "sms"), 1),
        ("unknown", (), 1),
    ]
    assert reach.unreadable == {"telephone": 1}
    assert file.names().models == {"fraud-scorer": ("7",)}
    assert file.data_map().rows[0].record_count == 3
    seen = file.inspect("customer/1")
    assert seen.person.has_contact
    assert "c2VhbGVk" not in seen.model_dump_json()


def test_the_data_map_tells_systems_apart_and_names_what_nothing_explains(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_persons([customer(1, attribute_hmacs={"income_band": "a" * 64}), customer(2)])
    file.put_records(
        numbered(
            [
                record(source_system="scoring", storage_location="eu-central-1", legal_basis="contract"),
                record(record_id="r2", root="customer/2", source_system="scoring", sensitivity=Sensitivity.LOW,
                       deleted_at=BASE + timedelta(days=1), storage_location="us-east-1"),
                record(record_id="r3", source_system="batch"),
            ]
        )
    )  # fmt: skip
    seen_at = BASE + timedelta(days=2)
    file.put_marks(
        [UntaggedWrite(root="customer/2", customer_id=2, attribute="fraud_score", since=BASE, seen_at=seen_at)]
    )
    mapped = file.data_map()
    assert [(row.source_system, row.record_count, row.deleted_count, row.root_count) for row in mapped.rows] == [
        ("batch", 1, 0, 1), ("scoring", 2, 1, 2),
    ]  # fmt: skip
    assert mapped.rows[1].storage_locations == ("eu-central-1", "us-east-1")
    assert (mapped.rows[1].legal_bases, mapped.rows[1].highest_sensitivity) == (("contract",), "high")
    assert [(gap.attribute, gap.people_count, gap.write_count, gap.first_seen_at) for gap in mapped.gaps] == [
        ("fraud_score", 1, 1, seen_at), ("income_band", 1, 0, None),
    ]  # fmt: skip
    assert mapped.untagged == {"fraud_score": 1, "income_band": 1}


def test_readers_on_other_threads_see_committed_state_only(index: ProvenanceIndex) -> None:
    file = opened(index)
    file.put_persons([customer(1)])
    with file.transaction():
        file.put_persons([customer(2)])
        with index.reading() as readers:
            assert [reader.status().customer_count for reader in readers] == [1]
    with index.reading() as readers:
        assert [reader.status().customer_count for reader in readers] == [2]


def _asked_of(index: ProvenanceIndex) -> tuple[int, bool]:
    """How many records the partition's answers know, and whether they say that they come from the old file."""
    with index.reading() as (reader,):
        status = reader.status()
        assert reader.preview(Scope(model_ids=("fraud-scorer",))).rebuilding == status.rebuilding
        return status.record_count, status.rebuilding


@pytest.mark.parametrize("cause", ["asked", "too old", "below the log's start", "another schema version"])
def test_the_old_file_answers_until_the_new_one_is_whole(index: ProvenanceIndex, cause: str) -> None:
    old = opened(index)
    with old.transaction():
        old.put_records(numbered([record(record_id=f"r{number}") for number in range(3)]))
        old.set_positions({STORE_CHANGES.name: 5})
        if cause == "another schema version":
            old.rows("UPDATE meta SET schema_version = 1")
            old.rows("DROP VIEW told")
            old.rows("DROP VIEW told_settled")
    index.close(0)
    changes: dict[str, Any] = {}
    if cause == "asked":
        index.ask_rebuild(0)
    elif cause == "too old":
        changes["now"] = NOW + timedelta(days=7)
    elif cause == "below the log's start":
        changes["bounds"] = {STORE_CHANGES.name: (6, 1000)}
    file = opened(index, **changes)
    assert file.positions() == {}
    assert index.is_rebuilding(0)
    assert _asked_of(index) == (3, True)
    with file.transaction():
        file.put_records(numbered([record(record_id=f"n{number}") for number in range(2)]))
        file.set_positions({STORE_CHANGES.name: 8})
    assert _asked_of(index) == (3, True)
    # Its owner ends, however it ends, and the next goes on with what was built.
    index.close(0)
    file = opened(index, **changes)
    assert file.positions() == {STORE_CHANGES.name: 8}
    assert _asked_of(index) == (3, True)
    file = index.switch(0)
    assert file.positions() == {STORE_CHANGES.name: 8}
    assert not index.is_rebuilding(0)
    assert _asked_of(index) == (2, False)
    index.close(0)
    assert sorted(each.name for each in file.path.parent.iterdir()) == ["p0.duckdb", "p0.lock"]
    assert opened(index, **changes).positions() == {STORE_CHANGES.name: 8}
    assert _asked_of(index) == (2, False)


@pytest.mark.parametrize("changes", [{"cluster": "another"}, {"topic": "another"}, {"partition_count": 6}])
def test_a_file_of_something_else_answers_nothing_while_it_is_replaced(
    index: ProvenanceIndex, changes: dict[str, Any]
) -> None:
    opened(index).put_records(numbered([record()]))
    index.close(0)
    opened(index, **changes)
    assert not index.is_rebuilding(0)
    assert _asked_of(index) == (0, False)


@pytest.mark.parametrize("left", ["never finished", "cut off", "its log alone"])
def test_a_rebuild_that_cannot_go_on_begins_anew(index: ProvenanceIndex, left: str) -> None:
    old = opened(index)
    old.put_records(numbered([record()]))
    index.close(0)
    beside = old.path.with_name("p0.next.duckdb")
    if left == "never finished":
        with duckdb.connect(str(beside)) as connection:
            connection.execute("CREATE TABLE meta (schema_version INTEGER)")
    elif left == "cut off":
        beside.write_bytes(old.path.read_bytes()[:9000])
    else:
        beside.with_name(beside.name + ".wal").write_bytes(b"a log without its file")
    index.ask_rebuild(0)
    file = opened(index)
    assert file.positions() == {}
    assert _asked_of(index) == (1, True)
    index.switch(0)
    assert _asked_of(index) == (0, False)


def test_a_damaged_file_answers_nothing_more(index: ProvenanceIndex, tmp_path: Path) -> None:
    opened(index).put_records(numbered([record()]))
    index.close(0)
    (tmp_path / "index" / "p0.rebuild").write_text("damaged", encoding="utf-8")
    opened(index)
    assert not index.is_rebuilding(0)
    assert _asked_of(index) == (0, False)


def test_a_file_of_a_topic_that_was_made_anew_is_rebuilt_however_far_the_new_one_reaches(
    index: ProvenanceIndex,
) -> None:
    ids = {STORE_CHANGES.name: "A"}
    file = opened(index, topic_ids=ids)
    with file.transaction():
        file.put_persons([customer(1)])
        file.set_positions({STORE_CHANGES.name: 5})
    index.close()
    assert opened(index, topic_ids=ids).positions() == {STORE_CHANGES.name: 5}
    index.close()
    # what the broker does not tell is no other topic
    assert opened(index).positions() == {STORE_CHANGES.name: 5}
    index.close()
    anew = {STORE_CHANGES.name: "B"}
    with capture_logs() as said:
        assert opened(index, topic_ids=anew).positions() == {}
    assert [each["wanted"] for each in said if "made anew; reading" in each["event"]] == [5]
    assert index.is_rebuilding(0)
    index.close()
    with capture_logs() as said:
        file = opened(index, topic_ids=anew)
    assert not [each for each in said if "made anew; reading" in each["event"]]
    with file.transaction():
        file.set_positions({STORE_CHANGES.name: 7})
    index.switch(0)
    index.close()
    assert opened(index, topic_ids=anew).positions() == {STORE_CHANGES.name: 7}


def test_a_file_of_an_earlier_version_learns_of_which_topic_it_is(index: ProvenanceIndex, tmp_path: Path) -> None:
    file = opened(index)
    with file.transaction():
        file.set_positions({STORE_CHANGES.name: 5})
    index.close()
    with duckdb.connect(str(tmp_path / "index" / "p0.duckdb")) as connection:
        connection.execute("DROP TABLE topic_id")
    assert opened(index, topic_ids={STORE_CHANGES.name: "A"}).positions() == {STORE_CHANGES.name: 5}
    index.close()
    assert opened(index, topic_ids={STORE_CHANGES.name: "B"}).positions() == {}
