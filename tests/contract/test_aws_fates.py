"""What a recipient, a service or an account can be scripted to do in the sandbox, as our adapters see it."""

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from bridge.contracts.errors import Unreachable
from bridge.runtime.clock import SetClock
from consumers.adapters.aws import AwsConfig, caller_account, client
from consumers.adapters.sms_status import FAILURES, LOOK_BACK, OVERLAP, CloudWatchSmsStatus
from consumers.domain.sending import ReceiptKind, SendState
from consumers.domain.simulators import MailboxScenario, simulated_email
from tests.contract.aws_sandbox import Aws, bulk, drain, entry, get, running

ANN = "+4915100000001"
BO = "+4915100000002"


@pytest.fixture(scope="module")
def shared() -> Iterator[Aws]:
    with running() as started:
        yield started


@pytest.fixture
def aws() -> Iterator[Aws]:
    with running() as started:
        yield started


def kinds_by_attempt(aws: Aws, count: int) -> dict[str | None, list[tuple[ReceiptKind, str | None]]]:
    found: dict[str | None, list[tuple[ReceiptKind, str | None]]] = {}
    receipts = [receipt for delivery in drain(aws.receipts(), count) for receipt in delivery.receipts]
    for receipt in sorted(receipts, key=lambda each: each.occurred_at):
        found.setdefault(receipt.attempt_id, []).append((receipt.kind, receipt.sub_type))
    return found


def test_every_fate_of_an_email_is_reported_as_ses_reports_it(shared: Aws) -> None:
    kinds = ReceiptKind
    expected: dict[str, list[tuple[ReceiptKind, str | None]]] = {
        "softbounce": [
            (kinds.SENT, None),
            (kinds.DELAYED, "MailboxFull"),
            (kinds.BOUNCED_SOFT, "MailboxFull"),
        ],
        "latebounce": [(kinds.SENT, None), (kinds.DELIVERED, None), (kinds.BOUNCED_HARD, "General")],
        "complaint": [(kinds.SENT, None), (kinds.DELIVERED, None), (kinds.COMPLAINED, "abuse")],
        "delay": [(kinds.SENT, None), (kinds.DELAYED, "TransientCommunicationFailure"), (kinds.DELIVERED, None)],
        "reject": [(kinds.SENT, None), (kinds.REJECTED, None)],
        "spam": [(kinds.SENT, None), (kinds.DELIVERED, None)],
        "silent": [(kinds.SENT, None)],
        "ooto": [(kinds.SENT, None), (kinds.DELIVERED, None), (kinds.BOUNCED_SOFT, "General")],
        "suppressed": [(kinds.SENT, None), (kinds.BOUNCED_HARD, "Suppressed")],
    }
    results = shared.email.send_bulk(bulk(*(entry(fate, f"fates+{fate}@x.example.com") for fate in expected)))
    assert {result.state for result in results} == {SendState.ACCEPTED}
    assert kinds_by_attempt(shared, sum(map(len, expected.values()))) == expected


def test_a_complaint_about_advertising_keeps_no_notice_from_anybody(aws: Aws) -> None:
    ses = client(aws.config, "sesv2", may_repeat=True)
    ses.put_suppressed_destination(EmailAddress="ann@x.example.com", Reason="COMPLAINT")
    ses.put_suppressed_destination(EmailAddress="bo@x.example.com", Reason="BOUNCE")
    aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com"), entry("b-1", "bo@x.example.com")))
    known = kinds_by_attempt(aws, 4)
    assert known["a-1"] == [(ReceiptKind.SENT, None), (ReceiptKind.DELIVERED, None)]
    assert known["b-1"] == [(ReceiptKind.SENT, None), (ReceiptKind.BOUNCED_HARD, "OnAccountSuppressionList")]


def test_a_refused_recipient_costs_nobody_else_the_mail(shared: Aws) -> None:
    results = shared.email.send_bulk(bulk(entry("r-1", "ann+refuse@x.example.com"), entry("r-2", "bo@x.example.com")))
    assert [(r.state, r.code) for r in results] == [
        (SendState.REJECTED, "MESSAGE_REJECTED"),
        (SendState.ACCEPTED, None),
    ]
    shared.script({BO: "refuse"})
    assert shared.sms.send("r-3", BO, "x", exercise=False).state is SendState.REJECTED


