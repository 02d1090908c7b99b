"""The log on files: what stands in it at every size, and what the writer does after crashes and with foreign logs."""

import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path

import pytest

from consumers.adapters.tile_store import TileFolder
from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import (
    Forked,
    LogInUse,
    Malformed,
    MemoryMissing,
    RolledBack,
    TileDamaged,
    WriterFailed,
    WrongKey,
)
from consumers.evidence.log import LogWriter
from consumers.evidence.merkle import check_consistency, check_inclusion, leaf_hash, root_over
from consumers.evidence.note import SigningKey
from consumers.evidence.reader import LogFolder, LogReader
from consumers.evidence.tiles import ENTRIES, TileName, parse_path, tiles_of
from consumers.evidence.verifier import LogReport, verify_log
from tests.unit.evidence.logs import (
    KEY,
    ORIGIN,
    OTHER_KEY,
    FailingDisk,
    LosingDisk,
    PowerFailure,
    entries,
    entry,
    write_log,
    writing,
)


class CountedFiles(LogFolder):
    """Remembers which files were read."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_paths: list[str] = []

    def read(self, path: str) -> bytes | None:
        found = super().read(path)
        if found is not None:
            self.read_paths.append(path)
        return found


def verified(folder: Path) -> LogReport:
    return verify_log(LogFolder(folder), [KEY.verifier])


def head_of(folder: Path) -> Checkpoint:
    return open_checkpoint((folder / "checkpoint").read_bytes(), [KEY.verifier])


def memory_of(folder: Path) -> Path:
    return folder.with_name(folder.name + ".signed")


@cache
def root_of(size: int) -> bytes:
    return root_over([leaf_hash(entry(index)) for index in range(size)])


@pytest.mark.parametrize("size", [0, 1, 255, 256, 257, 511, 512, 513])
def test_a_log_of_any_size_has_exactly_its_tiles(tmp_path: Path, size: int) -> None:
    folder = write_log(tmp_path / "log", [size])
    assert head_of(folder) == Checkpoint(ORIGIN, size, root_of(size))
    assert sorted(LogFolder(folder).names()) == sorted(name.path for name in tiles_of(size))
    assert verified(folder).problems == []
    assert [found for _, found in LogReader(LogFolder(folder), size).entries()] == entries(0, size)


def test_the_third_level_appears_at_65536(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    with writing(folder) as writer:
        for size in (65535, 65536, 65537):
            writer.append(entries(writer.size, size))
            assert writer.reader().root() == head_of(folder).root
    names = set(LogFolder(folder).names())
    assert {"tile/2/000.p/1", "tile/1/000", "tile/0/255", "tile/0/256.p/1", "tile/entries/256.p/1"} <= names
    assert {name.path for name in tiles_of(65537)} == names
    assert head_of(folder).root == root_of(65537)
    assert verified(folder).problems == []


def test_partial_tiles_of_every_signed_size_stay_until_the_full_one_is_there(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [1, 5, 200, 255])
    kept = {f"tile/{level}/000.p/{width}" for level in ("0", "entries") for width in (1, 5, 200, 255)}
    assert set(LogFolder(folder).names()) == kept
    longest = (folder / "tile/0/000.p/255").read_bytes()
    assert all(longest.startswith((folder / f"tile/0/000.p/{width}").read_bytes()) for width in (1, 5, 200))
    with writing(folder) as writer:
        writer.append(entries(255, 256))
    assert set(LogFolder(folder).names()) == {"tile/0/000", "tile/entries/000", "tile/1/000.p/1"}
    assert not (folder / "tile/0/000.p").exists()
    # A reader that still has an older checkpoint finds the full tile instead.
    assert LogReader(LogFolder(folder), 200).root() == root_of(200)


def test_upper_partial_tiles_appear_at_each_multiple_of_256_and_stay(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [256, 300, 512, 600])
    names = set(LogFolder(folder).names())
    assert {"tile/1/000.p/1", "tile/1/000.p/2"} <= names
    assert verified(folder).problems == []


@pytest.mark.parametrize("size", [1, 2, 7, 256, 257, 600])
def test_proofs_from_tiles_prove(tmp_path: Path, size: int) -> None:
    folder = write_log(tmp_path / "log", [size])
    reader, head = LogReader(LogFolder(folder), size), head_of(folder)
    for index in {0, size // 2, size - 1}:
        check_inclusion(index, size, leaf_hash(entry(index)), reader.inclusion_proof(index), head.root)
    for old in {1, size // 2, size}:
        check_consistency(old, size, root_of(old), head.root, reader.consistency_proof(old))


@pytest.mark.parametrize("size", [1, 255, 256, 600, 65537, 70000])
def test_a_proof_reads_one_tile_a_level_and_one_bundle_also_with_a_spoiled_edge(tmp_path: Path, size: int) -> None:
    folder = write_log(tmp_path / "log", [size])
    head, whole = head_of(folder), (folder / "edge").read_bytes()
    for index in {0, size // 3, size - 1}:
        counted = CountedFiles(folder)
        reader = LogReader(counted, size)
        check_inclusion(index, size, leaf_hash(reader.entry(index)), reader.inclusion_proof(index), head.root)
        tiles = [parse_path(path) for path in counted.read_paths if path.startswith("tile/")]
        assert len({tile.level for tile in tiles}) == len(tiles)
        assert set(counted.read_paths) - {tile.path for tile in tiles} <= {"edge"}
    for spoiled in (b"", whole[:-1], whole + b"\n", whole.replace(b"=", b"", 1), b"1\n", b"\xff" * 99, b"0" + whole):
        (folder / "edge").write_bytes(spoiled)
        proof = LogReader(LogFolder(folder), size).inclusion_proof(size // 2)
        check_inclusion(size // 2, size, leaf_hash(entry(size // 2)), proof, head.root)
    assert verified(folder).problems == []


def test_a_writer_goes_on_where_the_last_one_stopped(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    sizes = [1, 3, 255, 256, 258, 700]
    for size in sizes:
        with writing(folder) as writer:
            before = writer.size
            assert writer.append(entries(before, size)) == range(before, size)
    assert head_of(folder).root == root_of(700)
    assert verified(folder).problems == []
    with writing(folder) as writer:
        assert [found for _, found in writer.backwards()] == entries(0, 700)[::-1]


def test_an_entry_that_fits_no_bundle_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    with writing(tmp_path / "log") as writer:
        with pytest.raises(Malformed):
            writer.append([b"fits", b"x" * 65536])
        assert writer.append([b"fits"]) == range(1)


@pytest.mark.parametrize(
    "what_is_lost",
    ["the process", "what was not synced", pytest.param("bytes that were not synced", marks=pytest.mark.soak)],
)
def test_no_operation_on_disk_can_fail_without_the_log_staying_one_history(tmp_path: Path, what_is_lost: str) -> None:
    """Stop before each file operation in turn: whatever was signed stays signed, and the log goes on and verifies."""
    template = write_log(tmp_path / "template/log", [250]).parent
    signed_roots: dict[int, bytes] = {250: root_of(250)}
    fail_at, done = 0, False
    while not done:
        base = shutil.copytree(template, tmp_path / f"at{fail_at}")
        folder, acknowledged = base / "log", 250
        losing = what_is_lost != "the process"
        disk = (
            LosingDisk(fail_at, base, keep_names=what_is_lost.startswith("bytes")) if losing else FailingDisk(fail_at)
        )
        try:
            with writing(folder, disk=disk) as writer:
                for size in (520, 530):
                    writer.append(entries(writer.size, size))
                    acknowledged = size
            done = True
        except PowerFailure:
            pass
        if isinstance(disk, LosingDisk):
            disk.lose_power()
        # Readers see a whole log at every moment.
        assert verified(folder).problems == []
        remembered = open_checkpoint(memory_of(folder).read_bytes(), [KEY.verifier])
        assert remembered.root == root_of(remembered.size) == signed_roots.setdefault(remembered.size, remembered.root)
        assert remembered.size >= acknowledged
        with writing(folder) as writer:
            assert writer.size == remembered.size >= head_of(folder).size
            assert not list((folder / ".writing").iterdir())
            # Other entries than those that the crash interrupted: nothing of that batch may show through.
            writer.append([b"after the crash", *entries(0, 300)])
        assert verified(folder).problems == []
        assert verified(folder).notes == []
        assert LogReader(LogFolder(folder), remembered.size).root() == remembered.root
        shutil.rmtree(base)
        fail_at += 1
    assert fail_at > 50
    assert set(signed_roots) == {250, 520, 530}


def test_a_new_logs_first_steps_can_stop_anywhere(tmp_path: Path) -> None:
    for fail_at in range(40):
        folder = tmp_path / f"log{fail_at}" / "below"
        try:
            with writing(folder, disk=FailingDisk(fail_at)) as writer:
                writer.append(entries(0, 3))
        except PowerFailure:
            with writing(folder) as writer:
                writer.append(entries(writer.size, 3))
        assert head_of(folder).root == root_of(3)
        assert verified(folder).problems == []


def test_a_full_disk_stops_the_writer_and_the_log_goes_on_after_it(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [10])
    disk = FailingDisk(100, OSError(28, "No space left on device"))
    with writing(folder, disk=disk) as writer:
        disk.left = 0
        with pytest.raises(OSError, match="No space"):
            writer.append(entries(10, 20))
        with pytest.raises(WriterFailed, match="open the log again"):
            writer.append(entries(10, 20))
    assert verified(folder).problems == []
    with writing(folder) as writer:
        writer.append(entries(10, 20))
    assert head_of(folder).root == root_of(20)


def test_killed_at_any_moment_the_log_goes_on(tmp_path: Path) -> None:
    """A real process, really killed."""
    folder = tmp_path / "log"
    program = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from tests.unit.evidence.logs import entries, writing
        with writing(Path(sys.argv[1])) as writer:
            while True:
                writer.append(entries(writer.size, writer.size + 37))
                print(writer.size, flush=True)
        """
    )
    chance = random.Random(7)
    acknowledged = 0
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", program, str(folder)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[3],
        )
        assert process.stdout is not None
        for _ in range(chance.randint(1, 20)):
            acknowledged = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        with writing(folder) as writer:
            assert writer.size >= acknowledged
            assert head_of(folder).root == root_of(writer.size)
    assert verified(folder).problems == []


