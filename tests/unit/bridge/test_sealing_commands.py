"""`tocsin sealing`: an old key stays while anything is sealed to it, and says what that is."""

import os
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from bridge import sealing_commands
from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.contracts.events import Contact, DeadLettered
from bridge.contracts.queries import HeldContacts, IndexAnswers, IndexStatus, PartitionStatus, Seals
from bridge.contracts.topics import AFFECTED_CUSTOMERS, DEPARTED_CUSTOMERS, STORE_CHANGES
from bridge.runtime.clock import SetClock
from bridge.runtime.parts import Parts
from bridge.runtime.sealing import (
    KEY_LOOK_SECONDS,
    KeyNotHeld,
    Opener,
    Sealer,
    SealingKeys,
    generate_sealing_keys,
    key_id_of,
    load_private_keys,
    load_public_key,
    public_key_of,
    replace_key_file,
    seal_bytes,
    sealed_bytes_key_id,
    write_key_file,
)
from bridge.runtime.settings import Paths, Settings

PRESENT, OLD = generate_sealing_keys(), generate_sealing_keys()
PRESENT_ID, OLD_ID = key_id_of(PRESENT.public), key_id_of(OLD.public)
CONTACT = Contact(email="someone@shop.example.com")
_SEAL = Sealer(OLD.public, SetClock(datetime(2026, 3, 1, tzinfo=UTC))).seal(CONTACT, "customer/1")
SEALED_BEFORE = f'{{"root": "customer/1", "contact": {_SEAL.model_dump_json()}, "cut sho'.encode()


class Around:
    """What the command finds around it."""

    def __init__(self) -> None:
        self.present: dict[str, int] = {PRESENT_ID: 10}
        self.departed: dict[str, int] = {}
        self.held: dict[str, int] = {}
        self.letters: list[DeadLettered] = []
        self.against: dict[str, str] = {}
        self.silent: tuple[int, ...] = ()
        self.head_at = datetime(2026, 3, 1, tzinfo=UTC)
        self.rebuilding = False
        self.stored = {0: 5}
        self.bounds = {0: (0, 5), 1: (7, 7)}
        self.reads_on: Callable[[], None] = lambda: None

    def status(self) -> IndexStatus:
        self.reads_on()
        partition = PartitionStatus(
            partition=0, position_offset=1, customer_count=1, order_count=0, departed_count=0, record_count=0,
            head_at=self.head_at, resolved=(), file_bytes=1, rebuilding=self.rebuilding,
        )  # fmt: skip
        return IndexStatus(partition_count=1, silent_partitions=(), partitions=(partition,))

    def seals(self) -> Seals:
        return Seals(partition_count=6, silent_partitions=self.silent, present=self.present, departed=self.departed)

    def counts_by_key(self) -> Mapping[str, int]:
        return self.held

    def stored_up_to(self) -> Mapping[int, int]:
        return self.stored


