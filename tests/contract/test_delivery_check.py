"""`tocsin delivery check` against the AWS sandbox: each link of the way of receipts is taken out, and named."""

import functools
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bridge.contracts.events import Channel, DeadLettered
from bridge.runtime.clock import Clock, SetClock
from bridge.runtime.parts import Parts
from bridge.runtime.telemetry import Health
from consumers.adapters import receipt_surroundings, ses_identities, sqs_receipts
from consumers.adapters.aws import SES_EVENT_TYPES, client
from consumers.adapters.canary_lanes import by_email
from consumers.adapters.case_store.canary_messages import CanaryTables
from consumers.adapters.case_store.engine import CaseDatabase
from consumers.adapters.receipt_surroundings import AwsSurroundings
from consumers.adapters.ses import SesEmail
from consumers.adapters.ses_identities import SesIdentities
from consumers.case import check_commands
from consumers.case.checking import EXPECTED, Checked, CheckMeans, check_delivery
from consumers.domain.canary_messages import CanaryRoute
from consumers.domain.simulators import MailboxScenario, simulated_email
from consumers.stages.receipts import Receipts
from tests.contract.aws_sandbox import CONFIGURATION_SET, QUEUE, SENDER, Aws, running
from tests.unit.adapters.ledger_case import Case

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def aws() -> Iterator[Aws]:
    with running() as started, pytest.MonkeyPatch.context() as patched:
        once = functools.lru_cache(None)(client)  # to make a client costs more than all else here
        for module in (receipt_surroundings, ses_identities, sqs_receipts):
            patched.setattr(module, "client", once)
        ses = client(started.config, "sesv2", may_repeat=True)
        sns = client(started.config, "sns", may_repeat=True)
        lonely = sns.create_topic(Name="lonely")["TopicArn"]
        heard = sns.create_topic(Name=f"{CONFIGURATION_SET}-ses-events")["TopicArn"]
        for name, topic, kinds in (
            ("bare", None, ()),
            ("lonely", lonely, SES_EVENT_TYPES),
            ("deaf", heard, [kind for kind in SES_EVENT_TYPES if kind != "COMPLAINT"]),
        ):
            ses.create_configuration_set(ConfigurationSetName=name)
            if topic is not None:
                ses.create_configuration_set_event_destination(
                    ConfigurationSetName=name, EventDestinationName="x",
                    EventDestination={
                        "Enabled": True, "MatchingEventTypes": list(kinds), "SnsDestination": {"TopicArn": topic},
                    },
                )  # fmt: skip
        yield started


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(CaseDatabase(f"sqlite:///{tmp_path_factory.mktemp('check') / 'case.db'}"))


_email = functools.lru_cache(None)(SesEmail)


@dataclass
class Shop:
    """One installation: settings, a case store, and the stage receipts while it runs."""

    aws: Aws
    case: Case
    folder: Path
    configuration_set: str = CONFIGURATION_SET
    queue: str = QUEUE
    sender: str = SENDER
    reads: bool = True
    hosts: tuple[str, ...] = ("127.0.0.1",)
    letters: list[DeadLettered] = field(default_factory=list)

    def put_raw(self, topic: str, partition: int, offset: int, key: Any, value: Any, headers: Any, reason: str) -> None:
        self.letters.append(
            DeadLettered(
                dead_letter_id="d", topic=topic, partition=partition, offset=offset, key=key, headers={}, value=None,
                consumer="receipts", error=reason, failed_at=self.clock.now(),
            )
        )  # fmt: skip

    def flush(self) -> None:
        """Nothing waits."""

    def means(self) -> CheckMeans:
        self.clock = SetClock(NOW)
        book = CanaryTables(self.case.database, self.clock)
        source = self.aws.receipts(self.hosts)
        stage = Receipts(self.case.ledger, [source], self, Health(), lambda raw: raw, book)  # type: ignore[arg-type]  # as DeadLetters
        ses = _email(self.aws.config, self.configuration_set)

        def pause(seconds: float) -> None:
            """The clock of the check runs on while the sandbox's own reports."""
            self.clock.at += timedelta(seconds=seconds)
            if not self.reads:
                return
            if deliveries := source.receive(10, 1):
                stage.drain_once(_Once(source.name, deliveries, source))

        return CheckMeans(
            route=CanaryRoute(Channel.EMAIL, "ses", "eu-central-1"),
            tried=[CanaryRoute(Channel.EMAIL, "ses", "eu-central-1")],
            book=book,
            surroundings=AwsSurroundings(
                self.aws.config, self.configuration_set, self.queue,
                lambda: SesIdentities(self.aws.config).objection(self.sender), self.folder, lambda: self.letters,
            ),
            send=lambda scenario, message_id: by_email(ses, self.sender, simulated_email(scenario))(message_id),
            now=self.clock.now,
            pause=pause,
        )  # fmt: skip

    def check(self, wait: float = 20) -> Checked:
        return check_delivery(self.means(), timedelta(seconds=wait))


@dataclass
class _Once:
    """What has been received, handed to the stage as its source would."""

    name: str
    deliveries: Any
    source: Any

    def receive(self, _limit: int, _wait_seconds: int) -> Any:
        return self.deliveries

    def settle(self, handles: Any) -> None:
        self.source.settle(handles)


