"""Our AWS adapters against the sandbox, and against moto where moto has the call."""

import json
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Event
from typing import Any

import boto3
import botocore.session
import pytest
from moto import mock_aws
from moto.server import ThreadedMotoServer

from bridge.contracts.errors import BadInput, Unreachable
from bridge.runtime.clock import SetClock
from consumers.adapters import set_aside_receipts
from consumers.adapters.aws import SES_EVENT_TYPES, AwsConfig, caller_account, client, provision_sandbox
from consumers.adapters.ses import ENTRY_STATES, SesEmail
from consumers.adapters.ses_account import SesAccount
from consumers.adapters.ses_identities import SesIdentities
from consumers.adapters.set_aside_receipts import SET_ASIDE, SetAsideReceipts
from consumers.adapters.sns_account import SnsAccount
from consumers.adapters.sns_sms import SnsSms
from consumers.adapters.sns_topic import SnsTopic
from consumers.adapters.sqs_receipts import SnsSignatures, SqsReceipts
from consumers.domain.sending import ReceiptKind, SendState
from tests.contract.aws_sandbox import CONFIGURATION_SET, SENDER, Aws, bulk, drain, entry, running


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def aws() -> Iterator[Aws]:
    with running() as started:
        yield started


def _publishes(topic: SnsTopic, sqs: Any, sns: Any) -> None:
    """Let a partner's queue receive what is published on their topic."""
    url = sqs.create_queue(QueueName="partner")["QueueUrl"]
    queue = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    arn = sns.create_topic(Name="partner")["TopicArn"]
    sns.subscribe(TopicArn=arn, Protocol="sqs", Endpoint=queue, Attributes={"RawMessageDelivery": "true"})
    result = topic.publish("a" * 32, arn, '{"people_count":22}', exercise=False)
    assert (result.attempt_id, result.state) == ("a" * 32, SendState.ACCEPTED)
    assert result.provider_message_id is not None
    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=2)["Messages"]
    assert message["Body"] == '{"people_count":22}'
    refused = topic.publish("b" * 32, f"{arn}-gone", "{}", exercise=False)
    assert (refused.state, refused.code) == (SendState.REJECTED, "NotFound")


def test_a_partners_queue_gets_what_is_published_on_their_topic(aws: Aws) -> None:
    sqs, sns = (client(aws.config, name, may_repeat=True) for name in ("sqs", "sns"))
    _publishes(SnsTopic(aws.config), sqs, sns)


def test_every_bulk_status_that_botocore_knows_has_a_state() -> None:
    model = botocore.session.get_session().get_service_model("sesv2")
    assert set(ENTRY_STATES) == set(model.shape_for("BulkEmailStatus").enum)


def test_a_mail_arrives_filled_unescaped_and_its_receipts_name_the_attempt(aws: Aws) -> None:
    results = aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com"), entry("a-2", "bo+bounce@x.example.com")))
    assert [(r.attempt_id, r.state) for r in results] == [("a-1", SendState.ACCEPTED), ("a-2", SendState.ACCEPTED)]

    mail = aws.mailbox()["messages"][0]
    assert mail["subject"] == "About your data, <Ann & Bo>"
    assert mail["html"] == "<p>Dear &lt;Ann &amp; Bo&gt;,</p>"
    assert (mail["attempt_id"], mail["tags"]["incident"]) == ("a-1", "INC-2026-0001")
    assert mail["reply_to"] == ["dpo@shop.example.com"]

    found = {(r.attempt_id, r.kind, r.sub_type) for d in drain(aws.receipts(), 4) for r in d.receipts}
    assert found == {
        ("a-1", ReceiptKind.SENT, None),
        ("a-1", ReceiptKind.DELIVERED, None),
        ("a-2", ReceiptKind.SENT, None),
        ("a-2", ReceiptKind.BOUNCED_HARD, "General"),
    }


def test_a_bounced_address_is_suppressed_and_bounces_at_once_the_next_time(aws: Aws) -> None:
    for attempt in ("a-1", "a-2"):
        aws.email.send_bulk(bulk(entry(attempt, "bo+bounce@x.example.com")))
    sub_types = {r.attempt_id: r.sub_type for d in drain(aws.receipts(), 4) for r in d.receipts if r.sub_type}
    assert sub_types == {"a-1": "General", "a-2": "OnAccountSuppressionList"}