def test_whom_ses_never_takes_for_a_temporary_issue_is_put_off_and_costs_nobody_else_the_mail(shared: Aws) -> None:
    people = bulk(entry("t-1", "ann+transient@x.example.com"), entry("t-2", "bo@x.example.com"))
    for _ in range(2):
        assert [(r.state, r.code) for r in shared.email.send_bulk(people)] == [
            (SendState.DEFERRED, "TRANSIENT_FAILURE"),
            (SendState.ACCEPTED, None),
        ]


@pytest.mark.parametrize(("behaviour", "taken"), [("timeout", 1), ("lost", 0)])
def test_an_answer_that_never_comes_leaves_the_whole_call_unknown(aws: Aws, behaviour: str, taken: int) -> None:
    aws.script({"cy@x.example.com": behaviour, ANN: behaviour})
    people = [entry("a-1", "ann@x.example.com"), entry("a-2", "cy@x.example.com")]
    assert {result.state for result in aws.email.send_bulk(bulk(*people))} == {SendState.UNKNOWN}
    assert aws.sms.send("s-1", ANN, "x", exercise=False).state is SendState.UNKNOWN
    counts = aws.mailbox()["recipients"]
    assert [counts[key]["unanswered"] for key in ("cy@x.example.com", ANN)] == [1, 1]
    assert [len([m for m in aws.mailbox()["messages"] if m["channel"] == c]) for c in ("email", "sms")] == [
        2 * taken,
        taken,
    ]
    assert {result.state for result in aws.email.send_bulk(bulk(*people))} == {SendState.ACCEPTED}
    assert aws.sms.send("s-1", ANN, "x", exercise=False).state is SendState.ACCEPTED


@pytest.mark.parametrize(
    ("answer", "state", "taken"),
    [
        ("500", SendState.UNKNOWN, 0),
        ("429", SendState.THROTTLED, 0),
        ("403", SendState.UNAVAILABLE, 0),
        ("reset", SendState.UNKNOWN, 0),
        ("reset_after", SendState.UNKNOWN, 2),
    ],
)
def test_a_service_that_is_ill_is_ill_for_everybody_until_it_recovers(
    aws: Aws, answer: str, state: SendState, taken: int
) -> None:
    aws.control("faults", {"sesv2": {"answer": answer, "calls": 1}, "sns": {"answer": answer, "calls": 1}})
    assert aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com")))[0].state is state
    assert aws.sms.send("s-1", ANN, "x", exercise=False).state is state
    assert len(aws.mailbox()["messages"]) == taken
    assert aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com")))[0].state is SendState.ACCEPTED
    assert aws.sms.send("s-1", ANN, "x", exercise=False).state is SendState.ACCEPTED
    aws.control("faults", {"sesv2": answer})
    assert [aws.email.send_bulk(bulk(entry("a-2", "bo@x.example.com")))[0].state for _ in range(3)] == [state] * 3
    aws.control("faults", {})
    assert aws.email.send_bulk(bulk(entry("a-2", "bo@x.example.com")))[0].state is SendState.ACCEPTED


def test_a_service_may_fall_ill_after_some_calls_and_may_be_slow(aws: Aws) -> None:
    aws.control("faults", {"sesv2": {"answer": "429", "operation": "SendBulkEmail", "after": 2, "calls": 1}})
    states = [aws.email.send_bulk(bulk(entry(f"a-{n}", "ann@x.example.com")))[0].state for n in range(4)]
    assert states == [SendState.ACCEPTED, SendState.ACCEPTED, SendState.THROTTLED, SendState.ACCEPTED]
    aws.control("faults", {"sns": {"answer": "slow", "seconds": 0.1, "calls": 1}})
    began = time.monotonic()
    assert aws.sms.send("s-1", ANN, "x", exercise=False).state is SendState.ACCEPTED
    assert time.monotonic() - began >= 0.1


