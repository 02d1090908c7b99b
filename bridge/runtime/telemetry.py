"""Structured logs, metrics and the small HTTP server that shows metrics and health.

Each room declares its metrics with `counter`, `gauge` or `histogram` at module level: name, unit, help and the question
it answers; all label sets start at 0. Logs are JSON on stderr. Neither ever holds personal data.
"""

import json
import logging
import platform
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from itertools import product
from pathlib import Path

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, Histogram, generate_latest

from bridge.runtime.run_files import write_run_file


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
    """Send every log line of this process to stderr as one JSON object."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(process=process)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(name)s: %(message)s", force=True)


def configure_command_logs() -> None:
    """Send what rooms log while a command runs to stderr, errors only: stdout is the command's answer, maybe for a pipe."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr, format="%(name)s: %(message)s")


class Health:
    """Whether this process can do its job: a reason for each thing that is missing."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {"start": "starting"}
        self._lock = threading.Lock()

    def ready(self, subject: str = "start") -> None:
        """`subject` is in order."""
        with self._lock:
            self._reasons.pop(subject, None)

    def missing(self, subject: str, reason: str) -> None:
        """`subject` keeps this process from doing its job; `reason` says why."""
        with self._lock:
            self._reasons[subject] = reason

    def reasons(self) -> dict[str, str]:
        """Return what is missing; empty when ready."""
        with self._lock:
            return dict(self._reasons)


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

        self._server = ThreadingHTTPServer((host, port), _Handler)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="telemetry", daemon=True)
        if run_file is not None:
            write_run_file(run_file, {"metrics": f"http://{host}:{self.port}/metrics"})

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
