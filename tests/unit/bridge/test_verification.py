"""Verification: a difference is certain only behind a heartbeat that cannot have overtaken the change that is looked for."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bridge.contracts.errors import Unreachable
from bridge.contracts.queries import (
    Faults,
    IndexStatus,
    KeyPrint,
    Keys,
    KeysAsked,
    PartitionStatus,
    RangePrint,
    Ranges,
    RangesAsked,
    Seals,
)
from bridge.magento.changelogs import CUSTOMER_VIEWS
from bridge.magento.look import StoreLook
from bridge.runtime.clock import SystemClock
from bridge.runtime.settings import Store
from bridge.verification import Cause, Verification
from tests.store_rows import StoreRows

KEY = "customer/1"
CLOCK = SystemClock()
BEFORE = datetime(2026, 1, 1, tzinfo=UTC)
WHOLE: Any = {"partition_count": 1, "silent_partitions": ()}


class Index:
    """An index that holds an older state of the only customer, and the heartbeat that it is told of."""

    def __init__(self) -> None:
        self.beat_at = BEFORE
        self.holds_change = False
        self.rebuilding = False

    def status(self) -> IndexStatus:
        partition = PartitionStatus(
            partition=0, position_offset=1, customer_count=1, order_count=0, departed_count=0, record_count=0,
            head_at=self.beat_at, beat_written_at=self.beat_at, resolved=(), file_bytes=1,
            rebuilding=self.rebuilding,
        )  # fmt: skip
        return IndexStatus(**WHOLE, partitions=(partition,))

    def ranges(self, _asked: RangesAsked) -> Ranges:
        return Ranges(**WHOLE, ranges={0: RangePrint(range=0, count=1, sum=1)})

    def keys(self, _asked: KeysAsked) -> Keys:
        # deleted on both sides is the same on both sides: so the change that is on its way needs no fingerprint here
        return Keys(**WHOLE, keys={KEY: KeyPrint(key=KEY, fingerprint=1, deleted=self.holds_change)})

    def faults(self) -> Faults:
        raise NotImplementedError

    def seals(self) -> Seals:
        raise NotImplementedError


@pytest.fixture
def look(shop: StoreRows, store_settings: Store) -> Iterator[StoreLook]:
    shop.customer(1)
    beat_in_store(shop, BEFORE)
    look = StoreLook(store_settings, CLOCK)
    look.open()
    yield look
    look.close()


def beat_in_store(shop: StoreRows, at: datetime) -> None:
    shop.run("UPDATE tocsin_heartbeat SET relay = 'somewhere:1', beat_at = :at", at=f"{at:%Y-%m-%d %H:%M:%S}")


def settle(shop: StoreRows) -> None:
    for view in CUSTOMER_VIEWS:
        shop.run(f"DELETE FROM {view.changelog}")


def causes(look: StoreLook, index: Index, *, patience_seconds: float) -> dict[Cause, tuple[str, ...]]:
    verification = Verification(look, index, bytes(32), patience_seconds=patience_seconds)
    return {each.cause: each.examples for each in verification.run(["customer"]).differences}


def test_a_heartbeat_from_before_the_changelog_was_asked_proves_nothing(
    look: StoreLook, shop: StoreRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index()
    shop.run("DELETE FROM customer_entity")
    pending = look.pending_numbers
    asked: list[bool] = []

    def published_behind_the_heartbeat(entity: str, ids: Any) -> frozenset[int]:
        # The relay wrote a heartbeat and published it, then the deletion, and settled that: the index has the first alone.
        index.beat_at = CLOCK.now()
        beat_in_store(shop, index.beat_at)
        settle(shop)
        return pending(entity, ids)

    def status_of_an_index_that_goes_on() -> IndexStatus:
        status = Index.status(index)
        asked.append(True)
        if len(asked) == 3:
            index.beat_at, index.holds_change = CLOCK.now() + timedelta(seconds=1), True
        return status

    monkeypatch.setattr(look, "pending_numbers", published_behind_the_heartbeat)
    monkeypatch.setattr(index, "status", status_of_an_index_that_goes_on)
    assert causes(look, index, patience_seconds=20) == {}
    assert index.holds_change


def test_a_last_look_that_ends_before_its_heartbeat_proves_nothing_of_who_moved_until_then(
    look: StoreLook, shop: StoreRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = Index()
    held = index.keys
    looks: list[bool] = []

    def changed_meanwhile(asked: KeysAsked) -> Keys:
        looks.append(True)
        if len(looks) == 2:
            # within the first look, which ends with a heartbeat; the second finds none, and the customer stands still
            shop.run("UPDATE customer_entity SET lastname = 'Changed' WHERE entity_id = 1")
            settle(shop)
            index.beat_at = BEFORE
        return held(asked)

    monkeypatch.setattr(index, "keys", changed_meanwhile)
    settle(shop)
    index.beat_at = CLOCK.now() + timedelta(hours=1)
    assert causes(look, index, patience_seconds=0.3) == {Cause.WAITING: (KEY,)}


@pytest.mark.parametrize("clocks_differ", [timedelta(hours=-1), timedelta(hours=1)])
def test_what_a_heartbeat_proves_does_not_depend_on_the_clock_here(
    look: StoreLook, shop: StoreRows, clocks_differ: timedelta
) -> None:
    settle(shop)
    index = Index()
    index.beat_at = CLOCK.now() + clocks_differ
    beat_in_store(shop, index.beat_at)
    verification = Verification(look, index, bytes(32), patience_seconds=0.1)
    assert not verification.run(["customer"]).proven
    index.beat_at += timedelta(seconds=1)
    report = verification.run(["customer"])
    assert (report.proven, [each.cause for each in report.differences]) == (True, [Cause.OLDER])


def test_a_customer_whose_order_waits_was_not_lost(look: StoreLook, shop: StoreRows) -> None:
    """The newest order says where they live; a heartbeat overtakes what waits among many orders."""
    settle(shop)
    shop.order(7, customer_id=1, country="FR")
    index = Index()
    index.beat_at = CLOCK.now() + timedelta(hours=1)
    assert causes(look, index, patience_seconds=0.1) == {Cause.WAITING: (KEY,)}
    shop.run("DELETE FROM tocsin_order_cl")
    assert causes(look, index, patience_seconds=0.1) == {Cause.OLDER: (KEY,)}


@pytest.mark.parametrize("named", ["order_id", "root", "customer_id"])
def test_an_order_whose_record_or_customer_waits_was_not_lost(look: StoreLook, shop: StoreRows, named: str) -> None:
    """An order is known by its records, and loses its customer with them."""
    shop.order(7, customer_id=1)
    settle(shop)
    shop.run("DELETE FROM tocsin_order_cl")
    shop.provenance("r-1", "order/7", order_id=None if named == "root" else 7, customer_id=1)
    if named == "customer_id":
        shop.run("DELETE FROM tocsin_provenance_cl")
        shop.run("DELETE FROM customer_entity")
    assert look.pending_numbers("order", [7, 8]) == {7}
    settle(shop)
    shop.run("DELETE FROM tocsin_provenance_cl")
    assert look.pending_numbers("order", [7, 8]) == frozenset()


def test_a_file_that_is_being_replaced_is_not_what_is_compared(
    look: StoreLook, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may hold all of the store, and the file that takes its place nothing: that of a topic that was made anew."""
    index = Index()
    index.rebuilding = True
    verification = Verification(look, index, bytes(32), patience_seconds=0.1)
    with pytest.raises(Unreachable, match="partitions 0 of the index are being built anew"):
        verification.run(["customer"])
    # it began while this looked
    index.rebuilding = False
    held = index.ranges

    def replaced_meanwhile(asked: RangesAsked) -> Ranges:
        index.rebuilding = True
        return held(asked)

    monkeypatch.setattr(index, "ranges", replaced_meanwhile)
    with pytest.raises(Unreachable, match="being built anew"):
        verification.run(["customer"])


def test_without_any_heartbeat_what_differs_is_said_and_not_proven(look: StoreLook, shop: StoreRows) -> None:
    settle(shop)
    verification = Verification(look, Index(), bytes(32), patience_seconds=0.1)
    report = verification.run(["customer"])
    assert [(each.cause, each.examples) for each in report.differences] == [(Cause.OLDER, (KEY,))]
    assert not report.proven