@pytest.mark.parametrize(("answer", "taken"), [("hold", 0), ("hold_after", 1)])
def test_a_held_call_is_answered_once_the_hold_ends(aws: Aws, answer: str, taken: int) -> None:
    aws.control("faults", {"sesv2": {"answer": answer, "operation": "SendBulkEmail"}})
    assert client(aws.config, "sesv2", may_repeat=True).get_account()["SendingEnabled"], "others are answered"
    with ThreadPoolExecutor(1) as caller:
        sending = caller.submit(aws.email.send_bulk, bulk(entry("a-1", "ann@x.example.com")))
        until = time.monotonic() + 10
        while json.loads(get(f"{aws.url}/_control/faults")) != {"held": {"sesv2": 1}}:
            assert time.monotonic() < until
        assert (sending.done(), len(aws.mailbox()["messages"])) == (False, taken)
        aws.control("faults", {})
        assert json.loads(get(f"{aws.url}/_control/faults")) == {"held": {}}, "whether it has woken yet or not"
        assert sending.result()[0].state is SendState.ACCEPTED
    assert len(aws.mailbox()["messages"]) == 1


def test_rate_and_quota_count_recipients_and_not_calls(aws: Aws) -> None:
    everybody = [entry(f"a-{n}", f"p{n}@x.example.com") for n in range(5)]
    aws.control("account", {"max_send_rate": 2})
    codes = [result.code for result in aws.email.send_bulk(bulk(*everybody))]
    assert codes == [None, None, *["ACCOUNT_THROTTLED"] * 3]
    aws.control("account", {"max_24_hour_send": 4})
    codes = [result.code for result in aws.email.send_bulk(bulk(*everybody))]
    assert codes == [None, None, *["ACCOUNT_DAILY_QUOTA_EXCEEDED"] * 3]
    ses = client(aws.config, "sesv2", may_repeat=True)
    assert ses.get_account()["SendQuota"] == {"Max24HourSend": 4, "MaxSendRate": 10_000, "SentLast24Hours": 4}


def test_the_mailbox_simulator_uses_up_no_quota_and_writes_off_no_address(aws: Aws) -> None:
    aws.control("account", {"max_24_hour_send": 1, "production_access": False})
    ses = client(aws.config, "sesv2", may_repeat=True)
    outcomes = [ReceiptKind.DELIVERED, ReceiptKind.BOUNCED_HARD, ReceiptKind.COMPLAINED]
    scenarios = (MailboxScenario.SUCCESS, MailboxScenario.BOUNCE, MailboxScenario.COMPLAINT)
    for turn in ("first", "again"):
        entries = [entry(f"{turn}-{scenario}", simulated_email(scenario, turn)) for scenario in scenarios]
        assert {result.state for result in aws.email.send_bulk(bulk(*entries))} == {SendState.ACCEPTED}
        known = kinds_by_attempt(aws, 7)
        assert [known[f"{turn}-{scenario}"][-1][0] for scenario in scenarios] == outcomes
    assert ses.get_account()["SendQuota"]["SentLast24Hours"] == 0
    assert ses.list_suppressed_destinations()["SuppressedDestinationSummaries"] == []


@pytest.mark.parametrize(
    ("limits", "state", "code"),
    [
        ({"sending_enabled": False}, SendState.UNAVAILABLE, "SendingPausedException"),
        ({"enforcement_status": "SHUTDOWN"}, SendState.UNAVAILABLE, "AccountSuspendedException"),
        ({"production_access": False}, SendState.REJECTED, "MESSAGE_REJECTED"),
    ],
)
def test_an_account_that_may_not_send(shared: Aws, limits: dict[str, Any], state: SendState, code: str) -> None:
    shared.control("account", limits)
    (result,) = shared.email.send_bulk(bulk(entry("l-1", "ann@x.example.com")))
    shared.control("account", {})
    assert (result.state, result.code) == (state, code)


def test_bad_controls_are_refused_and_change_nothing(shared: Aws) -> None:
    for what, posted in (
        ("faults", {"ses": "500"}),
        ("faults", {"sns": {"answer": "teapot"}}),
        ("faults", {"sns": {"answer": "500", "calls": -1}}),
        ("faults", {"sns": {"answer": "500", "operation": 3}}),
        ("faults", {"sns": {"answer": "500", "after": 1.5}}),
        ("faults", {"sns": {"answer": "500", "seconds": 1}}),
        ("faults", {"sns": {"answer": "slow"}}),
        ("faults", {"sns": {"answer": "slow", "seconds": 3600}}),
        ("faults", {"sms-gateway": {"answer": "slow", "seconds": 1}}),
        ("faults", {"sms-gateway": "hold"}),
        ("account", {"max_rate": 3}),
        ("account", {"production_access": 1}),
        ("account", {"enforcement_status": "FINE"}),
        ("account", []),
    ):
        with pytest.raises(OSError, match="400"):
            shared.control(what, posted)
    assert shared.email.send_bulk(bulk(entry("b-1", "ann@x.example.com")))[0].state is SendState.ACCEPTED


