"""Structured logs, metrics and the small HTTP server that shows metrics and health.

Each room declares its metrics with `counter`, `gauge` or `histogram` at module level: name, unit, help and the question
it answers; all label sets start at 0. Logs are JSON on stderr. Neither ever holds personal data.
"""

import json
import logging
import platform
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest
from structlog.typing import EventDict, Processor

from bridge.contracts.errors import TocsinError
from bridge.runtime.run_files import write_run_file

_PROBE_SECONDS = 2.0
_PROBED_EVERY_SECONDS = 2.0
_MOST_FRAMES = 100


class LoggedHttpServer(ThreadingHTTPServer):
    """Says in one line of the log what became of a call that broke off: the library prints a traceback, which is no JSON."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002  socketserver's signature
        error = sys.exc_info()[1]
        hung_up = isinstance(error, ConnectionError | TimeoutError)
        tell = structlog.get_logger().info if hung_up else structlog.get_logger().error
        tell("a caller hung up" if hung_up else "a call failed", error=type(error).__name__)


@dataclass(frozen=True, slots=True)
class Declaration:
    """One metric as declared."""

    name: str
    kind: str
    labels: tuple[str, ...]
    help: str
    question: str
    module: str
    """Where it is declared."""


DECLARATIONS: dict[str, Declaration] = {}
"""Every metric that an imported room declares, by name."""


def _declare(name: str, kind: str, help: str, question: str, labels: Sequence[str]) -> None:  # noqa: A002
    module = str(sys._getframe(2).f_globals["__name__"])
    DECLARATIONS[name] = Declaration(name, kind, tuple(labels), help, question, module)


def counter(name: str, help: str, *, question: str, labels: dict[str, Sequence[str]] | None = None) -> Counter:  # noqa: A002
    """Declare a counter `tocsin_<noun>_<unit>_total`; `labels` gives every value of every label."""
    _declare(name, "counter", help, question, tuple(labels or ()))
    metric = Counter(name, help, tuple(labels or ()))
    for values in product(*(labels or {}).values()) if labels else ():
        metric.labels(*values)
    return metric


def gauge(name: str, help: str, *, question: str, labels: dict[str, Sequence[str]] | None = None) -> Gauge:  # noqa: A002
    """Declare a gauge `tocsin_<noun>_<unit>`."""
    _declare(name, "gauge", help, question, tuple(labels or ()))
    metric = Gauge(name, help, tuple(labels or ()))
    for values in product(*(labels or {}).values()) if labels else ():
        metric.labels(*values)
    return metric


def histogram(
    name: str,
    help: str,  # noqa: A002
    *,
    question: str,
    buckets: Sequence[float],
    labels: dict[str, Sequence[str]] | None = None,
) -> Histogram:
    """Declare a histogram, in the unit of its name."""
    _declare(name, "histogram", help, question, tuple(labels or ()))
    metric = Histogram(name, help, tuple(labels or ()), buckets=tuple(buckets))
    for values in product(*(labels or {}).values()) if labels else ():
        metric.labels(*values)
    return metric


BUILD = gauge(
    "tocsin_build_info",
    "1, by the version of Tocsin and of Python that this process runs",
    question="do all processes run the same version?",
    labels={"version": (), "python": ()},
)


def configure_logs(process: str, *, level: str = "INFO") -> None:
    """Send every log line of this process to stderr as one JSON object, those of libraries too.

    Of an exception it says its kind and where it came from, never its words: they may hold what a library was given.
    """

    def named(_logger: Any, _method: str, event: EventDict) -> EventDict:
        # a context variable would name the first thread's lines only
        event.setdefault("process", process)
        return event

    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        named,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _without_words,
    ]
    structlog.configure(
        processors=[*shared, structlog.processors.JSONRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.JSONRenderer(),
            ],
        )
    )
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)


def _without_words(_logger: Any, _method: str, event: EventDict) -> EventDict:
    found = event.pop("exc_info", None)
    error = found[1] if isinstance(found, tuple) else sys.exception() if found is True else found
    if isinstance(error, BaseException):
        event["error"], event["where"] = type(error).__name__, frames_of(error)
    return event


def frames_of(error: BaseException) -> list[str]:
    """Return where `error` and what it came of were raised, the innermost last; no value and no message."""
    found: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(found) < _MOST_FRAMES:
        frames = traceback.extract_tb(cause.__traceback__)
        found[:0] = [
            type(cause).__name__,
            *(f"{Path(each.filename).name}:{each.lineno} {each.name}" for each in frames),
        ]
        cause = cause.__cause__ or cause.__context__
    return found


def configure_command_logs() -> None:
    """Send what rooms log while a command runs to stderr, errors only: stdout is the command's answer, maybe for a pipe."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s")


