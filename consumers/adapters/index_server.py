"""The owner's read API: JSON over HTTP on loopback, for the scatter-gather client. Questions only, and no contact.

Each worker writes its address and its partitions to one file under `data/run`; a file whose worker died answers nobody.
"""

import json
import os
import threading
from collections.abc import Callable, Sequence
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import structlog
from pydantic import ValidationError

from bridge.contracts.envelope import fields_at_fault
from bridge.contracts.errors import TocsinError
from bridge.contracts.queries import (
    Answer,
    KeysAsked,
    MatchAsked,
    MembersAsked,
    PreviewAsked,
    RangesAsked,
    TimesAsked,
    WorkerAnswer,
)
from bridge.runtime.run_files import write_run_file
from bridge.runtime.telemetry import LoggedHttpServer
from consumers.adapters import index_comparison
from consumers.adapters.index_reader import PartitionReader
from consumers.adapters.provenance_index import ProvenanceIndex

log = structlog.get_logger()

_MAX_BODY_BYTES = 16 * 1024 * 1024

Question = Callable[[PartitionReader], Answer]


class IndexServer:
    """Answers what `bridge.contracts.queries` asks for every partition that `index` has open."""

    def __init__(self, host: str, run_directory: Path, index: ProvenanceIndex) -> None:
        self._host = host
        self._run_file = run_directory / f"index-{os.getpid()}.json"
        self._index = index
        self._server: LoggedHttpServer | None = None
        self._thread: threading.Thread | None = None
        self._partition_count = 0

    def start(self, partition_count: int) -> None:
        """Listen on a free port; `announce` makes it known."""
        owner = self
        self._partition_count = partition_count

        class _Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                url = urlsplit(self.path)
                questions: dict[str, Question] = {
                    "/status": PartitionReader.status,
                    "/names": PartitionReader.names,
                    "/data-map": PartitionReader.data_map,
                    "/reach": PartitionReader.reach,
                    "/faults": index_comparison.faults,
                    "/seals": index_comparison.seals,
                }
                if url.path == "/inspect":
                    root = parse_qs(url.query).get("root", [""])[0]
                    self._answer(lambda reader: reader.inspect(root))
                elif url.path in questions:
                    self._answer(questions[url.path])
                else:
                    self._say(404, {"error": f"no such question: /inspect, {', '.join(questions)}"})

            def do_POST(self) -> None:
                path = urlsplit(self.path).path
                if path not in ("/preview", "/members", "/times", "/match", "/ranges", "/keys"):
                    self._say(
                        404, {"error": "no such question: POST /preview, /members, /times, /match, /ranges, /keys"}
                    )
                    return
                length = int(self.headers.get("Content-Length") or 0)
                if length > _MAX_BODY_BYTES:
                    self._say(413, {"error": f"a question of more than {_MAX_BODY_BYTES} bytes"})
                    return
                body = self.rfile.read(length)
                try:
                    if path == "/ranges":
                        ranges = RangesAsked.model_validate_json(body)
                        self._answer(lambda reader: index_comparison.ranges(reader, ranges))
                    elif path == "/match":
                        leaked = MatchAsked.model_validate_json(body)
                        self._answer(lambda reader: reader.match(leaked.email_hmacs, leaked.roots))
                    elif path == "/members":
                        members = MembersAsked.model_validate_json(body)
                        self._answer(lambda reader: reader.members_now(members))
                    elif path == "/times":
                        roots = TimesAsked.model_validate_json(body).roots
                        self._answer(lambda reader: reader.times(roots))
                    elif path == "/keys":
                        keys = KeysAsked.model_validate_json(body)
                        self._answer(lambda reader: index_comparison.keys(reader, keys))
                    else:
                        scope = PreviewAsked.model_validate_json(body).scope
                        self._answer(lambda reader: reader.preview(scope))
                except ValidationError as error:
                    self._say(400, {"error": f"not a question of {path}: {fields_at_fault(error)}"})

            def _answer(self, question: Question) -> None:
                try:
                    answers = owner.ask(question)
                except TocsinError as error:
                    self._say(500, {"error": str(error)})
                    return
                except Exception as error:
                    log.exception("a question could not be answered", path=urlsplit(self.path).path)
                    self._say(500, {"error": f"{type(error).__name__}; see the worker's log"})
                    return
                self._send(200, answers.model_dump_json().encode())

            def _say(self, status: int, body: dict[str, str]) -> None:
                self._send(status, json.dumps(body).encode())

            def _send(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing: paths name customers."""

        self._server = LoggedHttpServer((self._host, 0), _Handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="index-api", daemon=True
        )
        self._thread.start()

    def ask(self, question: Question) -> WorkerAnswer:
        """Put `question` to every partition that is open here."""
        with self._index.reading() as readers:
            return WorkerAnswer(
                partition_count=self._partition_count,
                answers=tuple(question(reader).model_dump(mode="json") for reader in readers),
            )

    def announce(self, partitions: Sequence[int]) -> None:
        """Write address and owned partitions where the client looks."""
        if self._server is None:
            return
        host, port = self._server.server_address[:2]
        write_run_file(
            self._run_file,
            {
                "address": f"http://{host!s}:{port}",
                "partitions": list(partitions),
                "partition_count": self._partition_count,
                "pid": os.getpid(),
            },
        )

    def stop(self) -> None:
        """Stop listening and withdraw the address."""
        self._run_file.unlink(missing_ok=True)
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None
