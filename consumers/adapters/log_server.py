"""Serves the evidence log for reading over HTTP, in the paths of c2sp.org/tlog-tiles. GET and HEAD only:

    /checkpoint                        the signed checkpoint, for everybody
    /tile/<L>/<N>[.p/<W>]              hashes       for who has the role that may (`evidence.read_log`), by
    /tile/entries/<N>[.p/<W>]          entries      `Authorization: Bearer <token>`; for all with `evidence.public_tiles`

    401  no token, or nobody's             403  a token of somebody who may not
    404  no such path, or nothing that the signed checkpoint covers
    500  the file is not what the checkpoint says: damaged
    503  the checkpoint, the people file or the case store cannot be used at the moment

Whether a tile exists is told only to who may read it. A path has one spelling; links are not followed. Reading is written
down as one case event for each person and hour, before the first byte: a client needs thousands of tiles for one look.
"""

import errno
import gzip
import hashlib
import os
import stat
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Protocol

import structlog

from bridge.contracts.errors import BadInput, Refused, Unreachable
from bridge.runtime.clock import Clock
from bridge.runtime.draining import DrainingServer
from bridge.runtime.run_files import write_run_file
from bridge.runtime.telemetry import Health, counter
from consumers.case.acting import actor_of, record_act
from consumers.case.people import People, Person, load_people
from consumers.case.permissions import Act
from consumers.case.store import CaseStore
from consumers.evidence.checkpoint import Checkpoint, open_checkpoint
from consumers.evidence.faults import Malformed, NotProved
from consumers.evidence.merkle import HASH_BYTES
from consumers.evidence.note import VerifierKey
from consumers.evidence.reader import CHECKPOINT
from consumers.evidence.tiles import (
    ENTRIES,
    MAX_ENTRY_BYTES,
    WIDTH,
    TileName,
    bundle_prefix,
    decode_bundle,
    decode_tile,
    parse_path,
    width_in,
)

log = structlog.get_logger()

READS = counter(
    "tocsin_evidence_reads_total",
    "requests to read the evidence log, by what became of them",
    question="who reads the log, and does anybody try who may not?",
    labels={"outcome": ["served", "not_found", "stranger", "forbidden", "damaged", "unavailable"]},
)

_MOST_BYTES = WIDTH * (2 + MAX_ENTRY_BYTES)
_MOST_TOKENS = 256
_TOKEN_BYTES = 256
_CHECK_WAIT_SECONDS = 5.0
_PLAIN = "text/plain; charset=utf-8"
_OCTETS = "application/octet-stream"


class Stranger(Exception):
    """No token, or nobody's."""


class Readers:
    """Who may read tiles and entries. `people` is read again whenever it changes: who is taken out of it stays out.

    `store` is asked for at the first look only: the log is written, and its checkpoint served, without a case store.
    """

    def __init__(
        self, people: Path, staff_key: Callable[[], bytes], store: Callable[[], CaseStore], clock: Clock
    ) -> None:
        self._path = people
        self._staff_key = staff_key
        self._store = store
        self._clock = clock
        self._checking = threading.Lock()
        self._state = threading.Lock()
        self._recording = threading.Lock()
        self._read_at: tuple[int, int, int] | None = None
        self._people = People({})
        self._known: dict[bytes, Person] = {}
        self._recorded: set[tuple[str, datetime]] = set()

    def admit(self, token: str, log_size: int) -> None:
        """Return if the token's person may read; that they do is written down then, once an hour.

        Raises Stranger, Refused for a person who may not, and Unreachable or BadInput where that cannot be told or written.
        """
        person = self._person(token)
        role = person.acting_for(Act.READ_LOG)
        now = self._clock.now()
        look = (person.person_id, now.replace(minute=0, second=0, microsecond=0))
        with self._recording:
            if look in self._recorded:
                return
            actor = actor_of(person, self._staff_key())
            # Written before anything is read. A crash after it, or a restart, has the same hour written twice.
            self._store().change(
                lambda case: record_act(case, actor, role, "evidence.log_read", {"log_size": log_size}, at=now)
            )
            self._recorded = {each for each in self._recorded if each[1] == look[1]} | {look}

    def _person(self, token: str) -> Person:
        """Return whose token this is. Argon2 takes its time by design: a token once found good is known by its hash, and
        others are checked one at a time, so that strangers who try cost no more than one core."""
        if not token or len(token) > _TOKEN_BYTES:
            raise Stranger
        mark = hashlib.sha256(token.encode()).digest()
        with self._state:
            self._refresh()
            people, person = self._people, self._known.get(mark)
        if person is not None:
            return person
        if not self._checking.acquire(timeout=_CHECK_WAIT_SECONDS):
            raise Unreachable("too many tokens are being checked at the moment")
        try:
            person = people.authenticate(token)
        except Refused:
            raise Stranger from None
        finally:
            self._checking.release()
        with self._state:
            if people is self._people:
                if len(self._known) >= _MOST_TOKENS:
                    self._known.clear()
                self._known[mark] = person
        return person

    def _refresh(self) -> None:
        try:
            found = self._path.stat()
        except OSError as error:
            raise BadInput(f"{self._path} cannot be read ({type(error).__name__})") from None
        version = (found.st_mtime_ns, found.st_size, found.st_ino)
        if version != self._read_at:
            self._known.clear()
            self._read_at = None
            self._people = load_people(self._path)
            self._read_at = version


