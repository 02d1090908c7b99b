"""What a dispatcher was about to hand over, for whoever comes after it."""

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from consumers.adapters.texts_in_flight import TextsInFlight
from consumers.domain.ledger import SentText

ONE, OTHER = SentText("a1", 1, "a" * 64), SentText("b2", 2, "b" * 64)


def left_in(folder: Path) -> list[SentText]:
    told: list[SentText] = []
    TextsInFlight(folder).take_over(told.extend)
    return told


def dies(texts: TextsInFlight) -> None:
    """Give up its lock as a process that is killed does."""
    os.close(texts._descriptor)


def test_what_a_dead_one_left_is_told_once(tmp_path: Path) -> None:
    texts = TextsInFlight(tmp_path)
    texts.leave([ONE])
    texts.leave([OTHER])
    assert left_in(tmp_path) == [], "it lives"
    dies(texts)
    assert left_in(tmp_path) == [ONE, OTHER]
    assert left_in(tmp_path) == []


def test_what_left_a_number_behind_is_told_with_it(tmp_path: Path) -> None:
    text = SentText("a1", 1, "a" * 64, "c" * 64)
    texts = TextsInFlight(tmp_path)
    texts.leave([text, OTHER])
    dies(texts)
    assert left_in(tmp_path) == [text, OTHER]


def test_what_was_reported_is_left_to_nobody(tmp_path: Path) -> None:
    texts = TextsInFlight(tmp_path)
    texts.leave([ONE])
    texts.reported()
    texts.leave([OTHER])
    dies(texts)
    assert left_in(tmp_path) == [OTHER]


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    TextsInFlight(tmp_path / "texts").leave([ONE])
    (path,) = (tmp_path / "texts").iterdir()
    assert (stat.S_IMODE(path.stat().st_mode), stat.S_IMODE(path.parent.stat().st_mode)) == (0o600, 0o700)


def test_what_could_not_be_told_is_told_by_the_next_one(tmp_path: Path) -> None:
    texts = TextsInFlight(tmp_path)
    texts.leave([ONE])
    dies(texts)

    def unreachable(_: Sequence[SentText]) -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        TextsInFlight(tmp_path).take_over(unreachable)
    assert left_in(tmp_path) == [ONE]


def test_a_line_that_a_crash_cut_off_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "dead.texts").write_bytes(f"a1 1 {'a' * 64}\nb2 2 bbbb".encode() + b"\xff")
    assert left_in(tmp_path) == [ONE]


def test_a_full_disk_keeps_no_message_from_its_reader(tmp_path: Path) -> None:
    texts = TextsInFlight(tmp_path)
    os.close(texts._descriptor)
    texts._descriptor = os.open("/dev/full", os.O_WRONLY)
    texts.leave([ONE])
