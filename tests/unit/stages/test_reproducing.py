"""A resolution computed again: from its frozen files on any machine, and from an index that somebody else built."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from bridge.contracts.errors import Refused
from bridge.contracts.events import Residence
from bridge.contracts.scope import Scope
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.adapters.frozen_answers import FrozenAnswers
from consumers.adapters.index_client import IndexClient
from consumers.adapters.index_server import IndexServer
from consumers.case.reproducing import Reproduction, reproduce
from tests.unit.adapters.test_provenance_index import HASH, NOW, customer
from tests.unit.case.cases import Case
from tests.unit.stages.test_index_stage import Bench, feed_at, records_of

NAME = "INC-2026-0001"
SCOPE = Scope(model_ids=("fraud-scorer",), model_versions=("7",), countries=("DE",))


class Resolved:
    """A worker that has answered, the case store that has its record, and what a person types then."""

    def __init__(self, folder: Path) -> None:
        self.case = Case(folder)
        self.case.receive(SCOPE.canonical())
        self.bench = Bench(folder / "worker")
        self.serving: list[IndexServer] = []
        start = NOW - timedelta(days=1)
        feed_at(
            self.bench,
            (customer(1), start),
            (customer(2, attribute_hmacs={"fraud_score": HASH}), start),
            (customer(4, residence=(Residence(code="US-CA", source="last_order"),)), start),
            (records_of(1), start),
            (records_of(3, model_version="unknown"), start),
            (records_of(4), start),
        )
        self.bench.alert(scope=SCOPE)
        (self.record,) = self.bench.resolutions()
        with self.case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(scope_sha256=SCOPE.sha256()))
            connection.execute(
                sa.insert(tables.resolution).values(
                    incident_id=NAME, revision=1, partition=0, partition_count=1, received_at=NOW,
                    affected_count=self.record.affected_count, possible_count=self.record.possible_count,
                    merkle_root=self.record.merkle_root, event=self.record.model_dump_json(),
                )
            )  # fmt: skip

    def again(self, bench: Bench | None = None, **asked: Any) -> Reproduction:
        """Ask the frozen files and the running worker of `bench`."""
        asking = bench or self.bench
        run = asking.folder / "run"
        server = IndexServer("127.0.0.1", run, asking.index)
        server.start(1)
        server.announce([0])
        try:
            files = FrozenAnswers(DirectoryArtefactStore(self.bench.settings.paths.artefacts))
            return reproduce(self.case.store, NAME, files, IndexClient(run), **asked)
        finally:
            server.stop()

    def frozen_file(self) -> Path:
        (stored,) = (self.bench.settings.paths.artefacts / "objects").rglob("*/*")
        return stored


@pytest.fixture
def resolved(tmp_path: Path) -> Iterator[Resolved]:
    made = Resolved(tmp_path)
    yield made
    made.bench.index.close()
    made.case.database.close()


def test_files_and_index_give_the_same_root_while_nothing_changes(resolved: Resolved) -> None:
    done = resolved.again()
    assert (resolved.record.affected_count, resolved.record.possible_count) == (3, 2)
    assert (done.holds, done.index_silent, done.changes) == (True, None, [])
    assert [(each.fault, each.same_now) for each in done.partitions] == [(None, True)]
    assert resolved.record.departed_offset == 0
    with pytest.raises(Refused, match="no partition has answered to revision 2"):
        resolved.again(revision=2)


def test_another_machine_that_reads_the_same_history_otherwise_gives_the_same_root(
    resolved: Resolved, tmp_path: Path
) -> None:
    other = Bench(tmp_path / "elsewhere")
    start = NOW - timedelta(days=1)
    # Compacted, in another order, in other batches, and merged in between.
    feed_at(other, (records_of(4), start), (records_of(3, model_version="unknown"), start))
    other.ticks()
    feed_at(
        other,
        (customer(4, residence=(Residence(code="US-CA", source="last_order"),)), start),
        (records_of(1), start),
        (customer(2, attribute_hmacs={"fraud_score": HASH}), start),
        (customer(1), start),
    )
    assert [each.same_now for each in resolved.again(other).partitions] == [True]
    other.alert(scope=SCOPE)
    assert [each.merkle_root for each in other.resolutions()] == [resolved.record.merkle_root]
    other.index.close()


@pytest.mark.parametrize("lost", [False, True])
def test_a_frozen_file_that_was_altered_or_lost_is_named(resolved: Resolved, lost: bool) -> None:
    stored = resolved.frozen_file()
    content = stored.read_bytes()
    stored.unlink()
    if not lost:
        stored.write_bytes(content[:-1] + b"?")
    done = resolved.again()
    assert not done.holds
    (again,) = done.partitions
    assert again.fault is not None
    assert ("is not in" if lost else "was altered") in again.fault
    assert again.same_now


def test_a_record_that_says_otherwise_than_its_file_is_named(resolved: Resolved) -> None:
    said = resolved.record.model_copy(update={"affected_count": 2, "merkle_root": "0" * 64})
    resolved.case.execute(sa.update(tables.resolution).values(event=said.model_dump_json()))
    (again,) = resolved.again().partitions
    assert again.fault is not None
    assert "its record says " + "0" * 64 in again.fault


def test_what_changed_since_is_listed_with_its_time(resolved: Resolved) -> None:
    later = NOW + timedelta(hours=2)
    moved = customer(1, residence=(Residence(code="FR", source="default_billing"),))
    feed_at(
        resolved.bench,
        (moved, later),
        (records_of(3, record_id="r3b", generated_at=later), later),
        (customer(5), later),
        (records_of(5, generated_at=later), later),
    )
    done = resolved.again()
    assert done.holds
    assert [each.same_now for each in done.partitions] == [False]
    assert [(each.difference.root, each.difference.what, each.at) for each in done.changes] == [
        ("customer/1", "is in it no more", later),
        ("customer/3", "by other records", later),
        ("customer/5", "is in it now", later),
    ]


def test_a_difference_that_nothing_explains_is_a_fault(resolved: Resolved) -> None:
    resolved.bench.stage._files[0].rows("DELETE FROM record WHERE record_id = 'r1'")  # type: ignore[attr-defined]  # as if lost
    done = resolved.again()
    assert [(each.difference.root, each.at) for each in done.changes] == [("customer/1", None)]
    assert not done.holds
