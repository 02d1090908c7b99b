"""The store's own answer against the frozen one: a shop, the relay's reading of it, a worker, and what is typed then."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from pydantic import SecretStr

from bridge.contracts.envelope import open_envelope
from bridge.contracts.errors import Refused
from bridge.contracts.scope import Scope
from bridge.magento.answers import SqlStoreAnswers
from bridge.magento.demo_store import create_demo_store, demo_engine
from bridge.magento.store import open_store
from bridge.relay import StateMessages
from bridge.runtime.sealing import Sealer, generate_sealing_keys
from bridge.runtime.settings import Store
from consumers.adapters.artefact_store import DirectoryArtefactStore
from consumers.adapters.case_store import tables
from consumers.adapters.frozen_answers import FrozenAnswers
from consumers.adapters.index_client import IndexClient
from consumers.adapters.index_server import IndexServer
from consumers.case import crosschecking, releasing
from consumers.case.crosschecking import Cause, Crosscheck, list_from_store
from consumers.domain.approvals import Mode
from tests.store_rows import StoreRows
from tests.unit.adapters.test_provenance_index import NOW
from tests.unit.case.cases import APPROVER, DPO, RESPONDER, Case
from tests.unit.stages.test_index_stage import Bench, feed_at

NAME = "INC-2026-0001"
SCOPE = Scope(model_ids=("scorer",), model_versions=("7",), countries=("DE", "US"))
JOIN_KEY = b"j" * 32


class Shop:
    """A small shop, a worker that follows it, and a case."""

    def __init__(self, folder: Path) -> None:
        create_demo_store(folder / "store.db")
        self.engine = demo_engine(sa.URL.create("sqlite", database=str(folder / "store.db")), autocommit=False)
        self.rows = StoreRows(self.engine)
        self.rows.base()
        self.settings = Store(
            url=SecretStr(f"sqlite:///{folder / 'store.db'}"), registered_attributes=("fraud_score", "income_band")
        )
        self.bench = Bench(folder / "worker")
        self.reader = open_store(self.settings, self.bench.clock)
        assert self.reader.take_lead()
        public = generate_sealing_keys().public
        self.messages = StateMessages(Sealer(public, self.bench.clock, JOIN_KEY), JOIN_KEY)
        self.case = Case(folder)
        self.store = SqlStoreAnswers(self.settings, self.bench.clock, JOIN_KEY)
        for number in range(1, 9):
            self.rows.customer(number, country="FR" if number == 8 else "DE")
        self.rows.order(7, country="US")
        for number in (1, 2, 3, 5, 8):
            self.rows.provenance(f"r{number}", f"customer/{number}", created_at="2026-03-01 10:00:00")
        self.rows.provenance("r5b", "customer/5", model_version="", created_at="2026-03-01 10:00:00")
        self.rows.provenance("r4", "customer/4", model_version="unknown", created_at="2026-03-01 10:00:00")
        self.rows.provenance("o7", "order/7", created_at="2026-03-01 10:00:00")
        self.score(6, 0.5)
        self.score(2, 0.5)
        self.follow(NOW - timedelta(days=1))

    def score(self, customer_id: int, value: float) -> None:
        self.rows.run("DELETE FROM customer_entity_decimal WHERE entity_id = :id", id=customer_id)
        self.rows.add("customer_entity_decimal", attribute_id=201, entity_id=customer_id, value=value)

    def follow(self, at: datetime) -> None:
        """Carry what changed to the worker, as the relay would at `at`."""
        while batch := self.reader.next_batch(1000):
            for _, message in self.messages.of(self.reader.states_of(batch), at):
                event = open_envelope(message.key.encode(), message.value, dict(message.headers))
                feed_at(self.bench, (event, at))
            self.reader.settle(batch)

    def resolve(self) -> None:
        self.case.receive(SCOPE.canonical(), known=None)
        self.bench.alert(scope=SCOPE)
        (record,) = self.bench.resolutions()
        with self.case.database.write() as connection:
            connection.execute(sa.update(tables.incident).values(scope_sha256=SCOPE.sha256()))
            connection.execute(
                sa.insert(tables.resolution).values(
                    incident_id=NAME, revision=1, partition=0, partition_count=1, received_at=NOW,
                    affected_count=record.affected_count, possible_count=record.possible_count,
                    merkle_root=record.merkle_root, event=record.model_dump_json(),
                )
            )  # fmt: skip

    def check(self, *, index: bool = True, actor: Any = RESPONDER) -> Crosscheck:
        run = self.bench.folder / "run"
        server = IndexServer("127.0.0.1", run, self.bench.index)
        if index:
            server.start(1)
            server.announce([0])
        files = FrozenAnswers(DirectoryArtefactStore(self.bench.settings.paths.artefacts))
        try:
            return crosschecking.crosscheck(
                self.case.store, NAME, actor, self.case.clock.now, self.store, files, IndexClient(run),
                patience_seconds=0,
            )  # fmt: skip
        finally:
            server.stop()

    def causes(self, **how: Any) -> dict[str, str]:
        return {each.difference.root: each.cause.value for each in self.check(**how).differences}


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.reader.close()
    made.bench.index.close()
    made.case.database.close()
    made.engine.dispose()


def test_every_difference_has_its_cause_and_what_has_none_blocks_until_it_is_named(shop: Shop) -> None:
    # Before anything is frozen the store's answer is the emergency list, with or without an incident.
    alone = list_from_store(SCOPE, shop.store)
    assert {root: (sorted(ids), standing) for root, (ids, standing) in alone.answer.members.items()} == {
        "customer/1": (["r1"], "recorded"),
        "customer/2": (["r2"], "recorded"),
        "customer/3": (["r3"], "recorded"),
        "customer/4": (["r4"], "possible"),
        "customer/5": (["r5"], "recorded"),
        "customer/6": ([], "possible"),
        "order/7": (["o7"], "recorded"),
    }
    shop.resolve()
    done = shop.check()
    assert (done.agreeing_count, done.differences, done.remarks) == (7, [], [])

    later = NOW + timedelta(hours=1)
    # departed: a customer who leaves, and a record that somebody deletes
    shop.rows.run("DELETE FROM customer_entity WHERE entity_id = 1")
    shop.rows.run("DELETE FROM tocsin_provenance WHERE record_id = 'r3'")
    # later: a person who comes, and one who moves
    shop.rows.provenance("r9", "customer/7", generated_at="2026-11-20 01:00:00", created_at="2026-11-20 01:00:00")
    shop.rows.run("UPDATE customer_address_entity SET country_id = 'FR' WHERE parent_id = 5")
    # only the index sees it: the value without a record is gone
    shop.rows.run("DELETE FROM customer_entity_decimal WHERE entity_id = 6")
    shop.follow(later)
    # lag: the relay has not told this one
    shop.rows.provenance("r9b", "customer/2", created_at="2026-11-20 02:00:00")
    # unexplained: the index has lost a record
    shop.bench.stage._files[0].rows("DELETE FROM record WHERE record_id = 'o7'")  # type: ignore[attr-defined]  # as if lost
    expected = {
        "customer/1": "departed",
        "customer/2": "lag",
        "customer/3": "departed",
        "customer/5": "later",
        "customer/6": "index_only",
        "customer/7": "later",
    }
    assert shop.causes() == expected
    # The frozen answer itself has the order: what was lost afterwards is no difference of it.
    assert shop.causes(index=False) == expected | {"customer/5": "unexplained"}


def test_what_nothing_explains_blocks_approval_until_a_person_names_it(shop: Shop) -> None:
    # A record that the relay never told: its changelog row is lost.
    shop.rows.provenance("r7", "customer/7", created_at="2026-03-01 10:00:00")
    shop.rows.run("DELETE FROM tocsin_provenance_cl")
    shop.resolve()
    done = shop.check()
    assert [(each.difference.root, each.cause) for each in done.differences] == [("customer/7", Cause.UNEXPLAINED)]
    assert done.record is not None
    assert done.record.unexplained_count == 1
    # planning's part
    shop.case.execute(
        sa.insert(tables.plan).values(
            incident_id=NAME, revision=1, state="complete", rules_sha256="a" * 64, residents={}, recipient_count=1,
            held_count=0,
        )
    )  # fmt: skip
    shop.case.add_segment(NAME, "s1", bundle="b" * 64)
    shop.case.add_person(NAME, "customer/1")

    def prepare() -> str:
        done = releasing.prepare(shop.case.store, NAME, RESPONDER, NOW, mode=Mode.FOUR_EYES, late_cap=0)
        return done.release.policy_sha256

    with pytest.raises(Refused, match="the store itself answers otherwise for 1 people"):
        prepare()
    with pytest.raises(Refused, match="rae"):
        crosschecking.name_differences(shop.case.store, NAME, RESPONDER, NOW, "a test account")
    crosschecking.name_differences(shop.case.store, NAME, DPO, NOW, "a test account")
    policy = prepare()
    assert shop.case.kinds()[-3:-1] == ["incident.crosschecked", "incident.differences_named"]
    assert "customer/7" not in str(shop.case.published("tocsin.case-events"))
    # Another check finds it again: whoever approves must see that it was named anew.
    shop.case.clock.at += timedelta(minutes=1)
    assert shop.causes() == {"customer/7": "unexplained"}
    with pytest.raises(Refused, match="nothing explains it"):
        releasing.approve(shop.case.store, NAME, policy, APPROVER, NOW, mode=Mode.FOUR_EYES)
    shop.case.execute(sa.delete(tables.crosscheck))
    with pytest.raises(Refused, match="no cross-check"):
        crosschecking.name_differences(shop.case.store, NAME, DPO, NOW, "again")