def test_an_address_may_send_if_it_or_its_domain_is_verified(aws: Aws) -> None:
    now = [0.0]
    identities = SesIdentities(aws.config, monotonic=lambda: now[0])
    assert identities.objection(SENDER) is None
    assert identities.objection("privacy@notices.shop.example.com") is None, "its domain lies below a verified one"
    refused = identities.objection("privacy@other.example.com")
    assert refused is not None
    assert "neither privacy@other.example.com nor its domain is an identity of SES in eu-central-1" in refused
    client(aws.config, "sesv2", may_repeat=True).create_email_identity(EmailIdentity="privacy@other.example.com")
    assert identities.objection("privacy@other.example.com") == refused, "remembered for a while"
    now[0] += 10
    assert identities.objection("privacy@other.example.com") is None
    nowhere = SesIdentities(AwsConfig("eu-central-1", "http://127.0.0.1:9"))
    with pytest.raises(Unreachable, match="SES"):
        nowhere.objection(SENDER)


def test_while_ses_is_silent_nobodys_mail_waits_for_its_word_on_the_sender(aws: Aws) -> None:
    now = [0.0]
    identities = SesIdentities(replace(aws.config, retries=1), monotonic=lambda: now[0])
    assert identities.known_objection(SENDER) is None
    assert "neither" in str(identities.known_objection("privacy@other.example.com"))
    now[0] += 301
    aws.control("faults", {"sesv2": "500"})
    with pytest.raises(Unreachable, match="SES"):
        identities.objection(SENDER)
    assert identities.known_objection(SENDER) is None, "the second provider may take it"
    aws.control("faults", {})
    assert identities.known_objection("privacy@other.example.com") is None, "not asked again for each message"
    now[0] += 60
    assert "neither" in str(identities.known_objection("privacy@other.example.com"))


def test_a_missing_slot_is_accepted_and_reported_as_a_rendering_failure(aws: Aws) -> None:
    (result,) = aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com", name="Ann")))
    assert result.state is SendState.ACCEPTED
    (delivery,) = drain(aws.receipts(), 1)
    assert [(r.attempt_id, r.kind) for r in delivery.receipts] == [("a-1", ReceiptKind.RENDERING_FAILED)]


def test_a_throttled_recipient_waits_and_is_accepted_in_the_end(aws: Aws) -> None:
    aws.script({"cy@x.example.com": {"behaviour": "throttle", "times": 1}})
    states = [aws.email.send_bulk(bulk(entry("a-1", "cy@x.example.com")))[0].state for _ in range(2)]
    assert states == [SendState.THROTTLED, SendState.ACCEPTED]
    assert aws.mailbox()["recipients"]["cy@x.example.com"] == {
        "accepted": 1,
        "throttled": 1,
        "unanswered": 0,
    }


def test_one_bad_address_costs_nobody_else_the_mail(aws: Aws) -> None:
    results = aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com"), entry("a-2", "no address")))
    assert [(r.state, r.code) for r in results] == [
        (SendState.ACCEPTED, None),
        (SendState.REJECTED, "INVALID_PARAMETER"),
    ]


def test_an_unverified_sender_makes_mails_wait() -> None:
    with running() as aws:
        message = bulk(entry("a-1", "ann@x.example.com"))
        stranger = type(message)(
            **{n: getattr(message, n) for n in message.__slots__} | {"from_address": "a@b.example"}
        )
        (result,) = aws.email.send_bulk(stranger)
        assert (result.state, result.code) == (SendState.UNAVAILABLE, "MessageRejected")
        assert aws.mailbox()["messages"] == []


def test_an_id_that_cannot_be_a_tag_is_our_own_bug(aws: Aws) -> None:
    with pytest.raises(ValueError, match="cannot be an SES tag"):
        aws.email.send_bulk(bulk(entry("a/1", "ann@x.example.com")))


