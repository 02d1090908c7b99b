"""`tocsin relay status`: numbers are compared as the relay publishes, and not while they move; what to do is true."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.queries import Faults, IndexStatus, Keys, KeysAsked, PartitionStatus, Ranges, RangesAsked, Seals
from bridge.magento.changelogs import View
from bridge.magento.look import StoreLook
from bridge.relay_status import RelayNumbers, Status, Verified, remember, status
from bridge.relay_verbs import _lines
from bridge.runtime.clock import Clock, SetClock, SystemClock
from bridge.runtime.parts import Parts
from bridge.runtime.settings import Store
from bridge.verification import ENTITIES, Cause, Difference, Report
from tests.store_rows import StoreRows, provenance_row

NOW = datetime(2026, 3, 1, tzinfo=UTC)
WHOLE: Any = {"partition_count": 1, "silent_partitions": ()}
TROUBLE = "store and index hold different numbers"


class Index:
    """Says how many customers and records it holds, each time from the next of `counts`."""

    def __init__(self, *counts: tuple[int, int]) -> None:
        self._counts = list(counts)
        self.rebuilding = False

    def status(self) -> IndexStatus:
        customers, records = self._counts.pop(0) if len(self._counts) > 1 else self._counts[0]
        partition = PartitionStatus(
            partition=0, position_offset=1, customer_count=customers, order_count=0, departed_count=0,
            record_count=records, head_at=NOW, resolved=(), file_bytes=1, rebuilding=self.rebuilding,
        )  # fmt: skip
        return IndexStatus(**WHOLE, partitions=(partition,))

    def faults(self) -> Faults:
        return Faults(**WHOLE, faults=(), altered_count=0)

    def ranges(self, asked: RangesAsked) -> Ranges:
        raise NotImplementedError

    def keys(self, asked: KeysAsked) -> Keys:
        raise NotImplementedError

    def seals(self) -> Seals:
        raise NotImplementedError


@pytest.fixture
def look(shop: StoreRows, store_settings: Store) -> Iterator[StoreLook]:
    shop.customer(1)
    shop.customer(2)
    shop.provenance("r-1", "customer/1")
    look = StoreLook(store_settings, SystemClock())
    yield look
    look.close()


def published(shop: StoreRows) -> None:
    for view in View:
        shop.run(f"DELETE FROM {view.changelog}")


def seen(look: StoreLook, index: Index, tmp_path: Path) -> Status:
    return status(look, index, tmp_path, tmp_path / "verified.json", stand_still_seconds=0.01)


def troubled(found: Status) -> bool:
    return any(TROUBLE in each for each in found.troubles(NOW))


def test_a_changelog_that_runs_out_of_numbers_is_a_trouble() -> None:
    (told,) = [each for each in Status(numbers_left={"tocsin_order_cl": 6}).troubles(NOW) if "numbers" in each]
    assert told.startswith("tocsin_order_cl has 6 numbers left")


def test_numbers_that_differ_and_stand_still_are_a_trouble(look: StoreLook, shop: StoreRows, tmp_path: Path) -> None:
    published(shop)
    found = seen(look, Index((1, 1)), tmp_path)
    assert (found.counts_agree, found.moving, troubled(found)) == (False, False, True)


def test_a_file_that_is_being_replaced_agrees_with_nothing(look: StoreLook, shop: StoreRows, tmp_path: Path) -> None:
    published(shop)
    index = Index((2, 1))
    index.rebuilding = True
    found = seen(look, index, tmp_path)
    assert found.counts_agree is None
    assert [each for each in found.troubles(NOW) if "partitions 0 of the index are being built anew" in each]
    assert not troubled(found)


def test_what_was_published_a_moment_ago_is_waited_for(look: StoreLook, shop: StoreRows, tmp_path: Path) -> None:
    published(shop)
    found = seen(look, Index((1, 1), (2, 1)), tmp_path)
    assert (found.counts_agree, troubled(found)) == (True, False)


def test_numbers_that_move_say_nothing(look: StoreLook, shop: StoreRows, tmp_path: Path) -> None:
    published(shop)
    found = seen(look, Index((1, 0), (1, 1)), tmp_path)
    assert (found.counts_agree, found.moving, troubled(found)) == (False, True, False)


def test_rows_that_the_relay_reads_otherwise_are_counted_as_it_publishes_them(
    look: StoreLook, shop: StoreRows, tmp_path: Path
) -> None:
    """A deletion before the record is none, and a row that names nobody is no record."""
    shop.provenance("r-2", "customer/1", deleted_at="2026-04-01 00:00:00")
    shop.provenance("r-3", "customer/1", deleted_at="2026-02-01 00:00:00")
    shop.provenance("r-4", "customer/1", deleted_at="0000-00-00 00:00:00")
    for record_id, root, customer_id in (("r-5", "Customer/1", None), ("r-6", "customer/1x", 0), ("r-7", "else/1", 1)):
        shop.add(
            "tocsin_provenance",
            **(provenance_row(record_id, "customer/1") | {"root": root, "customer_id": customer_id}),
        )
    shop.provenance("r-8", "order/9", order_id=None)
    published(shop)
    found = seen(look, Index((2, 5)), tmp_path)
    assert (found.store_counts["provenance"], found.counts_agree, troubled(found)) == (5, True, False)


def test_verifying_some_says_nothing_of_the_others(look: StoreLook, shop: StoreRows, tmp_path: Path) -> None:
    published(shop)
    verified = tmp_path / "verified.json"
    lost = Report(differences=[Difference("provenance", Cause.MISSING, 1)])
    remember(lost, ENTITIES, verified, NOW)
    remember(Report(), ["customer"], verified, NOW + timedelta(hours=1))
    found = seen(look, Index((2, 1)), tmp_path)
    assert found.verified == Verified(NOW, agree=False)
    assert any("last verification found differences" in each for each in found.troubles(NOW))
    remember(Report(), ["provenance", "order"], verified, NOW + timedelta(hours=2))
    assert seen(look, Index((2, 1)), tmp_path).verified == Verified(NOW + timedelta(hours=1), agree=True)
    verified.unlink()
    remember(Report(), ["order"], verified, NOW)
    assert seen(look, Index((2, 1)), tmp_path).verified == Verified(NOW, agree=True, entities=("order",))


def test_an_index_that_sees_no_heartbeats_any_more_is_behind() -> None:
    """How long the last one took says nothing of those that do not come."""
    found = Status(beat_at=NOW, visible_seconds=0.5, visible_at=NOW - timedelta(seconds=20))
    assert found.troubles(NOW) == []
    found.visible_at = NOW - timedelta(hours=2)
    assert found.troubles(NOW)[0].startswith("the index is behind: a partition has seen no heartbeat for 2 h")
    # without a relay there is none to be seen
    found.beat_at = NOW - timedelta(hours=2)
    assert not any("behind" in each for each in found.troubles(NOW))


def test_a_relay_that_runs_and_does_not_lead_is_not_to_be_started() -> None:
    numbers = RelayNumbers(
        active=False, oldest_unpublished_seconds=0, changes_per_second=0, batch_seconds=None, publish_errors=0,
        store_errors=0,
    )  # fmt: skip
    found = Status(beat_at=NOW - timedelta(minutes=5))
    assert "start one with" in found.troubles(NOW)[0]
    found.relay = numbers
    assert "waits for a lead that somebody else holds" in found.troubles(NOW)[0]
    found.relay = replace(numbers, publish_errors=7)
    assert "tries again after 7 publish errors" in found.troubles(NOW)[0]


def test_a_table_of_which_nothing_is_told_is_a_trouble() -> None:
    numbers = RelayNumbers(
        active=True, oldest_unpublished_seconds=0.0, changes_per_second=0.0, batch_seconds=None, publish_errors=0,
        store_errors=0, untold_tables=("customer_entity", "sales_order"),
    )  # fmt: skip
    (told,) = [each for each in Status(relay=numbers).troubles(NOW) if "trigger" in each]
    assert "customer_entity, sales_order" in told
    assert "tocsin relay verify --repair" in told


def test_a_relay_that_is_gone_is_not_said_to_lead_and_a_silent_index_to_have_seen_nothing() -> None:
    parts = Parts()
    parts.provide(Clock, lambda: SetClock(NOW))
    found = Status(leader="vm:1", beat_at=NOW - timedelta(seconds=2))
    assert "relay       vm:1 leads, last heartbeat 2.0 s ago" in _lines(parts, found)
    assert any("no heartbeat has reached every partition" in line for line in _lines(parts, found))
    found.beat_at = NOW - timedelta(minutes=5)
    found.missing["index"] = "no index worker has left its address"
    lines = _lines(parts, found)
    assert "relay       vm:1 led, last heartbeat 5 min ago" in lines
    assert "visible     unknown: the index does not answer" in lines