class _Probe:
    """Something that is asked whether it is there, in a thread of its own: one that hangs holds up nobody."""

    def __init__(self, ask: Callable[[], object]) -> None:
        self._ask = ask
        self._asked_at = -_PROBED_EVERY_SECONDS
        self._thread: threading.Thread | None = None
        self._reason: str | None = None

    def begin(self) -> None:
        """Ask, unless it was asked just now or has not answered yet."""
        if self._thread is not None and self._thread.is_alive():
            return
        now = time.monotonic()
        if now - self._asked_at >= _PROBED_EVERY_SECONDS:
            self._asked_at = now
            self._thread = threading.Thread(target=self._run, name="probe", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        try:
            self._ask()
        except TocsinError as error:
            self._reason = str(error).splitlines()[0]
        except Exception as error:  # whatever a client raises: the thing does not answer
            self._reason = f"it cannot be asked: {type(error).__name__}"
        else:
            self._reason = None

    def reason(self, give_up_at: float) -> str | None:
        """Return why it is not in order, or None."""
        if self._thread is not None:
            self._thread.join(max(0.0, give_up_at - time.monotonic()))
            if self._thread.is_alive():
                return f"no answer within {_PROBE_SECONDS:.0f} s"
        return self._reason


class Health:
    """Whether this process can do its job: a reason for each thing that is missing."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"start": "starting"}
        self._probes: dict[str, _Probe] = {}
        self._lock = threading.Lock()

    def ready(self, subject: str = "start") -> None:
        """`subject` is in order."""
        with self._lock:
            self._reasons.pop(subject, None)

    def missing(self, subject: str, reason: str) -> None:
        """`subject` keeps this process from doing its job; `reason` says why."""
        with self._lock:
            self._reasons[subject] = reason

    def watch(self, subject: str, ask: Callable[[], object]) -> None:
        """Ask whenever somebody wants to know: `ask` raises while `subject` is not in order. An idle process would not
        notice that what it works with is gone.
        """
        with self._lock:
            self._probes[subject] = _Probe(ask)

    def reasons(self) -> dict[str, str]:
        """Return what is missing; empty when ready. Takes at most two seconds, whatever hangs."""
        with self._lock:
            found, probes = dict(self._reasons), dict(self._probes)
            if "start" not in found:
                for probe in probes.values():
                    probe.begin()
        give_up_at = time.monotonic() + _PROBE_SECONDS
        for subject, probe in probes.items():
            reason = probe.reason(give_up_at)
            if reason is not None:
                # what the process has met itself says more
                found.setdefault(subject, reason)
        return found


class TelemetryServer:
    """Serves `/metrics`, `/healthz` and `/readyz` of one process on a thread of its own."""

    def __init__(self, host: str, port: int, health: Health, *, run_file: Path | None = None) -> None:
        registry_health = health
        BUILD.labels(version("tocsin"), platform.python_version()).set(1)

        class _Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = self.path.partition("?")[0]
                if path == "/metrics":
                    self._answer(200, generate_latest(REGISTRY), CONTENT_TYPE_LATEST)
                elif path == "/healthz":
                    self._answer(200, b'{"status": "alive"}', "application/json")
                elif path == "/readyz":
                    reasons = registry_health.reasons()
                    body = json.dumps({"ready": not reasons, "missing": reasons}).encode()
                    self._answer(503 if reasons else 200, body, "application/json")
                else:
                    self._answer(404, b"not found: /metrics, /healthz, /readyz\n", "text/plain")

            def _answer(self, status: int, body: bytes, content_type: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Say nothing: a scrape every few seconds is no news."""

        self._server = LoggedHttpServer((host, port), _Handler)
        self.port: int = self._server.server_address[1]
        # Looks that often whether it is to end: by default every half second, which each stage's end waited for.
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, name="telemetry", daemon=True
        )
        if run_file is not None:
            write_run_file(run_file, {"metrics": f"http://{host}:{self.port}/metrics"})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