@pytest.fixture
def around(monkeypatch: pytest.MonkeyPatch) -> Around:
    around = Around()
    monkeypatch.setattr(sealing_commands, "dead_letters", lambda _kafka: iter(around.letters))
    monkeypatch.setattr(sealing_commands, "reasons_against", lambda _kafka, _letters: around.against)
    monkeypatch.setattr(sealing_commands, "partition_bounds", lambda _kafka, _topic: around.bounds)
    monkeypatch.setattr(sealing_commands, "_HEAD_LOOK_SECONDS", 0.0)
    monkeypatch.setattr(sealing_commands, "_PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(sealing_commands, "_HEAD_PATIENCE_SECONDS", 0.2)
    return around


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    folder = tmp_path / "keys"
    write_key_file(folder / "sealing.key", PRESENT.private, OLD.private)
    write_key_file(folder / "sealing.pub", PRESENT.public)
    return folder


@pytest.fixture
def call(around: Around, keys: Path, tmp_path: Path) -> Callable[..., Result]:
    def invoke(*arguments: str) -> Result:
        parts = Parts()
        parts.provide(Settings, lambda: Settings(paths=Paths(data=tmp_path, keys=keys)))
        parts.provide(IndexAnswers, lambda: around)  # type: ignore[arg-type,return-value]  # only what is asked
        parts.provide(HeldContacts, lambda: around)
        return CliRunner().invoke(sealing_commands.sealing, arguments, obj=parts)

    return invoke


def letter(value: bytes, topic: str = "queue:ses", letter_id: str = "d") -> DeadLettered:
    import base64

    return DeadLettered(
        dead_letter_id=letter_id, topic=topic, partition=0, offset=0, key=None, headers={}, consumer="receipts", error="e",
        value=base64.b64encode(value).decode(), failed_at=datetime(2026, 3, 1, tzinfo=UTC),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"departed": {OLD_ID: 340}}, "340 departed customers, who would be lost"),
        ({"held": {OLD_ID: 12}}, "12 contacts held by open incidents"),
        ({"present": {PRESENT_ID: 9, OLD_ID: 1}}, "1 contacts (`tocsin sealing rotate` reseals them)"),
        ({"letters": [letter(seal_bytes(OLD.public, b"x"))]}, "1 dead letters"),
        ({"letters": [letter(SEALED_BEFORE, AFFECTED_CUSTOMERS.name)]}, "1 dead letters"),
        ({"letters": [letter(SEALED_BEFORE, DEPARTED_CUSTOMERS.name)]}, "1 dead letters"),
    ],
)
def test_an_old_key_stays_while_anything_carries_its_id(
    call: Callable[..., Result], around: Around, keys: Path, changes: dict[str, Any], said: str
) -> None:
    for name, value in changes.items():
        setattr(around, name, value)
    assert said in call("status").output
    refused = call("rotate", "--finish")
    assert isinstance(refused.exception, Refused)
    assert said in refused.output
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private, OLD.private]


def test_letters_that_never_go_back_keep_no_key(call: Callable[..., Result], around: Around, keys: Path) -> None:
    """A state of the store is published anew instead; of somebody departed there may be a newer message."""
    around.letters = [
        letter(SEALED_BEFORE, STORE_CHANGES.name, "a"),
        letter(SEALED_BEFORE, DEPARTED_CUSTOMERS.name, "b"),
    ]
    around.against = {"b": "dead letter b: something newer"}
    around.reads_on = reading(around)
    assert call("rotate", "--finish").exit_code == 0
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private]


def reading(around: Around) -> Callable[[], None]:
    """Return what has the index come to the end of its topics, as it says from its third answer on."""
    answers: list[None] = []

    def read_on() -> None:
        answers.append(None)
        if len(answers) > 2:
            around.head_at += timedelta(seconds=30)

    return read_on


def test_an_index_that_has_not_read_everything_removes_no_key(
    call: Callable[..., Result], around: Around, keys: Path
) -> None:
    """A file that was lost is built anew: until it has read them it counts no contact, and none of the departed."""
    refused = call("rotate", "--finish")
    assert isinstance(refused.exception, Refused)
    assert "partitions 0 have not read all" in str(refused.exception)
    around.rebuilding = True
    around.reads_on = reading(around)
    assert isinstance(call("rotate", "--finish").exception, Refused)
    around.rebuilding = False

    def finds_somebody() -> None:
        around.head_at += timedelta(seconds=30)
        around.departed = {OLD_ID: 340}

    around.reads_on = finds_somebody
    refused = call("rotate", "--finish")
    assert "340 departed customers, who would be lost" in refused.output
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private, OLD.private]


def test_affected_people_who_are_not_stored_yet_remove_no_key(
    call: Callable[..., Result], around: Around, keys: Path
) -> None:
    """What the index found is counted only once planning has stored it."""
    around.reads_on = reading(around)
    around.bounds = {0: (0, 25), 1: (7, 7)}
    refused = call("rotate", "--finish")
    assert isinstance(refused.exception, Refused)
    assert "20 messages" in str(refused.exception)
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private, OLD.private]


def test_an_old_key_that_nothing_carries_is_removed(call: Callable[..., Result], around: Around, keys: Path) -> None:
    around.reads_on = reading(around)
    assert "would be removed" in call("rotate", "--finish", "--dry-run").output
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private, OLD.private]
    assert call("rotate", "--finish").exit_code == 0
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private]
    assert isinstance(call("rotate", "--finish").exception, Refused)