class TestSmsStatus:
    """SMS and what CloudWatch Logs tells about them."""

    def test_every_fate_of_an_sms(self, aws: Aws) -> None:
        fates = ("bounce", "softbounce", "reject", "delay", "silent", "complaint")
        numbers = {fate: f"+49151000001{n:02}" for n, fate in enumerate(fates)}
        aws.script({number: fate for fate, number in numbers.items()})
        ids = {
            aws.sms.send(f"s-{fate}", number, "x", exercise=False).provider_message_id: fate
            for fate, number in numbers.items()
        }
        found = {
            ids[receipt.provider_message_id]: (receipt.kind, receipt.sub_type)
            for delivery in drain(aws.sms_status(), 5)
            for receipt in delivery.receipts
        }
        assert found == {
            "bounce": (ReceiptKind.BOUNCED_HARD, "invalid_number"),
            "softbounce": (ReceiptKind.BOUNCED_SOFT, "phone_unreachable"),
            "reject": (ReceiptKind.REJECTED, "carrier_filter"),
            "delay": (ReceiptKind.DELIVERED, None),
            "complaint": (ReceiptKind.DELIVERED, None),
        }
        sns = client(aws.config, "sns", may_repeat=True)
        assert sns.list_phone_numbers_opted_out()["phoneNumbers"] == [numbers["complaint"]]
        assert sns.check_if_phone_number_is_opted_out(phoneNumber=numbers["complaint"])["isOptedOut"]
        assert not sns.get_sms_sandbox_account_status()["IsInSandbox"]

    def test_whoever_said_stop_gets_nothing_and_a_spent_budget_stops_all(self, aws: Aws) -> None:
        aws.script({ANN: "complaint"})
        for attempt in ("s-1", "s-2"):
            aws.sms.send(attempt, ANN, "x", exercise=False)
        sns = client(aws.config, "sns", may_repeat=True)
        sns.set_sms_attributes(attributes={"MonthlySpendLimit": "0"})
        aws.sms.send("s-3", BO, "x", exercise=False)
        words = [receipt.sub_type for delivery in drain(aws.sms_status(), 3) for receipt in delivery.receipts]
        assert sorted(words, key=str) == [None, "opted_out", "spend_limit"]
        assert sns.get_sms_attributes(attributes=["MonthlySpendLimit"])["attributes"] == {"MonthlySpendLimit": "0"}
        sns.opt_in_phone_number(phoneNumber=ANN)
        assert not sns.check_if_phone_number_is_opted_out(phoneNumber=ANN)["isOptedOut"]

    def test_an_account_that_does_not_log_reports_nothing(self, aws: Aws) -> None:
        sns = client(aws.config, "sns", may_repeat=True)
        sns.set_sms_attributes(attributes={"DeliveryStatusSuccessSamplingRate": "0"})
        aws.script({BO: "bounce"})
        for attempt, number in (("s-1", ANN), ("s-2", BO)):
            aws.sms.send(attempt, number, "x", exercise=False)
        (delivery,) = drain(aws.sms_status(), 1)
        assert delivery.receipts[0].kind is ReceiptKind.BOUNCED_HARD

    def test_what_was_not_settled_comes_again_and_a_new_reader_begins_with_the_last_days(self, aws: Aws) -> None:
        aws.sms.send("s-1", ANN, "x", exercise=False)
        first = aws.sms_status()
        until = datetime.now(UTC) + timedelta(seconds=20)
        lent = first.receive(10, 0)
        while not lent and datetime.now(UTC) < until:
            lent = first.receive(10, 0)
        again = drain(first, 1)
        assert [each.handle for each in again] == [each.handle for each in lent]
        assert [each.handle for each in drain(aws.sms_status(), 1)] == [each.handle for each in lent]

    def test_logs_out_of_reach_are_said_so_and_read_later(self, aws: Aws) -> None:
        status = aws.sms_status()
        aws.sms.send("s-1", ANN, "x", exercise=False)
        aws.control("faults", {"logs": "500"})
        with pytest.raises(Unreachable, match="CloudWatch Logs"):
            status.receive(10, 0)
        aws.control("faults", {})
        assert drain(status, 1)[0].receipts[0].kind is ReceiptKind.DELIVERED


