"""What leaves for each receiver, on the wire of a real HTTP server; no contact, no secret in errors."""

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from standardwebhooks import Webhook as Verifier

from bridge.contracts.errors import BadInput, Refused, Unreachable
from consumers.adapters.pager_receivers import Alertmanager, Webhook
from consumers.domain.paging import ReceiverKind, StandingPage

NOW = datetime.now(UTC).replace(microsecond=0)
SECRET = "whsec_" + "c2VjcmV0LXNlY3JldC1zZWNyZXQtMTIzNDU2"
PAGE = StandingPage(
    page_id="p1", incident_id="INC-2026-0007", kind="incident.opened", severity="critical",
    title="INC-2026-0007 suspected: kim@shop.example leaked", facts={"affected_count": 12, "unknown": ["kim@shop.example"]},
    next_command="tocsin incident ack INC-2026-0007", raised_at=NOW - timedelta(minutes=1), settled=False, exercise=False,
    deadline_at=NOW + timedelta(hours=71),
)  # fmt: skip
SETTLED = StandingPage(**{name: getattr(PAGE, name) for name in PAGE.__slots__} | {"settled": True})


class Server(HTTPServer):
    status = 200
    seen: list[tuple[str, dict[str, str], bytes]]


@pytest.fixture
def server() -> Iterator[Server]:
    class _Handler(BaseHTTPRequestHandler):
        server: Server

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.seen.append((self.path, {name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(self.server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with Server(("127.0.0.1", 0), _Handler) as listening:
        listening.seen = []
        thread = threading.Thread(target=listening.serve_forever, daemon=True)
        thread.start()
        yield listening
        listening.shutdown()
        thread.join(60)


def address(server: Server, path: str = "") -> str:
    return f"http://127.0.0.1:{server.server_address[1]}{path}"


def sent(
    server: Server, service: str, page: StandingPage, secret: str | None = "key"
) -> tuple[str, dict[str, str], Any]:
    hook = Webhook(ReceiverKind.ON_CALL, address(server, "/hook"), service, secret)
    # the verifier asks the machine's clock, and this module may have been read minutes ago
    hook.deliver(page, escalated=True, now=datetime.now(UTC))
    path, headers, body = server.seen[-1]
    assert b"kim@" not in body
    return path, headers, json.loads(body)


def test_the_generic_webhook_is_signed_so_that_another_library_accepts_it(server: Server) -> None:
    _, headers, body = sent(server, "generic", PAGE, SECRET)
    assert Verifier(SECRET).verify(server.seen[-1][2].decode(), headers) == body
    assert body["type"] == "page.raised"
    assert body["data"]["next"] == "tocsin incident ack INC-2026-0007"
    assert (body["data"]["affected_count"], body["data"]["escalated"]) == (12, True)
    assert sent(server, "generic", SETTLED, SECRET)[2]["type"] == "page.settled"
    with pytest.raises(BadInput, match="whsec_"):
        Webhook(ReceiverKind.ON_CALL, "https://x.invalid", "generic", "no secret")


def test_services_know_a_page_by_its_key_and_hear_that_it_is_over(server: Server) -> None:
    _, _, body = sent(server, "pagerduty", PAGE)
    assert (body["event_action"], body["dedup_key"], body["routing_key"]) == ("trigger", "p1", "key")
    assert (body["payload"]["severity"], body["payload"]["source"]) == ("critical", "tocsin")
    assert sent(server, "pagerduty", SETTLED)[2]["event_action"] == "resolve"

    path, headers, body = sent(server, "opsgenie", PAGE)
    assert (path, headers["authorization"], body["alias"], body["priority"]) == ("/hook", "GenieKey key", "p1", "P1")
    assert len(body["message"]) <= 130
    assert sent(server, "opsgenie", SETTLED)[0] == "/hook/p1/close?identifierType=alias"

    _, _, body = sent(server, "slack", PAGE, None)
    assert "71 h to the earliest deadline" in body["text"]
    assert "`tocsin incident ack INC-2026-0007`" in body["text"]


def test_alertmanager_keeps_it_until_it_is_settled(server: Server) -> None:
    manager = Alertmanager("alertmanager/1", address(server))
    manager.deliver(PAGE, escalated=False, now=NOW)
    path, _, body = server.seen[-1]
    (alert,) = json.loads(body)
    assert path == "/api/v2/alerts"
    assert alert["labels"]["incident"] == "INC-2026-0007"
    assert datetime.fromisoformat(alert["endsAt"]) > NOW + timedelta(hours=1)
    manager.deliver(PAGE, escalated=True, now=NOW)
    ends = {
        each["labels"]["escalated"]: datetime.fromisoformat(each["endsAt"]) > NOW
        for each in json.loads(server.seen[-1][2])
    }
    assert ends == {"true": True, "false": False}
    manager.deliver(SETTLED, escalated=False, now=NOW)
    assert all(datetime.fromisoformat(each["endsAt"]) <= NOW for each in json.loads(server.seen[-1][2]))


@pytest.mark.parametrize(("status", "error"), [(500, Unreachable), (429, Unreachable), (403, Refused), (302, Refused)])
def test_an_error_says_who_answered_what_and_no_secret(server: Server, status: int, error: type[Exception]) -> None:
    server.status = status
    hook = Webhook(ReceiverKind.ON_CALL, address(server, "/services/T0/secret"), "slack", None)
    with pytest.raises(error, match=str(status)) as raised:
        hook.deliver(PAGE, escalated=False, now=NOW)
    assert "secret" not in str(raised.value).partition(";")[0]


def test_nobody_there_is_no_reason_to_forget() -> None:
    hook = Webhook(ReceiverKind.ON_CALL, "http://127.0.0.1:1/x", "slack", None)
    with pytest.raises(Unreachable, match="does not answer"):
        hook.deliver(PAGE, escalated=False, now=NOW)
