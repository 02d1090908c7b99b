"""Letters for the printer: a folder for each batch with one PDF a letter, the addresses as CSV, and a manifest of hashes.

The folder is readable by its owner alone (0700, files 0600). It appears whole or not at all, and the same letters make
the same bytes and the same name. A batch whose dispatcher died before it could say so is found by the receipts stage,
which reads the manifests: nothing is printed twice. Not for what a letter says (`letters`) nor for the post, which a
named person records (`tocsin delivery letters`).
"""

import csv
import hashlib
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.runtime.clock import Clock
from consumers.case.posting import LetterBatch
from consumers.domain.ledger import Handed, WrittenLetter
from consumers.domain.sending import (
    SPECIMEN_ADDRESS,
    Letter,
    Receipt,
    ReceiptDelivery,
    ReceiptKind,
    SendResult,
    SendState,
)

FORMAT = "tocsin-letters-v1"
PROVIDER = "post"
MANIFEST = "manifest.json"
_SETTLED = ".settled"
_LOOK_EVERY = timedelta(seconds=1)
_STALE_SECONDS = 3600
_COLUMNS = ("number", "file", "country", *(f"line_{number}" for number in range(1, 9)))


class LetterFolder:
    """A LetterWriter (`consumers.domain.sending`) that writes under `root`, an incident's batches in a folder of its own."""

    name = PROVIDER

    def __init__(self, root: Path) -> None:
        self._root = root

    def write(self, incident_id: str, letters: Sequence[Letter], *, exercise: bool) -> Sequence[SendResult]:
        """Write one batch; return one result a letter, in their order. Raises Unreachable if the folder can't be written,
        Refused where a letter of an exercise bears an address: a batch ends at a printer, who posts what he gets.

        A crash before the rename leaves a folder `.partial-*` that a later batch removes; one after it leaves a whole
        batch, from whose manifest the receipts stage learns what is in it.
        """
        if exercise and any(tuple(letter.address) != SPECIMEN_ADDRESS for letter in letters):
            raise Refused(f"{incident_id} is an exercise: a letter with somebody's address is not written")
        ordered = sorted(letters, key=lambda letter: (tuple(reversed(letter.address)), letter.attempt_id))
        files = {f"{number:04}.pdf": letter.pdf for number, letter in enumerate(ordered, 1)}
        files["addresses.csv"] = _addresses(ordered)
        content = {
            "format": FORMAT,
            "incident_id": incident_id,
            **({"exercise": True} if exercise else {}),
            "letters": [
                {"number": number, "file": f"{number:04}.pdf", "attempt": letter.attempt_id, "call": letter.send_count}
                for number, letter in enumerate(ordered, 1)
            ],
            "sha256": {name: hashlib.sha256(made).hexdigest() for name, made in sorted(files.items())},
        }
        files[MANIFEST] = json.dumps(content, indent=1, sort_keys=True).encode() + b"\n"
        batch = hashlib.sha256(files[MANIFEST]).hexdigest()
        try:
            self._appear(self._root / incident_id, batch, files)
        except OSError as error:
            raise Unreachable(
                f"letters cannot be written to {self._root / incident_id} ({error.strerror or type(error).__name__})"
            ) from None
        numbers = {letter.attempt_id: number for number, letter in enumerate(ordered, 1)}
        return [
            SendResult(each.attempt_id, SendState.ACCEPTED, message_id(batch, numbers[each.attempt_id]))
            for each in letters
        ]

    @staticmethod
    def _appear(folder: Path, batch: str, files: Mapping[str, bytes]) -> None:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        final, partial = folder / batch[:16], folder / f".partial-{batch[:16]}"
        if final.exists():
            return
        for left in folder.glob(".partial-*"):
            # its writer died: the addresses in it need not lie there
            if left == partial or time.time() - left.stat().st_mtime > _STALE_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(mode=0o700)
        for name, content in files.items():
            descriptor = os.open(partial / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        _sync(partial)
        partial.rename(final)
        _sync(folder)


class LetterBatches:
    """A ReceiptSource: says `sent` of every letter in a batch that lies in the folder, once, however its writer ended."""

    name = "letters"

    def __init__(self, root: Path, clock: Clock) -> None:
        self._root = root
        self._clock = clock
        self._settled: set[Path] = set()
        self._looked_at = datetime.min.replace(tzinfo=UTC)

    def receive(self, limit: int, wait_seconds: int) -> Sequence[ReceiptDelivery]:  # noqa: ARG002  a folder has no wait
        """Return batches that have not been settled, at most `limit` letters (one batch at least); looks once a second. Raises
        Unreachable for what cannot be read, where nothing else is left; what can be is returned before.
        """
        now = self._clock.now()
        if timedelta(0) <= now - self._looked_at < _LOOK_EVERY:
            return ()
        self._looked_at = now
        found: list[ReceiptDelivery] = []
        count = 0
        unreadable: OSError | None = None
        for path in sorted(self._root.glob(f"*/[0-9a-f]*/{MANIFEST}")):
            if path.parent in self._settled or (path.parent / _SETTLED).exists():
                self._settled.add(path.parent)
                continue
            try:
                delivery = self._delivery(path)
            except OSError as error:
                # one that is gone was removed in this moment
                if path.exists():
                    unreadable = error
                continue
            if found and count + len(delivery.receipts) > limit:
                break
            found.append(delivery)
            count += len(delivery.receipts)
        if unreadable is not None and not found:
            raise Unreachable(f"letters cannot be read ({unreadable.strerror or type(unreadable).__name__})")
        return found

    def settle(self, handles: Sequence[str]) -> None:
        """Mark batches as read. A crash before this reads them again, which changes nothing; so does a folder that takes no mark,
        or was removed in this moment.
        """
        for handle in handles:
            with suppress(OSError):
                (Path(handle) / _SETTLED).touch(mode=0o600)
            self._settled.add(Path(handle))

    def _delivery(self, path: Path) -> ReceiptDelivery:
        raw = path.read_bytes()
        try:
            batch, manifest = read_manifest(path.parent)
        except BadInput as error:
            return ReceiptDelivery(str(path.parent), (), str(error), raw)
        at = datetime.fromtimestamp(path.stat().st_mtime, UTC)
        receipts = [
            letter_receipt(batch, each["number"], each["attempt"], ReceiptKind.SENT, at) for each in manifest["letters"]
        ]
        return ReceiptDelivery(str(path.parent), receipts)


class PostedLetters:
    """Implements `consumers.case.posting.LetterPost` on the folder and the ledger."""

    def __init__(self, root: Path, ledger: "LetterLedger") -> None:
        self._root = root
        self._ledger = ledger

    def batches(self, incident_id: str) -> Sequence[LetterBatch]:
        """Return the batches of an incident, whether or not their files are still there."""
        found: dict[str, dict[int, WrittenLetter]] = {}
        for each in self._ledger.letters(incident_id):
            batch, _, number = each.message_id.partition("/")
            found.setdefault(batch, {})[int(number)] = each
        return [
            LetterBatch(
                batch,
                incident_id,
                self._root / incident_id / batch[:16],
                {number: (each.attempt_id, each.state) for number, each in letters.items()},
                sum(each.waits and each.kept_back is None for each in letters.values()),
                {number: each.kept_back for number, each in sorted(letters.items()) if each.kept_back is not None},
            )
            for batch, letters in sorted(found.items())
        ]

    def check(self, batch: LetterBatch) -> None:
        """Raise Refused unless every file of a batch is what was written."""
        if checked_batch(batch.folder)[0] != batch.sha256:
            raise Refused(f"{batch.folder / MANIFEST} is not the manifest that the ledger knows; nothing was recorded")

    def report(self, batch: LetterBatch, numbers: Sequence[int], kind: ReceiptKind, at: datetime) -> int:
        """Tell the ledger what became of letters; return to how many that was new."""
        receipts = [letter_receipt(batch.sha256, number, batch.letters[number][0], kind, at) for number in numbers]
        return self._ledger.settle_receipts(receipts).applied


class WrittenLetters:
    """Letters that lie under `root`, to be removed when somebody is erased (`case_store.erasures.LetterFiles`)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def erase(self, incident_id: str, message_id: str) -> None:
        """Remove a letter, its line among the addresses and its attempt from the manifest, each whole or not at all.

        What is gone already is left alone: a crash in between is mended by the next try. The batch has another hash then,
        which only matters to whoever posts it, and nobody does once its incident has ended. Raises Unreachable.
        """
        batch, _, number = message_id.partition("/")
        folder = self._root / incident_id / batch[:16]
        if not re.fullmatch(r"[0-9a-f]{64}/[0-9]{4,}", message_id) or not folder.is_dir():
            return
        try:
            (folder / f"{number}.pdf").unlink(missing_ok=True)
            self._put(folder / "addresses.csv", lambda text: _without_line(text, number))
            self._put(folder / MANIFEST, lambda text: _without_attempt(text, int(number)))
            _sync(folder)
        except OSError as error:
            raise Unreachable(
                f"{folder}: a letter cannot be removed ({error.strerror or type(error).__name__})"
            ) from None

    @staticmethod
    def _put(path: Path, changed: Callable[[str], str]) -> None:
        if not path.exists():
            return
        partial = path.with_name(f".partial-{path.name}")
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            file.write(changed(path.read_bytes().decode()))
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)


def _without_line(text: str, number: str) -> str:
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row[:1] != [number]]
    made = io.StringIO()
    csv.writer(made, quoting=csv.QUOTE_ALL, lineterminator="\r\n").writerows(rows)
    return made.getvalue()


def _without_attempt(text: str, number: int) -> str:
    content = json.loads(text)
    content["letters"] = [
        {**each, "attempt": "erased"} if each["number"] == number else each for each in content["letters"]
    ]
    return json.dumps(content, indent=1, sort_keys=True) + "\n"


class LetterLedger(Protocol):
    """What the post asks of the ledger."""

    def letters(self, incident_id: str) -> Sequence[WrittenLetter]:
        """Return every letter that was written."""
        ...

    def settle_receipts(self, receipts: Sequence[Receipt]) -> Handed: ...


def letter_receipt(batch: str, number: int, attempt_id: str, kind: ReceiptKind, at: datetime) -> Receipt:
    """Return what is reported of one letter; the same report twice is one."""
    identity = f"{message_id(batch, number)}/{kind}"
    return Receipt(PROVIDER, identity, message_id(batch, number), attempt_id, kind, None, at,
                   hashlib.sha256(identity.encode()).hexdigest())  # fmt: skip


def message_id(batch: str, number: int) -> str:
    """Return the id by which the ledger knows a letter: the batch's SHA-256 and its number."""
    return f"{batch}/{number:04}"


def read_manifest(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return the SHA-256 of a batch's manifest and what it says. Raises BadInput if it is none."""
    try:
        raw = (folder / MANIFEST).read_bytes()
        content = json.loads(raw)
        letters = [(each["number"], each["attempt"], each["file"]) for each in content["letters"]]
        assert content["format"] == FORMAT
        assert all(isinstance(number, int) for number, _, _ in letters)
    except (OSError, ValueError, KeyError, TypeError, AssertionError):
        raise BadInput(f"{folder / MANIFEST}: not the manifest of a letter batch ({FORMAT})") from None
    return hashlib.sha256(raw).hexdigest(), content


def checked_batch(folder: Path) -> tuple[str, dict[str, Any]]:
    """Return as `read_manifest` does, after comparing every file with its hash. Raises Refused, naming what differs."""
    batch, manifest = read_manifest(folder)
    for name, sha256 in manifest["sha256"].items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError:
            raise Refused(f"{folder / name} is missing; nothing was recorded") from None
        if found != sha256:
            raise Refused(f"{folder / name} is not what was written: its hash is another; nothing was recorded")
    return batch, manifest


def _addresses(letters: Sequence[Letter]) -> bytes:
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    rows.writerow(_COLUMNS)
    for number, letter in enumerate(letters, 1):
        lines = [_cell(line) for line in letter.address]
        padded = [*lines, *[""] * (len(_COLUMNS) - 3 - len(lines))]
        rows.writerow([f"{number:04}", f"{number:04}.pdf", lines[-1] if lines else "", *padded])
    return text.getvalue().encode()


def _cell(line: str) -> str:
    """Return `line` so that no spreadsheet takes it for a formula."""
    return f"'{line}" if line[:1] in ("=", "+", "-", "@", "\t") else line


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
