"""Intake's HTTP endpoint on real sockets and threads: what each kind of sender is told, and what the store then holds."""

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from bridge.contracts.errors import Unreachable
from bridge.runtime.settings import Intake
from consumers.adapters.alert_mappings import AlertMappings
from consumers.adapters.case_store import tables
from consumers.case.alerts import Known
from consumers.case.webhooks import Secrets
from consumers.stages.intake import MAX_BODY_BYTES, HttpIntake, Reception
from tests.unit.case.cases import GIVEN, KNOWN, NOW, Case

SECRETS = Secrets((b"s" * 32,))
BODY = json.dumps({"fingerprint": "leak-1", "title": "Log exposed", "scope": GIVEN}).encode()
TEMPLATES = Path(__file__).parents[2] / "templates" / "alert-mappings"


class Names:
    def known_names(self) -> Known:
        return KNOWN


class Endpoint:
    """A running endpoint and its case store."""

    def __init__(self, case: Case, folder: Path) -> None:
        self.case = case
        self.run_file = folder / "run" / "intake.json"
        reception = Reception(case.store, AlertMappings(TEMPLATES, {"prom": "alertmanager"}), Names())
        self.http = HttpIntake(
            reception, {"monitor": SECRETS, "prom": SECRETS}, Intake(port=0), case.clock, self.run_file
        )
        self.http.start()

    def post(
        self, body: bytes = BODY, *, source: str = "monitor", headers: Mapping[str, str] | None = None, n: int = 1
    ) -> tuple[int, dict[str, Any]]:
        signed = SECRETS.sign(f"msg_{n}", NOW, body) if headers is None else headers
        connection = HTTPConnection("127.0.0.1", self.http.port, timeout=20)
        try:
            connection.request("POST", f"/alerts/{source}", body, dict(signed))
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[Endpoint]:
    case = Case(tmp_path)
    made = Endpoint(case, tmp_path)
    yield made
    made.http.stop()
    case.database.close()


def test_a_signed_alert_is_answered_with_its_incident(endpoint: Endpoint) -> None:
    assert json.loads(endpoint.run_file.read_text(encoding="utf-8")) == {"alerts": f"{endpoint.http.address}/alerts"}
    assert endpoint.post() == (202, {"incident_id": "INC-2026-0001", "incident_ids": ["INC-2026-0001"]})
    assert endpoint.post(n=2)[1]["incident_id"] == "INC-2026-0001"
    [row] = endpoint.case.rows(tables.incident)
    assert (row["repeat_count"], row["unsigned_source"]) == (1, False)


def test_a_replay_is_refused_and_says_what_it_led_to(endpoint: Endpoint) -> None:
    endpoint.post()
    status, answer = endpoint.post()
    assert (status, answer["incident_id"]) == (409, "INC-2026-0001")
    assert endpoint.post(source="prom")[0] == 202
    assert endpoint.case.rows(tables.incident)[0]["repeat_count"] == 0


def test_strangers_are_refused_and_leave_nothing(endpoint: Endpoint) -> None:
    assert endpoint.post(headers={})[0] == 401
    assert endpoint.post(headers=Secrets((b"x" * 32,)).sign("m", NOW, BODY))[0] == 401
    assert endpoint.post(source="stranger")[0] == 404
    assert endpoint.post(source="../monitor")[0] == 404
    assert endpoint.case.rows(tables.incident) == []
    assert endpoint.case.rows(tables.webhook_seen) == []


def test_an_unreadable_body_opens_an_incident(endpoint: Endpoint) -> None:
    assert endpoint.post(b"\xff\xfe<xml/>")[0] == 202
    assert endpoint.case.rows(tables.incident)[0]["title"] == "unreadable alert"


def test_alertmanagers_alerts_are_one_incident_each(endpoint: Endpoint) -> None:
    labels = {"alertname": "Leak", "model_id": "fraud-scorer", "model_version": "6,7"}
    alerts = [
        {"fingerprint": f"f{n}", "status": "firing", "labels": labels, "startsAt": "2026-03-02T02:00:00Z",
         "annotations": {"exposed_from": "2026-03-01T00:00:00Z"}}
        for n in range(3)
    ]  # fmt: skip
    status, answer = endpoint.post(json.dumps({"version": "4", "alerts": alerts}).encode(), source="prom")
    assert (status, len(answer["incident_ids"])) == (202, 3)
    for row in endpoint.case.rows(tables.incident):
        assert row["scope"]["model_versions"] == ["6", "7"]


def test_bodies_without_or_beyond_a_length_are_refused(endpoint: Endpoint) -> None:
    assert endpoint.post(b"x" * (MAX_BODY_BYTES + 1), headers={"Content-Length": str(MAX_BODY_BYTES + 1)})[0] == 413
    with socket.create_connection(("127.0.0.1", endpoint.http.port), timeout=20) as raw:
        raw.sendall(b"POST /alerts/monitor HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        assert raw.recv(100).startswith(b"HTTP/1.0 411")


def test_many_at_once_open_one_incident_and_number_without_gaps(endpoint: Endpoint) -> None:
    def send(n: int) -> int:
        body = json.dumps({"fingerprint": f"leak-{n % 4}", "scope": GIVEN}).encode()
        return endpoint.post(body, n=n)[0]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(send, range(24))) == [202] * 24
    rows = endpoint.case.rows(tables.incident)
    assert sorted(row["incident_id"] for row in rows) == [f"INC-2026-000{n}" for n in range(1, 5)]
    assert sum(row["repeat_count"] for row in rows) == 20


def test_while_the_case_store_is_away_the_sender_is_told_to_send_again(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(_work: object) -> None:
        raise Unreachable("the case store does not answer")

    with monkeypatch.context() as patched:
        patched.setattr(endpoint.case.store, "change", away)
        assert endpoint.post()[0] == 503
    assert endpoint.post()[0] == 202


def test_stopping_answers_what_is_in_flight(tmp_path: Path) -> None:
    case = Case(tmp_path)
    made = Endpoint(case, tmp_path)
    begun, go_on = threading.Event(), threading.Event()
    real = case.store.change

    def slow(work: Any) -> Any:
        begun.set()
        assert go_on.wait(60)
        return real(work)

    case.store.change = slow  # type: ignore[method-assign]  # holds the request in flight
    with ThreadPoolExecutor(2) as pool:
        answer = pool.submit(made.post)
        assert begun.wait(60)
        stopped = pool.submit(made.http.stop)
        go_on.set()
        assert answer.result(20)[0] == 202
        stopped.result(20)
    case.database.close()
