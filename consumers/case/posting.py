"""Letters and the post: a named person says that a batch was handed over, and which letters came back.

Handing to the post is what counts as delivered; mail that comes back is a bounce for good, and the next channel follows.
Not for writing letters (dispatch does) nor for whom gets one.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from bridge.contracts.errors import BadInput, Refused
from consumers.case.acting import Actor, needed, record_act
from consumers.case.events import Body, written
from consumers.case.permissions import Act
from consumers.case.store import CaseStore, CaseWork
from consumers.case.workflow import found
from consumers.domain.sending import ReceiptKind


@dataclass(frozen=True, slots=True)
class LetterBatch:
    """One batch of letters as the ledger knows it."""

    sha256: str
    """Of its manifest."""
    incident_id: str
    folder: Path
    letters: Mapping[int, tuple[str, str]]
    """Attempt id and state by number."""
    ready_count: int
    """How many wait for the post and may go."""
    kept_back: Mapping[int, str]
    """Which wait for the post and may not go now, and why: they were written before somebody decided so."""

    @property
    def name(self) -> str:
        return self.sha256[:16]

    @property
    def states(self) -> Mapping[str, int]:
        """How many of its letters stand in which state."""
        return dict(sorted(Counter(state for _, state in self.letters.values()).items()))

    @property
    def kept_back_in_words(self) -> str:
        """Say which may not go, by why."""
        by_why: dict[str, list[str]] = defaultdict(list)
        for number, why in self.kept_back.items():
            by_why[why].append(f"{number:04}")
        return "; ".join(f"{', '.join(numbers)} ({why})" for why, numbers in sorted(by_why.items()))


class LetterPost(Protocol):
    """Where batches lie and what became of their letters."""

    def batches(self, incident_id: str) -> Sequence[LetterBatch]: ...
    def check(self, batch: LetterBatch) -> None:
        """Raise Refused unless every file of the batch is what was written."""
        ...

    def report(self, batch: LetterBatch, numbers: Sequence[int], kind: ReceiptKind, at: datetime) -> int: ...


def record_posted(
    store: CaseStore, post: LetterPost, incident_id: str, name: str, actor: Actor, now: datetime, at: datetime,
    *, without: Collection[int] = (), all_went: bool = False, reason: str | None,
) -> tuple[LetterBatch, int]:  # fmt: skip
    """Put on record that a batch was handed to the post at `at`; return it and to how many letters that was new.

    `without`: letters that were taken out; they wait for the same command again. Every file is compared with its hash first.
    Raises Refused for files that are not what was written, and for letters that are kept back unless they were taken out or
    `all_went` says that they are with the post already.
    """
    role = actor.acting_for(Act.RECORD_POST)
    why = needed(reason)
    if at > now:
        raise BadInput(f"--at {written(at)}: lies ahead; record it once the letters are with the post")
    batch = _batch(post, incident_id, name)
    _known(batch, without)
    if not all_went and batch.kept_back.keys() - set(without):
        out = " ".join(f"--without {number}" for number in batch.kept_back)
        raise Refused(f"batch {batch.name}: these may not go to the post now: {batch.kept_back_in_words}; take them out and "
                      f"say {out}, or --all-went if they are with the post already; nothing was recorded")  # fmt: skip
    post.check(batch)
    numbers = sorted(batch.letters.keys() - set(without))
    body: Body = {"manifest_sha256": batch.sha256, "letter_count": len(numbers), "posted_at": written(at)}
    _record(store, incident_id, lambda case: record_act(
        case, actor, role, "letters.posted", body, at=now, incident=found(case, incident_id), reason=why
    ))  # fmt: skip
    # a crash here leaves the act without its effect: the same command again mends it, and reports nothing twice
    return batch, post.report(batch, numbers, ReceiptKind.DELIVERED, at)


def record_returned(
    store: CaseStore, post: LetterPost, incident_id: str, name: str, numbers: Sequence[int], actor: Actor, now: datetime,
    *, reason: str | None,
) -> tuple[LetterBatch, int]:  # fmt: skip
    """Put on record that letters came back; return their batch and of how many that was new."""
    role = actor.acting_for(Act.RECORD_POST)
    why = needed(reason)
    batch = _batch(post, incident_id, name)
    _known(batch, numbers)
    body: Body = {"manifest_sha256": batch.sha256, "letter_count": len(set(numbers))}
    _record(store, incident_id, lambda case: record_act(
        case, actor, role, "letters.returned", body, at=now, incident=found(case, incident_id), reason=why
    ))  # fmt: skip
    return batch, post.report(batch, sorted(set(numbers)), ReceiptKind.BOUNCED_HARD, now)


def _known(batch: LetterBatch, numbers: Collection[int]) -> None:
    unknown = sorted(set(numbers) - batch.letters.keys())
    if unknown:
        raise BadInput(f"batch {batch.name} has no letter {', '.join(map(str, unknown))}; its numbers are "
                       f"{min(batch.letters)} to {max(batch.letters)}")  # fmt: skip


def _record(store: CaseStore, incident_id: str, act: "Recording") -> None:
    def work(case: CaseWork) -> None:
        found(case, incident_id)
        act(case)

    store.change(work)


class Recording(Protocol):
    """Writes an act within a transaction."""

    def __call__(self, case: CaseWork, /) -> None: ...


def _batch(post: LetterPost, incident_id: str, name: str) -> LetterBatch:
    known = post.batches(incident_id)
    matching = [each for each in known if each.sha256.startswith(name)] if name else []
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise Refused(f"{name} names {len(matching)} batches; write more of its name")
    raise BadInput(f"{incident_id} has no letter batch {name!r}; see `tocsin delivery letters list {incident_id}`")