def test_two_writers_never_write_one_log(tmp_path: Path) -> None:
    with writing(tmp_path / "log"), pytest.raises(LogInUse, match="one writer"):
        LogWriter.open(TileFolder(tmp_path / "log"), KEY)
    with writing(tmp_path / "log") as writer:
        writer.append(entries(0, 1))


def test_another_key_or_origin_is_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    for key in (OTHER_KEY, SigningKey("other.example", bytes(range(32)))):
        with pytest.raises(WrongKey, match="not signed by this key"):
            LogWriter.open(TileFolder(folder), key)
    assert verified(folder).problems == []


def test_a_log_that_was_rolled_back_is_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    backup = shutil.copytree(folder, tmp_path / "backup")
    with writing(folder) as writer:
        writer.append(entries(3, 9))
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    with pytest.raises(RolledBack, match="size 9 was signed last, and the log ends at 3"):
        LogWriter.open(TileFolder(folder), KEY)
    shutil.rmtree(folder)
    with pytest.raises(RolledBack, match="no checkpoint"):
        LogWriter.open(TileFolder(folder), KEY)


def test_a_forked_log_is_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    with writing(tmp_path / "twin") as twin:
        twin.append([b"other", b"entries", b"here"])
    shutil.rmtree(folder)
    shutil.copytree(tmp_path / "twin", folder)
    with pytest.raises(Forked, match="two histories"):
        LogWriter.open(TileFolder(folder), KEY)


