"""Telemetry: health with reasons, the small server, declarations, and logs as one JSON object a line."""

import json
import logging
import re
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
import structlog

import consumers.stages.clock
import consumers.stages.dispatch
import consumers.stages.outbox
import consumers.stages.receipts
import consumers.stages.release  # noqa: F401  declares metrics
from bridge.contracts.errors import Unreachable
from bridge.runtime.telemetry import DECLARATIONS, Health, LoggedHttpServer, TelemetryServer, configure_logs


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Health, str]]:
    health = Health()
    server = TelemetryServer("127.0.0.1", 0, health, run_file=tmp_path / "run" / "stage.metrics.json")
    server.start()
    address = json.loads((tmp_path / "run" / "stage.metrics.json").read_text(encoding="utf-8"))["metrics"]
    yield health, address.removesuffix("/metrics")
    server.stop()


def get(address: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(address, timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def test_a_process_is_ready_when_nothing_is_missing(served: tuple[Health, str]) -> None:
    health, address = served
    assert get(f"{address}/readyz") == (503, '{"ready": false, "missing": {"start": "starting"}}')
    health.ready()
    assert get(f"{address}/readyz")[0] == 200
    health.missing("kafka", "no broker answers")
    health.missing("case store", "gone")
    health.ready("case store")
    assert json.loads(get(f"{address}/readyz")[1]) == {"ready": False, "missing": {"kafka": "no broker answers"}}
    assert get(f"{address}/healthz")[0] == 200, "alive all the same"


def test_metrics_are_served_and_start_at_zero(served: tuple[Health, str]) -> None:
    status, text = get(f"{served[1]}/metrics?x=1")
    assert status == 200
    assert re.search(r'^tocsin_deliveries_total{channel="letter",state="lost"} 0.0$', text, re.MULTILINE)


def test_another_path_names_those_that_exist(served: tuple[Health, str]) -> None:
    status, text = get(f"{served[1]}/")
    assert (status, text) == (404, "not found: /metrics, /healthz, /readyz\n")


def test_every_metric_has_its_name_help_and_question() -> None:
    assert len(DECLARATIONS) >= 12
    for name, declared in DECLARATIONS.items():
        assert re.fullmatch(r"tocsin(_[a-z]+)+", name)
        assert name.endswith("_total") == (declared.kind == "counter")
        assert declared.help
        assert declared.question.endswith("?")


@pytest.fixture
def own_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.usefixtures("own_logging")
def test_a_log_line_is_one_json_object_on_stderr_that_never_repeats_an_exceptions_words(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs("index")
    log = structlog.get_logger()
    log.debug("not shown")
    for logger in (log, logging.getLogger("some library")):
        try:
            raise ZeroDivisionError("anna@mail.example by zero")
        except ZeroDivisionError:
            logger.exception("stage ends")
    other = threading.Thread(target=lambda: log.warning("from a thread", incident="INC-2026-0001", lines="a\nb"))
    other.start()
    other.join()
    out, err = capsys.readouterr()
    first, library, threaded = map(json.loads, err.splitlines())
    assert out == ""
    assert "anna" not in err
    for said in (first, library):
        assert (said["event"], said["process"], said["level"]) == ("stage ends", "index", "error")
        assert said["error"] == said["where"][0] == "ZeroDivisionError"
        assert said["where"][1].startswith("test_telemetry.py:")
        assert said["timestamp"].endswith("Z")
    assert library["logger"] == "some library"
    assert (threaded["process"], threaded["incident"], threaded["lines"]) == ("index", "INC-2026-0001", "a\nb")


def test_a_process_asks_for_what_it_works_with_and_never_repeats_what_a_client_says(served: tuple[Health, str]) -> None:
    health, address = served
    hangs, asked = threading.Event(), list[str]()

    def gone() -> None:
        raise Unreachable("the case store does not answer; check case_store.url")

    def odd() -> None:
        raise OSError("password hunter2")

    def well() -> None:
        asked.append("kafka")

    health.watch("kafka", well)
    assert json.loads(get(f"{address}/readyz")[1])["missing"] == {"start": "starting"}
    assert asked == [], "what is not there yet is not asked for"
    health.ready()
    health.watch("case store", gone)
    health.watch("evidence folder", odd)
    health.watch("store", hangs.wait)
    assert json.loads(get(f"{address}/readyz")[1])["missing"] == {
        "case store": "the case store does not answer; check case_store.url",
        "evidence folder": "it cannot be asked: OSError",
        "store": "no answer within 2 s",
    }
    assert asked == ["kafka"]
    hangs.set()
    health.missing("case store", "seen by the stage itself")
    assert health.reasons()["case store"] == "seen by the stage itself"


@pytest.mark.parametrize(
    ("fails_with", "said"), [(ConnectionResetError, "a caller hung up"), (KeyError, "a call failed")]
)
def test_a_call_that_breaks_off_is_one_line_of_the_log_and_no_traceback(
    fails_with: type[Exception], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Failing(BaseHTTPRequestHandler):
        def handle(self) -> None:
            raise fails_with("ann@x.example.com")

    server = LoggedHttpServer(("127.0.0.1", 0), Failing)
    serving = threading.Thread(target=server.handle_request)
    serving.start()
    socket.create_connection(server.server_address[:2]).close()  # type: ignore[arg-type]
    serving.join(10)
    server.server_close()
    told, until = "", time.monotonic() + 10
    while fails_with.__name__ not in told and time.monotonic() < until:
        told += "".join(capsys.readouterr())
    assert said in told
    assert "Traceback" not in told
    assert "ann@" not in told