def test_of_two_rotations_at_once_one_is_refused_and_no_key_is_lost(
    call: Callable[..., Result], keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (keys / "sealing.key").unlink()
    write_key_file(keys / "sealing.key", PRESENT.private)
    for name in ("_await_takeover", "_reseal", "_await_resealed"):
        monkeypatch.setattr(sealing_commands, name, lambda *_: None)
    begun: list[bool] = []
    others: list[Result] = []
    sealed_to: set[bytes] = set()

    def made_while_another_is_at_work() -> SealingKeys:
        if not begun:
            begun.append(True)
            others.append(call("rotate"))
            sealed_to.add(load_public_key(keys / "sealing.pub"))
        return generate_sealing_keys()

    monkeypatch.setattr(sealing_commands, "generate_sealing_keys", made_while_another_is_at_work)
    assert call("rotate").exit_code == 0
    sealed_to.add(load_public_key(keys / "sealing.pub"))
    assert sealed_to <= {public_key_of(key) for key in load_private_keys(keys / "sealing.key")}
    assert isinstance(others[0].exception, Refused)
    assert "at work" in str(others[0].exception)


@pytest.mark.parametrize("carried", [{"departed": {OLD_ID: 340}}, {"held": {OLD_ID: 12}}])
def test_a_new_key_is_made_though_an_old_one_stays(
    call: Callable[..., Result], around: Around, keys: Path, carried: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Departed customers keep theirs for years: a key that was stolen meanwhile must be replaced all the same."""
    resealed: list[str] = []
    progress = keys.parent / "sealing-rotation.json"
    monkeypatch.setattr(sealing_commands, "_await_takeover", lambda: None)
    monkeypatch.setattr(sealing_commands, "_await_resealed", lambda *_: None)
    monkeypatch.setattr(sealing_commands, "_reseal", lambda *_: resealed.append(f"after {progress.exists()}"))
    for name, value in carried.items():
        setattr(around, name, value)
    # one that was stopped had come so far, and a backfill had done the rest
    progress.write_text('{"customers": 50000}', encoding="utf-8")
    around.reads_on = reading(around)
    said = call("rotate").output
    assert f"everything that can be is sealed to {PRESENT_ID}; `tocsin sealing rotate --new-key`" in said
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private, OLD.private]
    assert "10 contacts would be sealed anew" in call("rotate", "--new-key", "--dry-run").output
    assert load_private_keys(keys / "sealing.key") == [PRESENT.private, OLD.private]
    made = call("rotate", "--new-key")
    assert made.exit_code == 0, made.output
    fresh, *others = load_private_keys(keys / "sealing.key")
    assert others == [PRESENT.private, OLD.private]
    assert load_public_key(keys / "sealing.pub") == public_key_of(fresh)
    assert resealed == ["after False"]
    assert isinstance(call("rotate", "--new-key", "--finish").exception, BadInput)


def test_an_index_that_counts_nobody_keeps_nobody_from_being_resealed(
    call: Callable[..., Result], around: Around, keys: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was lost is built anew, and at first knows nobody."""
    resealed: list[str] = []
    monkeypatch.setattr(sealing_commands, "_await_takeover", lambda: None)
    monkeypatch.setattr(sealing_commands, "_await_resealed", lambda *_: None)
    monkeypatch.setattr(sealing_commands, "_reseal", lambda *_: resealed.append("all"))
    around.present = {}
    assert call("rotate", "--new-key").exit_code == 0
    assert resealed == ["all"]
    # killed between the two files: the private key was made, and not yet sealed to
    replace_key_file(keys / "sealing.pub", PRESENT.public)
    assert "was made and not yet sealed to" in call("rotate").output
    assert resealed == ["all", "all"]
    # going on with it, one is not told that all is done by an index that has not read all
    refused = call("rotate")
    assert isinstance(refused.exception, Refused)
    assert "partitions 0 have not read all" in str(refused.exception)

    def finds_somebody() -> None:
        around.head_at += timedelta(seconds=30)
        around.present = {PRESENT_ID: 3}

    around.reads_on = finds_somebody
    assert call("rotate").exit_code == 0
    assert resealed == ["all", "all", "all"]


def test_a_machine_without_the_keys_says_so(call: Callable[..., Result], keys: Path) -> None:
    keys.rename(keys.with_name("elsewhere"))
    result = call("rotate", "--dry-run")
    assert isinstance(result.exception, Refused)
    assert f"{keys}, where the private sealing keys are" in str(result.exception)


def test_a_partition_that_does_not_answer_removes_nothing(
    call: Callable[..., Result], around: Around, keys: Path
) -> None:
    around.silent = (3,)
    assert isinstance(call("rotate", "--finish").exception, Unreachable)
    assert len(load_private_keys(keys / "sealing.key")) == 2


def test_a_lost_key_is_named(call: Callable[..., Result], around: Around) -> None:
    around.present["feedfeedfeedfeed"] = 3
    around.departed["feedfeedfeedfeed"] = 2
    result = call("status")
    assert isinstance(result.exception, Refused)
    assert "5 by feedfeedfeedfeed" in str(result.exception)
    assert "2 departed are lost" in str(result.exception)


def test_a_present_key_that_nobody_can_open_is_named(call: Callable[..., Result], keys: Path) -> None:
    """As when an older copy of the private keys was brought back: each notice would fail, and nothing else would say so."""
    replace_key_file(keys / "sealing.key", OLD.private)
    result = call("status")
    assert isinstance(result.exception, Refused)
    assert f"the relay seals to key {PRESENT_ID} (sealing.pub), and its private key is not in sealing.key" in str(
        result.exception
    )
    assert f"`tocsin sealing rotate` has customers and orders sealed to {OLD_ID}" in str(result.exception)


def test_a_sealer_and_an_opener_take_up_a_new_key_without_a_restart(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, public = SetClock(datetime(2026, 3, 1, tzinfo=UTC)), [OLD.public]
    private = [OLD.private]
    sealer = Sealer(OLD.public, clock, reload=lambda: public[0])
    opener = Opener(private, reload=lambda: private)
    monkeypatch.setattr(opener, "_looked_at", -KEY_LOOK_SECONDS)
    before = sealer.seal(CONTACT, "customer/1")
    public[0] = PRESENT.public
    assert sealer.seal(CONTACT, "customer/1").key_id == OLD_ID
    clock.at += timedelta(seconds=KEY_LOOK_SECONDS)
    after = sealer.seal(CONTACT, "customer/1")
    assert (before.key_id, after.key_id) == (OLD_ID, PRESENT_ID)
    private.insert(0, PRESENT.private)
    assert opener.open(after, "customer/1") == opener.open(before, "customer/1") == CONTACT
    with pytest.raises(KeyNotHeld):
        Opener([OLD.private]).open(after, "customer/1")


def test_a_key_file_is_replaced_whole_and_stays_private(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    write_key_file(path, OLD.private)
    path.with_name("sealing.key.partial").write_text("left by a crash", encoding="ascii")
    replace_key_file(path, PRESENT.private, OLD.private)
    assert load_private_keys(path) == [PRESENT.private, OLD.private]
    assert path.stat().st_mode & 0o777 == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["sealing.key"]


def test_whoever_could_read_a_key_file_still_can(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An administrator rotates, and relay and dispatch are accounts of their own."""
    path = tmp_path / "sealing.pub"
    write_key_file(path, OLD.public)
    path.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(path, 1234, 5678)
    before = path.stat()
    replace_key_file(path, PRESENT.public)
    after = path.stat()
    assert load_public_key(path) == PRESENT.public
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)

    def not_allowed(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr("os.chown", not_allowed)
    with pytest.raises(Refused, match="belongs to another account"):
        replace_key_file(path, OLD.public)
    assert load_public_key(path) == PRESENT.public
    assert [each.name for each in tmp_path.iterdir()] == ["sealing.pub"]


def test_sealed_bytes_name_their_key() -> None:
    assert sealed_bytes_key_id(seal_bytes(OLD.public, b"x")) == OLD_ID
    assert sealed_bytes_key_id(b"anything else at all") is None