def test_each_simulators_receipt_comes_back_by_the_way_of_all_receipts(aws: Aws, case: Case, tmp_path: Path) -> None:
    found = Shop(aws, case, tmp_path).check()
    assert found.missing is None
    assert {scenario: each.kinds for scenario, each in found.messages.items()} == {
        MailboxScenario.SUCCESS: ("sent", "delivered"),
        MailboxScenario.BOUNCE: ("sent", "bounced_hard"),
        MailboxScenario.COMPLAINT: ("sent", "delivered", "complained"),
    }
    assert all(each.seconds is not None for each in found.messages.values())


@pytest.mark.parametrize(
    ("changes", "link", "says"),
    [
        ({"configuration_set": "none"}, "configuration set", "no configuration set none"),
        ({"configuration_set": "bare"}, "event destination", "no enabled event destination"),
        ({"configuration_set": "deaf"}, "event destination", "hands no complaint events"),
        (
            {"configuration_set": "lonely"},
            "subscription",
            "is not subscribed to arn:aws:sns:eu-central-1:000000000000:lonely",
        ),
        ({"queue": "nowhere"}, "queue", "no SQS queue nowhere"),
        ({"sender": "x@elsewhere.example.com"}, "sender", "neither x@elsewhere.example.com nor its domain"),
    ],
)
def test_a_link_that_aws_itself_lacks_is_named_and_nothing_is_sent(
    aws: Aws, case: Case, tmp_path: Path, changes: Mapping[str, Any], link: str, says: str
) -> None:
    before = len(aws.mailbox()["messages"])
    missing = replace(Shop(aws, case, tmp_path), **changes).check().missing
    assert missing is not None
    assert missing.link == link
    assert says in missing.says
    assert missing.do
    assert len(aws.mailbox()["messages"]) == before


def test_an_account_that_may_not_send_is_named_by_itself_or_by_its_refusal(
    aws: Aws, case: Case, tmp_path: Path
) -> None:
    aws.control("account", {"sending_enabled": False})
    paused = Shop(aws, case, tmp_path).check().missing
    aws.control("account", {})
    assert paused is not None
    assert (paused.link, paused.says) == ("account", "sending is paused for the SES account")
    aws.script({simulated_email(): "refuse"})
    refused = Shop(aws, case, tmp_path).check().missing
    aws.script({simulated_email(): "delivered"})
    assert refused is not None
    assert (refused.link, "MESSAGE_REJECTED" in refused.says) == ("SES", True)


def test_receipts_that_nobody_can_read_or_nobody_reads_are_told_apart(aws: Aws, case: Case, tmp_path: Path) -> None:
    strict = Shop(aws, case, tmp_path, hosts=("sns.*.amazonaws.com",)).check(1).missing
    assert strict is not None
    assert (strict.link, "delivery.certificate_hosts" in strict.do) == ("receipt", True)
    unread = Shop(aws, case, tmp_path, reads=False).check(1).missing
    assert unread is not None
    assert unread.link == "stage receipts"
    assert "receipts wait in tocsin-receipts" in unread.says
    assert "tocsin run receipts" in unread.do


def test_a_stage_that_is_not_ready_says_why_and_one_that_is_gone_is_named(aws: Aws, case: Case, tmp_path: Path) -> None:
    class _Stage(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"ready": false, "missing": {"sqs": "no credentials"}}')

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), _Stage) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_address[1]}/metrics"
        (tmp_path / "receipts.metrics.json").write_text(json.dumps({"metrics": address}), encoding="utf-8")
        unready = Shop(aws, case, tmp_path, reads=False).check(1).missing
        server.shutdown()
    assert unready is not None
    assert (unready.link, "sqs: no credentials" in unready.says) == ("stage receipts", True)
    gone = Shop(aws, case, tmp_path, reads=False).check(1).missing
    assert gone is not None
    assert "does not answer" in gone.says


@pytest.mark.parametrize(("behaviour", "exit_code"), [("delivered", 0), ("silent", 1)])
def test_the_command_prints_what_came_and_ends_as_it_should(
    aws: Aws, case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, behaviour: str, exit_code: int
) -> None:
    class _Sre:
        def acting_for(self, _act: object) -> None:
            """May look."""

    monkeypatch.setattr(check_commands, "authenticated", lambda *_: _Sre())
    aws.script({simulated_email(): behaviour})
    shop, parts = Shop(aws, case, tmp_path), Parts()
    parts.provide(CheckMeans, shop.means)
    parts.provide(Clock, lambda: SetClock(NOW))
    done = CliRunner().invoke(check_commands.check, ["--wait", "2", "--json"], obj=parts)
    aws.script({simulated_email(): "delivered"})
    said = json.loads(done.stdout)
    assert [each["to"] for each in said["messages"]] == [simulated_email(scenario) for scenario in EXPECTED]
    assert said["works"] is (exit_code == 0)
    assert getattr(done.exception, "exit_code", 0) == exit_code
    if exit_code:
        assert said["missing"]["link"] == "events"
        assert "not those of delivered" in said["missing"]["says"]
    else:
        assert all(each["seconds"] is not None for each in said["messages"])