def test_a_log_ahead_of_the_memory_is_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    old = memory_of(folder).read_bytes()
    with writing(folder) as writer:
        writer.append(entries(3, 5))
    memory_of(folder).write_bytes(old)
    with pytest.raises(Forked, match="size 5, and this writer signed 3"):
        LogWriter.open(TileFolder(folder), KEY)


def test_a_log_without_memory_is_refused_until_a_person_decides(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    memory_of(folder).unlink()
    with pytest.raises(MemoryMissing, match="copy its file `checkpoint` there"):
        LogWriter.open(TileFolder(folder), KEY)
    shutil.copy(folder / "checkpoint", memory_of(folder))
    with writing(folder) as writer:
        assert writer.size == 3


def test_tiles_without_a_checkpoint_are_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    (folder / "checkpoint").unlink()
    memory_of(folder).unlink()
    with pytest.raises(RolledBack, match="tiles and no checkpoint"):
        LogWriter.open(TileFolder(folder), KEY)


@pytest.mark.parametrize("path", ["tile/0/000", "tile/0/001.p/44", "tile/1/000.p/1", "tile/entries/001.p/44"])
def test_a_truncated_missing_or_altered_tile_is_refused(tmp_path: Path, path: str) -> None:
    folder = write_log(tmp_path / "log", [300])
    whole = (folder / path).read_bytes()
    (folder / path).write_bytes(whole[:-1])
    with pytest.raises(TileDamaged, match="truncated"):
        LogWriter.open(TileFolder(folder), KEY)
    (folder / path).unlink()
    with pytest.raises(TileDamaged, match="missing"):
        LogWriter.open(TileFolder(folder), KEY)
    (folder / path).write_bytes(bytes([whole[0], whole[1], whole[2] ^ 1]) + whole[3:])
    if path != "tile/0/000":  # an inner tile is the verifier's business: reading all of them would make starting slow
        with pytest.raises(TileDamaged):
            LogWriter.open(TileFolder(folder), KEY)
    assert verified(folder).problems


def test_a_damaged_checkpoint_or_memory_is_refused(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    for file in (folder / "checkpoint", memory_of(folder)):
        whole = file.read_bytes()
        file.write_bytes(whole[:20])
        with pytest.raises(TileDamaged, match="cannot be read"):
            LogWriter.open(TileFolder(folder), KEY)
        file.write_bytes(whole)


def test_an_unsigned_batch_is_set_aside_not_destroyed(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    stray = folder / TileName(ENTRIES, 0, 9).path
    stray.write_bytes(b"?")
    assert verified(folder).notes
    with writing(folder):
        pass
    assert not stray.exists()
    assert (folder / ".unsigned/beyond-3" / TileName(ENTRIES, 0, 9).path).read_bytes() == b"?"
    assert verified(folder).notes == []


@pytest.mark.parametrize("count", [1000, pytest.param(10_000, marks=pytest.mark.soak)])
def test_every_altered_byte_is_found(tmp_path: Path, count: int) -> None:
    """Random alterations of single bytes, anywhere in the log."""
    folder = write_log(tmp_path / "log", [100, 256, 300, 520])
    files = [folder / "checkpoint", *(folder / name for name in sorted(LogFolder(folder).names()))]
    contents = {file: file.read_bytes() for file in files}
    places = [(file, at) for file in files for at in range(len(contents[file]))]
    chance = random.Random(11)
    for file, at in chance.sample(places, count):
        altered = bytearray(contents[file])
        altered[at] ^= chance.randint(1, 255)
        file.write_bytes(altered)
        report = verified(folder)
        assert not report.proved, f"{file} at {at}"
        assert all("\n" not in sentence for sentence in report.sentences())
        file.write_bytes(contents[file])
    assert verified(folder).proved


def test_an_early_partial_tile_must_be_a_prefix(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3, 9])
    for path in ("tile/0/000.p/3", "tile/entries/000.p/3"):
        whole = (folder / path).read_bytes()
        (folder / path).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        assert any(path in problem for problem in verified(folder).problems)
        (folder / path).write_bytes(whole)


def test_strangers_in_the_folder_are_named(tmp_path: Path) -> None:
    folder = write_log(tmp_path / "log", [3])
    (folder / "tile/0/000.p/03").write_bytes(b"")
    assert verified(folder).problems == ["'tile/0/000.p/03' does not belong into a log's folder"]


def test_a_folder_that_is_no_log_is_not_proved(tmp_path: Path) -> None:
    for path in ("checkpoint", "tile/0/000"):  # folders where files belong
        (tmp_path / "odd" / path).mkdir(parents=True)
        assert not verified(tmp_path / "odd").proved
    assert verified(tmp_path).sentences()[0].startswith("NOT proved")