class _Admission(Protocol):
    def admit(self, token: str, log_size: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Answer:
    """What is sent back."""

    status: int
    body: bytes = field(repr=False)
    outcome: str
    headers: Mapping[str, str]


def _refusal(status: int, outcome: str, text: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, f"{text}\n".encode(), outcome, {"Content-Type": _PLAIN, "Cache-Control": "no-store", **named})


_NOT_FOUND = _refusal(404, "not_found", "not found: /checkpoint, /tile/<L>/<N>[.p/<W>], /tile/entries/<N>[.p/<W>]")
_STRANGER = _refusal(
    401,
    "stranger",
    "tiles and entries take an auditor's token: Authorization: Bearer <token>",
    WWW_Authenticate='Bearer realm="evidence log"',
)
_FORBIDDEN = _refusal(403, "forbidden", "tiles and entries take the role auditor")
_DAMAGED = _refusal(500, "damaged", "this file of the log is damaged; its operator has been told in the stage's log")
_UNAVAILABLE = _refusal(503, "unavailable", "not possible at the moment; ask again", Retry_After="5")


class PublishedLog:
    """What the log in `folder` gives to whom. Pure of HTTP; each call reads the files as they are now.

    With `readers` None, everybody may read tiles and entries.
    """

    def __init__(self, folder: Path, keys: Sequence[VerifierKey], readers: _Admission | None) -> None:
        self._folder = folder
        self._keys = tuple(keys)
        self._readers = readers
        self._head: tuple[bytes, Checkpoint] | None = None

    def answer(self, target: str, authorization: str = "", accept_encoding: str = "") -> Answer:
        """Answer a request for `target`, as it stood in the request line."""
        name: TileName | None = None
        if target != f"/{CHECKPOINT}":
            try:
                name = parse_path(target.removeprefix("/")) if target.startswith("/") else None
            except Malformed:
                name = None
            if name is None:
                return _NOT_FOUND
        try:
            return self._checkpoint() if name is None else self._tile(name, authorization, accept_encoding)
        except Stranger:
            return _STRANGER
        except Refused:
            return _FORBIDDEN
        except (BadInput, Unreachable, OSError) as fault:
            told = type(fault).__name__ if isinstance(fault, OSError) else str(fault)
            log.error("the evidence log cannot be read by others at the moment", reason=told)
            return _UNAVAILABLE

    def _checkpoint(self) -> Answer:
        signed = self._signed()
        if signed is None:
            return _NOT_FOUND
        return Answer(
            200, signed[0], "served",
            {"Content-Type": _PLAIN, "Cache-Control": "no-cache", "Access-Control-Allow-Origin": "*"},
        )  # fmt: skip

    def _tile(self, name: TileName, authorization: str, accept_encoding: str) -> Answer:
        signed = self._signed()
        size = 0 if signed is None else signed[1].size
        if self._readers is not None:
            scheme, _, token = authorization.partition(" ")
            self._readers.admit(token.strip() if scheme.lower() == "bearer" else "", size)
        if name.width > width_in(size, name.level, name.index):
            return _NOT_FOUND
        content = self._bytes_of(name)
        if content is None:
            return _NOT_FOUND
        try:
            if name.level == ENTRIES:
                decode_bundle(content, name)
            else:
                decode_tile(content, name)
        except Malformed as fault:
            log.error("a file of the evidence log is damaged", reason=str(fault))
            return _DAMAGED
        return self._found(name, content, accept_encoding)

    def _found(self, name: TileName, content: bytes, accept_encoding: str) -> Answer:
        whose = "public" if self._readers is None else "private"
        headers = {"Content-Type": _OCTETS, "Cache-Control": f"{whose}, max-age=31536000, immutable"}
        vary = [] if self._readers is None else ["Authorization"]
        if name.level == ENTRIES:
            vary.append("Accept-Encoding")
            if _takes_gzip(accept_encoding):
                content = gzip.compress(content, 1, mtime=0)
                headers["Content-Encoding"] = "gzip"
        if vary:
            headers["Vary"] = ", ".join(vary)
        return Answer(200, content, "served", headers)

    def _bytes_of(self, name: TileName) -> bytes | None:
        """Return the file's bytes; of a partial that its full tile has replaced, the beginning of that one."""
        content = read_plain(self._folder, name.path, _MOST_BYTES)
        if content is not None or name.full:
            return content
        whole = read_plain(self._folder, name.completed.path, _MOST_BYTES)
        if whole is None:
            return None
        return bundle_prefix(whole, name.width) if name.level == ENTRIES else whole[: name.width * HASH_BYTES]

    def _signed(self) -> tuple[bytes, Checkpoint] | None:
        """Return the published checkpoint, its signature verified; None before there is one."""
        signed = read_plain(self._folder, CHECKPOINT, _MOST_BYTES)
        if signed is None:
            return None
        head = self._head
        if head is None or head[0] != signed:
            try:
                head = self._head = signed, open_checkpoint(signed, self._keys)
            except (Malformed, NotProved) as fault:
                raise Unreachable(f"the checkpoint is not one of this log's key: {fault}") from None
        return head


def _takes_gzip(accept_encoding: str) -> bool:
    for part in accept_encoding.lower().split(","):
        coding, _, weight = part.replace(" ", "").partition(";")
        if coding == "gzip":
            return weight.rstrip("0") not in ("q=", "q=.", "q=0.")
    return False


def read_plain(folder: Path, path: str, most: int) -> bytes | None:
    """Return the bytes of a file below `folder`, at most `most` and one; None if there is none, or only a link or no file.

    No link is followed below `folder`, which may be one itself.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    *between, last = path.split("/")
    held: list[int] = []
    try:
        held.append(os.open(folder, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY))
        for part in between:
            held.append(os.open(part, flags | os.O_DIRECTORY, dir_fd=held[-1]))
        # non-blocking: a named pipe would wait for its writer
        held.append(os.open(last, flags | os.O_NONBLOCK, dir_fd=held[-1]))
        if not stat.S_ISREG(os.fstat(held[-1]).st_mode):
            return None
        with open(held[-1], "rb", closefd=False) as file:
            return file.read(most + 1)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
            return None
        raise
    finally:
        for descriptor in held:
            os.close(descriptor)


class LogServer:
    """The HTTP endpoint, a thread a request. Its address goes to `run_file`."""

    def __init__(self, published: PublishedLog, host: str, port: int, *, run_file: Path | None = None) -> None:
        """Raises OSError where it cannot listen."""
        self._server = DrainingServer((host, port), _handler_of(published))
        self.port: int = self._server.server_address[1]
        self.address = f"http://{host}:{self.port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="evidence-http", daemon=True
        )
        if run_file is not None:
            write_run_file(run_file, {"log": self.address})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Take no more requests; return when those in flight are answered."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)


def _handler_of(published: PublishedLog) -> type[BaseHTTPRequestHandler]:
    class _Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "tocsin"
        sys_version = ""

        def do_GET(self) -> None:
            # As it was sent: the server's own `path` has some spellings mended already.
            _, target, *_ = self.requestline.split()
            try:
                answer = published.answer(
                    target, self.headers.get("Authorization", ""), self.headers.get("Accept-Encoding", "")
                )
            except Exception:
                log.exception("a request to read the evidence log failed")
                answer = _UNAVAILABLE
            READS.labels(answer.outcome).inc()
            self.close_connection = True
            self.send_response(answer.status)
            for name, value in answer.headers.items():
                self.send_header(name, value)
            self.send_header("X-Content-Type-Options", "nosniff")
            self.send_header("Content-Length", str(len(answer.body)))
            self.send_header("Connection", "close")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(answer.body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing: who read is a case event, and a path is asked for thousands of times."""

    return _Handler


class Stage(Protocol):
    """What runs until it is told to stop."""

    def run(self, stop: threading.Event) -> None: ...


class Served:
    """A stage beside which the log is served. Where nobody can listen the stage runs all the same, and is not ready."""

    def __init__(self, stage: Stage, open_server: Callable[[], LogServer], health: Health) -> None:
        self._stage = stage
        self._open_server = open_server
        self._health = health

    def run(self, stop: threading.Event) -> None:
        """Run the stage; raise what it raises."""
        try:
            server = self._open_server()
        except (OSError, OverflowError) as error:
            reason = f"evidence.host and evidence.port: cannot listen there ({type(error).__name__}: {error})"
            self._health.missing("log server", reason)
            log.error("the evidence log is written, and served to nobody", reason=reason)
            self._stage.run(stop)
            return
        server.start()
        log.info("the evidence log is served", address=server.address)
        try:
            self._stage.run(stop)
        finally:
            server.stop()