def test_late_lines_of_another_implementation_are_found_by_the_overlap_or_the_hourly_look() -> None:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        config, clock = (
            AwsConfig("eu-central-1", f"http://{host}:{port}"),
            SetClock(datetime.now(UTC).replace(microsecond=0)),
        )
        made_up: dict[str, Any] = {
            "aws_access_key_id": "x",
            "aws_secret_access_key": "x",
            "region_name": "eu-central-1",
        }
        logs = boto3.client("logs", endpoint_url=config.endpoint_url, **made_up)
        group = f"sns/eu-central-1/{caller_account(config)}/DirectPublishToPhoneNumber"

        def write(number: int, ago: timedelta, message: str | None = None) -> None:
            words = message or (
                f'{{"notification": {{"messageId": "m-{number}", "timestamp": "2026-03-01 12:00:00.000"}},'
                ' "delivery": {"providerResponse": "Message has been accepted by phone carrier", "dwellTimeMs": 1500},'
                ' "status": "SUCCESS"}'
            )
            event = {"timestamp": int((clock.at - ago).timestamp() * 1000), "message": words}
            logs.put_log_events(logGroupName=group, logStreamName="s", logEvents=[event])

        def look() -> list[str | None]:
            """Return what the next whole look finds: it is over when a call returns nothing."""
            clock.at += timedelta(seconds=6)
            found: list[str | None] = []
            while batch := status.receive(50, 0):
                status.settle([delivery.handle for delivery in batch])
                kinds.extend(receipt.kind for delivery in batch for receipt in delivery.receipts)
                found += [delivery.error or delivery.receipts[0].provider_message_id for delivery in batch]
            return found

        kinds: list[ReceiptKind] = []
        status = CloudWatchSmsStatus(config, clock)
        assert look() == []  # SNS makes its groups with the first line
        logs.create_log_group(logGroupName=group)
        logs.create_log_stream(logGroupName=group, logStreamName="s")
        write(1, timedelta())
        assert look() == ["m-1"]
        assert look() == []
        write(2, OVERLAP / 2)
        assert look() == ["m-2"]
        write(3, LOOK_BACK / 2)
        write(4, timedelta(), '{"notification": {}, "delivery": {}, "status": "MAYBE"}')
        assert look() == ["SMS status: unknown or missing 'messageId'"]
        for number, words in ((5, "Unknown error attempting to reach phone"), (6, "The carrier has gone fishing")):
            write(number, timedelta(), (
                f'{{"notification": {{"messageId": "m-{number}", "timestamp": "2026-03-01 12:00:00.000"}},'
                f' "delivery": {{"providerResponse": "{words}"}}, "status": "FAILURE"}}'
            ))  # fmt: skip
        assert look() == ["m-5", "m-6"]
        assert kinds[-2:] == [ReceiptKind.BOUNCED_SOFT] * 2, "no number is written off on a guess"
        clock.at += timedelta(hours=1)
        assert "m-3" in look()
        assert "m-3" not in look()
        write(7, timedelta())
        clock.at -= timedelta(hours=2)
        assert "m-7" in look(), "a clock that is set back hides nothing"
        write(8, timedelta())
        for _ in range(2):
            look()
            clock.at += timedelta(hours=1)
            looked = look()
            assert "m-3" in looked, "all is read again"
            assert not [each for each in looked if each is not None and "unknown" in each], (
                "but no dead letter made anew"
            )
    finally:
        server.stop()


def test_every_failure_has_a_meaning_and_none_is_an_arrival() -> None:
    assert {kind for kind, _ in FAILURES.values()} == {
        ReceiptKind.REJECTED,
        ReceiptKind.BOUNCED_HARD,
        ReceiptKind.BOUNCED_SOFT,
    }