def test_an_sms_is_sent_and_its_status_comes_back(aws: Aws) -> None:
    aws.script({"+4915100000002": "bounce"})
    results = [
        aws.sms.send(f"s-{n}", f"+491510000000{n}", "Look at your account page.", exercise=False) for n in (1, 2)
    ]
    status = aws.sms_status()
    kinds = {r.provider_message_id: (r.provider, r.kind, r.sub_type) for d in drain(status, 2) for r in d.receipts}
    assert kinds == {
        results[0].provider_message_id: ("sns", ReceiptKind.DELIVERED, None),
        results[1].provider_message_id: ("sns", ReceiptKind.BOUNCED_HARD, "invalid_number"),
    }
    assert status.receive(10, 0) == []
    assert aws.sms.send("s-3", "no number", "x", exercise=False).state is SendState.REJECTED


def test_a_throttled_sms_waits(aws: Aws) -> None:
    aws.script({"+4915100000009": {"behaviour": "throttle", "times": 1}})
    assert [aws.sms.send("s-1", "+4915100000009", "x", exercise=False).state for _ in range(2)] == [
        SendState.THROTTLED,
        SendState.ACCEPTED,
    ]


def _no_answer(keep_open: bool) -> tuple[AwsConfig, socket.socket]:
    """Return a listener that takes one request and never answers: resetting at once, or silent."""
    listener = socket.create_server(("127.0.0.1", 0))

    def take() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            while keep_open and connection.recv(65536):
                continue

    threading.Thread(target=take, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    return AwsConfig("eu-central-1", url, read_timeout_seconds=0.3), listener


@pytest.mark.parametrize("keep_open", [True, False], ids=["timeout", "reset"])
def test_a_lost_answer_leaves_every_entry_unknown_and_is_not_repeated(keep_open: bool) -> None:
    config, listener = _no_answer(keep_open)
    with listener:
        results = SesEmail(config, CONFIGURATION_SET).send_bulk(
            bulk(entry("a-1", "a@x.example"), entry("a-2", "b@x.example"))
        )
        listener.settimeout(0.05)
        with pytest.raises(TimeoutError):
            listener.accept()
    assert [r.state for r in results] == [SendState.UNKNOWN, SendState.UNKNOWN]


def test_a_refused_connection_took_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as gone:
        config = AwsConfig("eu-central-1", f"http://127.0.0.1:{gone.getsockname()[1]}", retries=1)
    assert SesEmail(config, "x").send_bulk(bulk(entry("a-1", "a@x.example")))[0].state is SendState.UNAVAILABLE
    assert SnsSms(config).send("s-1", "+4915100000001", "x", exercise=False).state is SendState.UNAVAILABLE
    with pytest.raises(Unreachable, match="SQS queue q"):
        SqsReceipts(config, "q", SnsSignatures(())).receive(1, 0)
    with pytest.raises(Unreachable, match="AWS STS"):
        caller_account(config)


def test_only_loopback_is_a_sandbox_and_only_a_sandbox_is_provisioned() -> None:
    with pytest.raises(BadInput, match="loopback"):
        AwsConfig("eu-central-1", "http://192.0.2.1:4566")
    with pytest.raises(BadInput, match="only the sandbox"):
        provision_sandbox(AwsConfig("eu-central-1"), sender_domain="x", configuration_set="x", receipts_queue="x")


def test_credentials_that_cannot_be_had_now_end_no_stage_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    # as a machine whose role's service does not answer
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for service in ("sesv2", "sqs", "sts"):
        with pytest.raises(Unreachable, match="no AWS credentials") as told:
            client(AwsConfig("eu-central-1"), service, may_repeat=True)
        assert told.value.exit_code != 2, "nobody would start it again"


def test_no_real_credential_reaches_the_sandbox(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAREAL")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "real")
    made = client(AwsConfig("eu-central-1", "http://127.0.0.1:1"), "sts", may_repeat=True)
    assert made._request_signer._credentials.access_key == "sandbox"


def test_unsettled_receipts_come_again_and_settled_ones_do_not(aws: Aws) -> None:
    queue = client(aws.config, "sqs", may_repeat=True)
    url = queue.create_queue(QueueName="short", Attributes={"VisibilityTimeout": "0"})["QueueUrl"]
    queue.send_message(QueueUrl=url, MessageBody="{}")
    receipts = SqsReceipts(aws.config, "short", SnsSignatures(()))
    first, second = (receipts.receive(1, 0) for _ in range(2))
    assert first[0].raw == second[0].raw == b"{}"
    receipts.settle([second[0].handle])
    assert receipts.receive(1, 0) == []


class TestMoto:
    """The same adapters on another implementation (it has neither SendBulkEmail nor real signatures)."""

    def test_account(self, moto: str) -> None:
        assert caller_account(AwsConfig("eu-central-1", moto)) == "123456789012"

    def test_sms(self, moto: str) -> None:
        sms = SnsSms(AwsConfig("eu-central-1", moto), "Shop")
        assert sms.send("s-1", "+4915100000001", "x", exercise=False).state is SendState.ACCEPTED
        assert sms.send("s-2", "no number", "x", exercise=False).state is SendState.REJECTED

    def test_a_topic_takes_a_document_and_refuses_what_it_does_not_know(self, moto: str) -> None:
        sqs, sns = (client(AwsConfig("eu-central-1", moto), name, may_repeat=True) for name in ("sqs", "sns"))
        _publishes(SnsTopic(AwsConfig("eu-central-1", moto)), sqs, sns)
        fifo = sns.create_topic(Name="p.fifo", Attributes={"FifoTopic": "true"})["TopicArn"]
        assert (
            SnsTopic(AwsConfig("eu-central-1", moto)).publish("n" * 32, fifo, "{}", exercise=False).state
            is SendState.ACCEPTED
        )

    def test_receipts_are_received_settled_and_refused_for_motos_made_up_signature(self, moto: str) -> None:
        config = AwsConfig("eu-central-1", moto)
        made_up: dict[str, Any] = {
            "aws_access_key_id": "x",
            "aws_secret_access_key": "x",
            "region_name": "eu-central-1",
        }
        sqs, sns = (boto3.client(name, endpoint_url=moto, **made_up) for name in ("sqs", "sns"))
        url = sqs.create_queue(QueueName="q")["QueueUrl"]
        arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
        topic = sns.create_topic(Name="t")["TopicArn"]
        sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
        sns.publish(TopicArn=topic, Message="{}")
        receipts = SqsReceipts(config, "q", SnsSignatures(("sns.*.amazonaws.com",), "999999999999"))
        (delivery,) = receipts.receive(10, 1)
        assert delivery.error == "SNS topic belongs to another AWS account"
        receipts.settle([delivery.handle])
        counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert counts["ApproximateNumberOfMessagesNotVisible"] == "0"


def test_what_sqs_gave_up_on_is_counted_where_the_queue_says_it_goes(aws: Aws) -> None:
    sqs = client(aws.config, "sqs", may_repeat=True)
    beside = sqs.create_queue(QueueName="set-aside")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=beside, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = {"RedrivePolicy": json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1000})}
    sqs.create_queue(QueueName="with-one", Attributes=policy)
    sqs.create_queue(QueueName="without", Attributes={})
    for _ in range(3):
        sqs.send_message(QueueUrl=beside, MessageBody="{}")
    assert SetAsideReceipts(aws.config, "with-one").count() == 3
    assert SetAsideReceipts(aws.config, "without").count() == 0


