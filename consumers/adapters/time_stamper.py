"""Has an RFC 3161 time stamp authority stamp the log's checkpoint now and then, beside the writer and never in its way.

It reads the published checkpoint, asks, and puts the answer into the log's folder. An authority that is down, or answers
what is no stamp of it, is counted and asked again; the log goes on meanwhile.
"""

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import structlog
import urllib3
from cryptography.x509 import Certificate

from bridge.contracts.errors import TocsinError, Unreachable
from bridge.runtime.telemetry import counter, gauge
from consumers.adapters.tile_store import Disk
from consumers.evidence.checkpoint import Checkpoint
from consumers.evidence.note import Note
from consumers.evidence.reader import CHECKPOINT, LogFolder
from consumers.evidence.timestamps import FOLDER, check_stamp, paths_of, request_for, stamped_sizes

log = structlog.get_logger()

STAMPS = counter(
    "tocsin_evidence_time_stamps_total",
    "time stamps asked for, by result",
    labels={"result": ["stamped", "failed"]},
    question="does the time stamp authority answer?",
)
STAMPED = gauge(
    "tocsin_evidence_time_stamped_size",
    "entries under the newest time stamp",
    question="how much of the evidence log has nobody outside the house seen yet?",
)
OVERDUE = gauge(
    "tocsin_evidence_time_stamp_overdue_seconds",
    "for how long the time stamp authority has been asked in vain, at the last try; 0 while it stamps",
    question="has the time stamp authority been away for long?",
)

_TIMEOUT_SECONDS = 20
_MOST_ANSWER_BYTES = 256 * 1024
_FIRST_WAIT_SECONDS, _LONGEST_WAIT_SECONDS = 5.0, 600.0
"""Between tries while the authority fails: doubled each time."""


def asked_over_http(url: str) -> Callable[[bytes], bytes]:
    """Return what posts a request to the authority at `url` (RFC 3161, section 3.4). It raises Unreachable."""
    pool = urllib3.PoolManager(timeout=_TIMEOUT_SECONDS, retries=False)

    def ask(request: bytes) -> bytes:
        try:
            answer = pool.request(
                "POST",
                url,
                body=request,
                headers={"Content-Type": "application/timestamp-query"},
                preload_content=False,
            )
            try:
                body = answer.read(_MOST_ANSWER_BYTES)
            finally:
                answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise Unreachable(f"the time stamp authority cannot be reached: {type(error).__name__}") from error
        if answer.status != 200:
            raise Unreachable(f"the time stamp authority answers with status {answer.status}")
        return body

    return ask


class TimeStamper:
    """Stamps the log in `folder` at most every `every_seconds`, whenever it has grown since.

    With `roots`, an answer that is not signed under them is not kept.
    """

    def __init__(
        self, folder: Path, ask: Callable[[bytes], bytes], *, every_seconds: float, roots: Sequence[Certificate] = ()
    ) -> None:
        self._files = LogFolder(folder)
        self._folder = folder
        self._ask = ask
        self._every = every_seconds
        self._roots = roots
        self._disk = Disk()
        self._wait = _FIRST_WAIT_SECONDS

    def run(self, stop: threading.Event) -> None:
        """Stamp until `stop`. Raises nothing: what fails is counted, logged and tried again."""
        wait = 0.0
        failing_since: float | None = None
        while not stop.wait(wait):
            began = time.monotonic()
            try:
                self.stamp_if_grown()
            except Exception as error:  # nothing that happens here may end the writer beside it
                STAMPS.labels("failed").inc()
                failing_since = began if failing_since is None else failing_since
                OVERDUE.set(time.monotonic() - failing_since)
                told = str(error) if isinstance(error, TocsinError) else type(error).__name__
                log.warning("no time stamp; the log goes on, and the authority is asked again", reason=told)
                wait, self._wait = self._wait, min(2 * self._wait, _LONGEST_WAIT_SECONDS)
            else:
                failing_since = None
                OVERDUE.set(0)
                wait, self._wait = self._every, _FIRST_WAIT_SECONDS

    def stamp_if_grown(self) -> bool:
        """Have the present checkpoint stamped unless it was; say whether it was stamped now.

        Raises Unreachable, Malformed or NotProved; nothing is kept of such an answer.
        """
        signed = self._files.read(CHECKPOINT)
        size = 0 if signed is None else Checkpoint.parse_text(Note.parse(signed).text).size
        if signed is None or size == 0 or size in stamped_sizes(self._files):
            return False
        request = request_for(signed)
        answer = self._ask(request.as_bytes())
        check_stamp(answer, signed, self._roots, request=request)
        checkpoint_path, answer_path = paths_of(size)
        folder = self._folder / FOLDER
        if not folder.is_dir():
            self._disk.make_folder(folder)
            self._disk.sync([self._folder])
        # A crash in between leaves a checkpoint without an answer, which is no time stamp; the next try writes both.
        self._put(self._folder / checkpoint_path, signed)
        self._put(self._folder / answer_path, answer)
        STAMPS.labels("stamped").inc()
        STAMPED.set(size)
        return True

    def _put(self, target: Path, content: bytes) -> None:
        aside = target.with_name(f".{target.name}.writing")
        self._disk.write(aside, content)
        self._disk.sync([aside])
        self._disk.replace(aside, target)
        self._disk.sync([target.parent])


class Stage(Protocol):
    """What runs until it is told to stop."""

    def run(self, stop: threading.Event) -> None: ...


class Stamped:
    """A stage with a time stamper beside it, in a thread of its own that ends with the stage."""

    def __init__(self, stage: Stage, stamper: TimeStamper) -> None:
        self._stage = stage
        self._stamper = stamper

    def run(self, stop: threading.Event) -> None:
        """Run the stage; raise what it raises."""
        ended = threading.Event()
        thread = threading.Thread(target=self._stamper.run, args=(ended,), name="evidence-time-stamps", daemon=True)
        thread.start()
        try:
            self._stage.run(stop)
        finally:
            ended.set()
            thread.join(_TIMEOUT_SECONDS + 5)
