"""Account notices reach the store's table once, whatever is repeated, and what is withdrawn stays withdrawn."""

import threading
from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bridge import account_notices
from bridge.account_notices import AccountNotices
from bridge.contracts.envelope import seal_envelope
from bridge.contracts.errors import MustStop, Unreachable
from bridge.contracts.events import AccountNotice, EntityRemoved
from bridge.contracts.topics import ACCOUNT_NOTICES
from bridge.magento.notices import AccountNoticeTable
from bridge.runtime.consume import Received
from bridge.runtime.settings import Store
from bridge.runtime.telemetry import Health
from tests.store_rows import StoreRows

POSTED_AT = datetime(2026, 3, 1, 10, tzinfo=UTC)


def notice(notice_id: str = "a-1", **changes: Any) -> AccountNotice:
    values: dict[str, Any] = {
        "notice_id": notice_id, "incident_id": "INC-2026-0001", "customer_id": 42, "locale": "de_DE", "title": "Hinweis",
        "body": "Ein Text.", "posted_at": POSTED_AT,
    }  # fmt: skip
    return AccountNotice(**(values | changes))


def received(event: AccountNotice | None, offset: int = 0, notice_id: str = "a-1") -> Received:
    key = f"notice/{event.notice_id if event else notice_id}"
    if event is None:
        removed = EntityRemoved(root="customer/42", key=key)
        return Received(ACCOUNT_NOTICES.name, 0, offset, key, removed, True, {}, None, 1_772_000_000_000)
    message = seal_envelope(event, key=key, root="customer/42", source="/test", at=POSTED_AT)
    return Received(ACCOUNT_NOTICES.name, 0, offset, key, event, False, dict(message.headers), message.value)


class DeadLetterBox:
    def __init__(self) -> None:
        self.kept: list[tuple[Any, ...]] = []
        self.flushed = 0

    def put_raw(self, *arguments: Any) -> None:
        self.kept.append(arguments)

    def flush(self) -> None:
        self.flushed += 1


@pytest.fixture
def table(store_settings: Store) -> Iterator[AccountNoticeTable]:
    table = AccountNoticeTable(store_settings)
    yield table
    table.close()


def handler(table: Any, letters: Any = None, health: Health | None = None) -> AccountNotices:
    return AccountNotices(table, lambda _: {}, letters or DeadLetterBox(), threading.Event(), health or Health())


def rows(shop: StoreRows) -> list[tuple[Any, ...]]:
    return shop.run("SELECT notice_id, customer_id, body, created_at, withdrawn_at, read_at FROM tocsin_account_notice")


def test_a_notice_is_posted_once_and_keeps_that_it_was_read(shop: StoreRows, table: AccountNoticeTable) -> None:
    handler(table).handle([received(notice())], {})
    shop.run("UPDATE tocsin_account_notice SET read_at = '2026-03-02 00:00:00'")
    handler(table).handle([received(notice(body="Ein besserer Text."))], {})
    assert rows(shop) == [("a-1", 42, "Ein besserer Text.", "2026-03-01 10:00:00", None, "2026-03-02 00:00:00")]


def test_a_withdrawn_notice_disappears_and_does_not_come_back(shop: StoreRows, table: AccountNoticeTable) -> None:
    handler(table).handle([received(notice()), received(notice(withdrawn=True, body="", title=""))], {})
    (row,) = rows(shop)
    assert row[4] == "2026-03-01 10:00:00"
    assert row[2] == "Ein Text.", "what was shown stays on record"
    handler(table).handle([received(notice())], {})
    assert rows(shop) == [row]


def test_a_tombstone_withdraws(shop: StoreRows, table: AccountNoticeTable) -> None:
    handler(table).handle([received(notice()), received(None)], {})
    assert rows(shop)[0][4] is not None


BATCHES = st.lists(st.sampled_from(["post", "withdraw", "remove"]), min_size=1, max_size=6)


@given(BATCHES, st.integers(1, 3))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
def test_repeats_end_where_one_reading_ends(
    shop: StoreRows, table: AccountNoticeTable, acts: Sequence[str], repeats: int
) -> None:
    shop.run("DELETE FROM tocsin_account_notice")
    batch = [
        received(None if act == "remove" else notice(withdrawn=act == "withdraw"), offset)
        for offset, act in enumerate(acts)
    ]
    handler(table).handle(batch, {})
    once = rows(shop)
    for _ in range(repeats):
        handler(table).handle(batch, {})
        assert [(row[0], row[4] is None) for row in rows(shop)][: len(once)] == [
            (row[0], row[4] is None and "remove" not in acts) for row in once
        ]


def test_what_does_not_fit_is_kept_aside_and_nothing_is_cut(shop: StoreRows, table: AccountNoticeTable) -> None:
    letters = DeadLetterBox()
    long = received(notice("a-2", title="x" * 256), offset=5)
    handler(table, letters).handle([received(notice()), long], {})
    assert [row[0] for row in rows(shop)] == ["a-1"]
    ((topic, partition, offset, key, value, _, reason),) = letters.kept
    assert (topic, partition, offset, key) == (ACCOUNT_NOTICES.name, 0, 5, b"notice/a-2")
    assert value == long.value
    assert "title is longer than 255" in reason
    assert letters.flushed == 1


@pytest.mark.parametrize("customer_id", [2**32, 0, -1])
def test_what_the_server_would_refuse_is_kept_aside_and_delays_nobody(
    shop: StoreRows, table: AccountNoticeTable, customer_id: int
) -> None:
    letters = DeadLetterBox()
    handler(table, letters).handle([received(notice("a-2", customer_id=customer_id)), received(notice())], {})
    assert [row[0] for row in rows(shop)] == ["a-1"]
    assert [each[3] for each in letters.kept] == [b"notice/a-2"]


def test_it_waits_for_a_store_that_does_not_answer() -> None:
    class Away:
        left = 2
        written: Sequence[AccountNotice] = ()

        def check(self, notice: AccountNotice) -> None: ...

        def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None:
            if self.left:
                self.left -= 1
                raise Unreachable("store: away")
            self.written = notices

    away, health = Away(), Health()
    health.ready()
    handler(away, health=health).handle([received(notice())], {})
    assert [each.notice_id for each in away.written] == ["a-1"]
    assert health.reasons() == {}


def test_a_store_that_lost_what_was_written_last_makes_the_stage_begin_anew(
    shop: StoreRows, table: AccountNoticeTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(account_notices, "_LOOK_SECONDS", 0.0)
    writing = handler(table)
    writing.tick()
    writing.handle([received(notice()), received(notice("a-2")), received(notice("a-2", withdrawn=True), 1)], {})
    writing.tick()
    shop.run("DELETE FROM tocsin_account_notice WHERE notice_id = 'a-1'")
    with pytest.raises(MustStop, match="lacks 1 of the 2 account notices"):
        writing.tick()


def test_a_store_that_is_away_is_not_taken_for_one_that_lost_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    class Away:
        def check(self, notice: AccountNotice) -> None: ...

        def write(self, notices: Sequence[AccountNotice], withdrawn: Sequence[tuple[str, datetime]] = ()) -> None: ...

        def missing(self, notice_ids: Collection[str]) -> frozenset[str]:
            raise Unreachable("store: away")

    monkeypatch.setattr(account_notices, "_LOOK_SECONDS", 0.0)
    writing = handler(Away())
    writing.handle([received(notice())], {})
    writing.tick()