def test_who_may_not_count_what_sqs_gave_up_on_says_so_once_and_goes_on(
    aws: Aws, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, stop, said = SetAsideReceipts(aws.config, "no-such-queue"), Event(), list[str]()
    monkeypatch.setattr(set_aside_receipts.log, "warning", lambda words, **_: said.append(words))
    turns = iter(range(2))
    monkeypatch.setattr(stop, "wait", lambda _: stop.set() if next(turns) else None)
    SET_ASIDE.set(7)
    watch.run(stop)
    assert len(said) == 1
    assert SET_ASIDE._value.get() == 0


def test_the_email_account_says_what_it_allows_and_what_stands_in_the_way(aws: Aws) -> None:
    clock = SetClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    account = SesAccount(aws.config, CONFIGURATION_SET, clock)
    seen = account.read()
    assert (seen.production_access, seen.sending_enabled, seen.enforcement) == (True, True, "HEALTHY")
    assert (seen.set_exists, seen.events_missing, seen.tracking) == (True, (), False)
    assert seen.usable

    aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com"), entry("a-2", "bo+bounce@x.example.com")))
    limits = {"max_24_hour_send": 200, "max_send_rate": 14, "production_access": False}
    aws.control("account", {**limits, "enforcement_status": "SHUTDOWN"})
    seen = account.read()
    assert (seen.per_second, seen.quota, seen.sent, seen.left) == (14, 200, 2, 198)
    assert (seen.production_access, seen.usable) == (False, False)
    assert list(account.suppressed()) == [("bo+bounce@x.example.com", "BOUNCE")]

    ses = client(aws.config, "sesv2", may_repeat=True)
    ses.create_configuration_set(ConfigurationSetName="bare")
    bare = SesAccount(aws.config, "bare", clock)
    assert bare.read().events_missing == SES_EVENT_TYPES
    # without suppression of its own a set has the account's: who complained about advertising gets no notice either
    ses.put_suppressed_destination(EmailAddress="cy@x.example.com", Reason="COMPLAINT")
    assert (seen.suppressed_reasons, bare.read().suppressed_reasons) == (("BOUNCE",), ("BOUNCE", "COMPLAINT"))
    assert [reason for _, reason in account.suppressed()] == ["BOUNCE"]
    assert [reason for _, reason in bare.suppressed()] == ["BOUNCE", "COMPLAINT"]
    gone = SesAccount(aws.config, "gone", clock).read()
    assert (gone.set_exists, gone.usable) == (False, False)

    aws.control("faults", {"sesv2": "500"})
    with pytest.raises(Unreachable, match="SES"):
        account.read()


def test_the_sms_account_says_what_it_allows(aws: Aws) -> None:
    account = SnsAccount(aws.config, SetClock(datetime(2026, 3, 1, 12, tzinfo=UTC)))
    seen = account.read()
    assert (seen.in_sandbox, seen.spend_limit, seen.spent, seen.status_logged) == (False, None, None, True)
    assert (seen.opted_out, seen.numbers) == (None, None)
    aws.script({"+4915112345678": "complaint"})
    aws.sms.send("a-1", "+4915112345678", "a notice", exercise=False)
    client(aws.config, "sns", may_repeat=True).set_sms_attributes(attributes={"MonthlySpendLimit": "20"})
    aws.control("account", {"sms_sandbox": True, "sms_numbers": "US, CA"})
    seen = account.read(lists=True)
    assert (seen.in_sandbox, seen.spend_limit, seen.opted_out, seen.numbers) == (True, 20, 1, ("CA", "US"))


def test_the_sms_account_is_read_as_moto_has_it(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config = AwsConfig("eu-central-1", moto)
    clock = SetClock(datetime(2026, 3, 1, 12, tzinfo=UTC))
    sns = SnsAccount(config, clock)
    # moto lacks these two calls
    monkeypatch.setattr(sns._sns, "get_sms_sandbox_account_status", lambda: {"IsInSandbox": True})
    monkeypatch.setattr(sns._sns, "list_origination_numbers", dict)
    seen = sns.read(lists=True)
    assert (seen.in_sandbox, seen.status_logged, seen.opted_out is not None) == (True, False, True)


@mock_aws
def test_what_sms_have_cost_this_month_stands_in_cloudwatch(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "none")
    config, now = AwsConfig("eu-central-1"), datetime.now(UTC)
    account = SnsAccount(config, SetClock(now))
    assert account._spent(now) is None
    spent = {"MetricName": "SMSMonthToDateSpentUSD", "Unit": "None"}
    client(config, "cloudwatch", may_repeat=True).put_metric_data(
        Namespace="AWS/SNS", MetricData=[{**spent, "Value": value, "Timestamp": now} for value in (1.5, 12.25)]
    )
    assert account._spent(now + timedelta(minutes=1)) == 12.25
