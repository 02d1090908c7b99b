"""Which texts are about to leave, and to which numbers (by their keyed hashes), on this machine's disk until the ledger has
been told: what a dispatcher that died between a provider's answer and its report cannot say any more, the next one on this
machine can. Ids and digests, no text. Not for whether a message left: receipts say that.
"""

import fcntl
import os
import re
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from consumers.domain.ledger import SentText

log = structlog.get_logger()

_LINE = re.compile(r"([0-9A-Za-z_-]{1,256}) ([0-9]{1,9}) ([0-9a-f]{64})(?: ([0-9a-f]{64}))?")


class TextsInFlight:
    """One file of this process, mode 0600 and locked while it lives, beside those of others."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self._path = folder / f"{uuid.uuid4().hex}.texts"
        # under its name it is locked from the first moment: nobody takes it for a dead one's
        unnamed = self._path.with_suffix(".new")
        self._descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        unnamed.rename(self._path)

    def leave(self, texts: Sequence[SentText]) -> None:
        """Write what is about to be handed over; in whatever thread. It outlives the process, not the machine's power.

        A full disk keeps no message from its reader: that the proof may lack its text is logged.
        """
        lines = "".join(
            f"{each.attempt_id} {each.send_count} {each.body_sha256}{f' {each.number_mark}' if each.number_mark else ''}\n"
            for each in texts
        ).encode()
        try:
            written = os.write(self._descriptor, lines)
        except OSError as error:
            log.error("texts in flight are not kept", reason=error.strerror)
            return
        if written < len(lines):
            log.error("texts in flight are not kept", reason="no space")

    def reported(self) -> None:
        """Forget all: the ledger has been told."""
        os.ftruncate(self._descriptor, 0)

    def take_over(self, tell: Callable[[Sequence[SentText]], None]) -> None:
        """Tell what dispatchers that died left behind, and remove it. A crash in between tells it again."""
        for path in sorted(self._folder.glob("*.texts")):
            if path == self._path:
                continue
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:
                continue  # another one has just told it
            with os.fdopen(descriptor, encoding="ascii", errors="replace") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    continue  # it lives
                # of the last line a part may be missing
                found = [match for line in file if (match := _LINE.fullmatch(line.removesuffix("\n")))]
                if found:
                    tell([SentText(each[1], int(each[2]), each[3], each[4]) for each in found])
                path.unlink(missing_ok=True)
