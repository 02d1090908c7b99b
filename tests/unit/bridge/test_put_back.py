"""The shop's database was put back in time: the relay sees it by the number of its own heartbeat, until all was verified."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from bridge.contracts.fingerprints import Entity
from bridge.put_back import PUT_BACK, StoreMark, put_back_since
from bridge.relay_status import Status, last_verified, remember
from bridge.verification import ENTITIES, Report

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def mark(tmp_path: Path) -> StoreMark:
    return StoreMark(tmp_path / "store.json", tmp_path / "verified.json")


def since(folder: Path) -> datetime | None:
    return put_back_since(folder / "store.json", last_verified(folder / "verified.json"))


def shown() -> float:
    return PUT_BACK._value.get()  # type: ignore[no-any-return]


def verify(folder: Path, at: datetime, *entities: Entity) -> None:
    remember(Report(), entities or ENTITIES, folder / "verified.json", at)


def test_a_number_that_falls_is_said_until_all_was_verified(mark: StoreMark, tmp_path: Path) -> None:
    assert since(tmp_path) is None
    for number in (7, 8, 8, 12):
        mark.saw(number, AT)
    assert (since(tmp_path), shown()) == (None, 0)
    mark.saw(9, AT + timedelta(minutes=1))
    assert (since(tmp_path), shown()) == (AT + timedelta(minutes=1), 1)
    # it goes on from there, and another process of the stage knows as much
    another = StoreMark(tmp_path / "store.json", tmp_path / "verified.json")
    for number in (10, 11, 12, 13):
        another.saw(number, AT + timedelta(minutes=2))
    assert (since(tmp_path), shown()) == (AT + timedelta(minutes=1), 1)
    verify(tmp_path, AT)
    assert since(tmp_path) is not None, "what was verified before says nothing"
    verify(tmp_path, AT + timedelta(minutes=3), "customer")
    assert since(tmp_path) is not None, "customers alone are not all"
    verify(tmp_path, AT + timedelta(minutes=4))
    another.saw(14, AT + timedelta(minutes=5))
    assert (since(tmp_path), shown()) == (None, 0)
    another.saw(3, AT + timedelta(minutes=6))
    assert (since(tmp_path), shown()) == (AT + timedelta(minutes=6), 1)


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"number": "7"}', '{"number": 7}', '{"number": 7, "put_back_at": 9}']
)
def test_a_file_that_is_none_of_ours_stops_nobody(mark: StoreMark, tmp_path: Path, content: str) -> None:
    (tmp_path / "store.json").write_text(content)
    assert since(tmp_path) is None
    mark.saw(8, AT)
    assert json.loads((tmp_path / "store.json").read_text())["number"] == 8


def test_a_disk_that_takes_nothing_stops_no_relay(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file where the folder should be")
    mark = StoreMark(tmp_path / "data" / "store.json", tmp_path / "data" / "verified.json")
    mark.saw(7, AT)
    mark.saw(6, AT)
    assert shown() == 0, "nobody can tell without the file"


def test_the_status_names_what_mends_it() -> None:
    (trouble,) = Status(beat_at=AT, put_back_at=AT).troubles(AT)
    assert "put back in time" in trouble
    assert "tocsin relay verify --repair" in trouble
