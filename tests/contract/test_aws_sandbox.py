"""The sandbox as boto3 sees it: answers within botocore's model, errors by name, nothing lost by a kill."""

import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import pytest
from botocore.exceptions import ClientError

from bridge.contracts.errors import BadInput, Refused
from consumers.adapters.aws import AwsConfig, client
from consumers.sandbox import server
from consumers.sandbox.server import Sandbox, SandboxFault
from consumers.sandbox.wire import AwsError, InvalidAnswer, Wire
from tests.contract.aws_sandbox import QUEUE, SENDER, Aws, bulk, drain, entry, get, provisioned, running


@pytest.fixture
def aws() -> Iterator[Aws]:
    with running() as started:
        yield started


def _code(error: pytest.ExceptionInfo[ClientError]) -> str:
    return str(error.value.response["Error"]["Code"])


def test_suppression_list(aws: Aws) -> None:
    ses = client(aws.config, "sesv2", may_repeat=False)
    for n in range(3):
        ses.put_suppressed_destination(EmailAddress=f"P+{n}@x.example.com", Reason="COMPLAINT")
    got = ses.get_suppressed_destination(EmailAddress="p+1@x.example.com")["SuppressedDestination"]
    assert (got["EmailAddress"], got["Reason"]) == ("P+1@x.example.com", "COMPLAINT")
    page = ses.list_suppressed_destinations(PageSize=2, Reasons=["COMPLAINT"])
    rest = ses.list_suppressed_destinations(PageSize=2, Reasons=["COMPLAINT"], NextToken=page["NextToken"])
    summaries = page["SuppressedDestinationSummaries"] + rest["SuppressedDestinationSummaries"]
    assert [item["EmailAddress"] for item in summaries] == [f"P+{n}@x.example.com" for n in range(3)]
    assert ses.list_suppressed_destinations(Reasons=["BOUNCE"])["SuppressedDestinationSummaries"] == []
    ses.delete_suppressed_destination(EmailAddress="p+1@x.example.com")
    with pytest.raises(ClientError) as error:
        ses.get_suppressed_destination(EmailAddress="p+1@x.example.com")
    assert _code(error) == "NotFoundException"


def test_sets_identities_and_account(aws: Aws) -> None:
    ses = client(aws.config, "sesv2", may_repeat=False)
    assert ses.list_configuration_sets()["ConfigurationSets"] == ["tocsin"]
    assert ses.get_configuration_set(ConfigurationSetName="tocsin")["ConfigurationSetName"] == "tocsin"
    (destination,) = ses.get_configuration_set_event_destinations(ConfigurationSetName="tocsin")["EventDestinations"]
    assert destination["Enabled"] is True
    assert ses.list_email_identities()["EmailIdentities"][0]["IdentityName"] == "shop.example.com"
    assert ses.get_email_identity(EmailIdentity="shop.example.com")["VerifiedForSendingStatus"] is True
    with pytest.raises(ses.exceptions.AlreadyExistsException):
        ses.create_configuration_set(ConfigurationSetName="tocsin")
    aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com")))
    assert ses.get_account()["SendQuota"]["SentLast24Hours"] == 1


def test_single_mails_simple_raw_and_template(aws: Aws) -> None:
    ses = client(aws.config, "sesv2", may_repeat=False)
    raw = b"Subject: Raw\r\nContent-Type: text/plain; charset=utf-8\r\n\r\nRaw text"
    contents: list[dict[str, Any]] = [
        {"Simple": {"Subject": {"Data": "Simple"}, "Body": {"Text": {"Data": "{{as it is}}"}}}},
        {"Raw": {"Data": raw}},
        {"Template": {"TemplateContent": {"Subject": "T", "Text": "{{ n }}"}, "TemplateData": '{"n": 7}'}},
    ]
    for content in contents:
        ses.send_email(FromEmailAddress=SENDER, Destination={"ToAddresses": ["a@x.example.com"]}, Content=content)
    shown = [(mail["subject"], mail["text"].strip()) for mail in aws.mailbox()["messages"]]
    assert shown == [("Simple", "{{as it is}}"), ("Raw", "Raw text"), ("T", "7")]
    with pytest.raises(ClientError) as error:
        ses.send_email(
            FromEmailAddress=SENDER, Destination={"ToAddresses": ["b+throttle@x.example.com"]}, Content=contents[0]
        )
    assert _code(error) == "TooManyRequestsException"


def test_block_expressions_and_too_many_entries_are_refused(aws: Aws) -> None:
    ses = client(aws.config, "sesv2", may_repeat=False)
    for text, count in (("{{#if a}}x{{/if}}", 1), ("{{{a}}}", 1), ("plain", 51)):
        with pytest.raises(ClientError) as error:
            ses.send_bulk_email(
                FromEmailAddress=SENDER,
                DefaultContent={"Template": {"TemplateContent": {"Subject": "s", "Text": text}, "TemplateData": "{}"}},
                BulkEmailEntries=[{"Destination": {"ToAddresses": ["a@x.example.com"]}}] * count,
            )
        assert _code(error) == "BadRequestException"
    assert aws.mailbox()["messages"] == []


def _signed(aws: Aws, service: str, method: str, path: str, body: bytes, **headers: str) -> tuple[int, str]:
    """Send a request that boto3 would not; return status and body."""
    scope = f"AWS4-HMAC-SHA256 Credential=sandbox/20260101/eu-central-1/{service}/aws4_request"
    connection = http.client.HTTPConnection(urlsplit(aws.url).netloc, timeout=10)
    connection.request(
        method, path, body, {"Authorization": scope} | {k.replace("_", "-"): v for k, v in headers.items()}
    )
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


@pytest.mark.parametrize(
    ("service", "method", "path", "body", "headers", "status", "word"),
    [
        ("ses", "POST", "/v2/email/outbound-emails", b"{}", {}, 400, "Content"),
        ("ses", "POST", "/v2/email/outbound-emails", b"[", {}, 400, "no JSON"),
        ("ses", "PUT", "/v2/email/suppression/addresses", b'{"EmailAddress":"a@b.cd","Reason":"X"}', {}, 400, "Reason"),
        ("ses", "PUT", "/v2/email/suppression/addresses", b'{"Nope":1}', {}, 400, "Nope"),
        ("ses", "GET", "/v2/email/nothing", b"", {}, 404, "no operation"),
        ("ses", "GET", "/v2/email/contact-lists", b"", {}, 501, "does not play ListContactLists"),
        ("sqs", "POST", "/", b"{}", {"x_amz_target": "AmazonSQS.ReceiveMessage"}, 400, "QueueUrl"),
        ("sqs", "POST", "/", b"{}", {"x_amz_target": "AmazonSQS.Nope"}, 404, "UnknownOperationException"),
        ("sns", "POST", "/", b"Action=Publish&Version=2010-03-31", {}, 400, "ValidationError"),
        ("sns", "POST", "/", b"Action=Nope&Version=2010-03-31", {}, 400, "InvalidAction"),
        ("sns", "POST", "/", b"\xff", {}, 400, "InvalidAction"),
        ("s3", "GET", "/bucket", b"", {}, 501, "does not play s3"),
    ],
)
def test_what_the_model_does_not_allow_is_answered_as_aws_does(
    aws: Aws, service: str, method: str, path: str, body: bytes, headers: dict[str, str], status: int, word: str
) -> None:
    answered, text = _signed(aws, service, method, path, body, **headers)
    assert (answered, word in text) == (status, True), text


def test_a_request_without_signature_is_refused(aws: Aws) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(Request(f"{aws.url}/v2/email/account"), timeout=10)
    assert error.value.code == 403
    error.value.close()


def test_a_queue_that_is_not_there(aws: Aws) -> None:
    sqs = client(aws.config, "sqs", may_repeat=False)
    with pytest.raises(sqs.exceptions.QueueDoesNotExist) as error:
        sqs.get_queue_url(QueueName="nope")
    assert error.value.response["Error"]["Code"] == "AWS.SimpleQueueService.NonExistentQueue"


def test_a_long_poll_ends_when_a_message_comes(aws: Aws) -> None:
    sqs = client(aws.config, "sqs", may_repeat=False)
    url = sqs.create_queue(QueueName="other")["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=1)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    (message,) = sqs.receive_message(QueueUrl=url, WaitTimeSeconds=20, AttributeNames=["All"])["Messages"]
    assert (message["Body"], message["Attributes"]["ApproximateReceiveCount"]) == ("later", "1")
    attributes = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert attributes["ApproximateNumberOfMessagesNotVisible"] == "1"
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    answer = sqs.delete_message_batch(QueueUrl=url, Entries=[{"Id": "1", "ReceiptHandle": "nonsense"}])
    assert answer["Failed"][0]["Code"] == "ReceiptHandleIsInvalid"


def test_other_hosts_names_are_refused(aws: Aws) -> None:
    """A page whose name was rebound to 127.0.0.1 must not read the mailbox."""
    with pytest.raises(HTTPError) as error:
        urlopen(Request(f"{aws.url}/_mailbox", headers={"Host": "evil.example"}), timeout=10)
    assert error.value.code == 421
    error.value.close()


def test_behaviours_are_checked_and_only_taken_as_json(aws: Aws) -> None:
    for body, content_type, status in (
        (b'{"a@x.example":"bonce"}', "application/json", 400),
        (b"{", "application/json", 400),
        (b"{}", "text/plain", 415),
    ):
        with pytest.raises(HTTPError) as error:
            urlopen(Request(f"{aws.url}/_control/behaviours", body, {"Content-Type": content_type}), timeout=10)
        assert error.value.code == status
        assert b"a@x.example" not in error.value.read()
        error.value.close()


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def test_the_mailbox_page_shows_each_mail_and_runs_nothing_of_it(aws: Aws) -> None:
    evil = {"name": "<script>alert(1)</script>", "name_html": '"><script>alert(2)</script>'}
    aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com", **evil), entry("a-2", "bo+bounce@x.example.com")))
    aws.sms.send("s-1", "+4915100000001", "Look at <your> account page.", exercise=False)
    with urlopen(f"{aws.url}/_mailbox", timeout=10) as answer:
        policy = answer.headers["Content-Security-Policy"]
        page = _Page()
        page.feed(answer.read().decode())
    assert "default-src 'none'" in policy
    assert "script" not in [tag for tag, _ in page.tags]
    frames = [attributes for tag, attributes in page.tags if tag == "iframe"]
    assert [frame["sandbox"] for frame in frames] == ["", ""]
    assert all(frame["title"] for frame in frames)
    assert frames[1]["srcdoc"] == '<p>Dear "><script>alert(2)</script>,</p>'
    assert "Look at <your> account page." in page.words
    assert "Bounced: its reader never saw it" in page.words
    assert ("html", {"lang": "en"}) in page.tags
    labels = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
    assert {attributes["id"] for tag, attributes in page.tags if tag == "input"} <= labels
    filtered = get(f"{aws.url}/_mailbox?to=%2B49151&page=1").decode()
    assert "SMS to +4915100000001" in filtered
    assert "ann@x.example.com" not in filtered


def _start(folder: Path, *arguments: str) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "consumers.sandbox", "--port", "0", "--folder", str(folder), *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["url"]


def _end(process: subprocess.Popen[str], number: int) -> int:
    process.send_signal(number)
    process.communicate(timeout=20)
    return process.returncode


def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    process, url = _start(tmp_path)
    try:
        aws = provisioned(url)
        aws.script({"cy@x.example.com": {"behaviour": "throttle", "times": 2}})
        aws.email.send_bulk(bulk(entry("a-1", "ann@x.example.com"), entry("a-2", "cy@x.example.com")))
        aws.sms.send("s-1", "+4915100000001", "x", exercise=False)
        settled = {r.provider_event_id for d in drain(aws.receipts(), 1) for r in d.receipts}
        told = {r.provider_event_id for d in drain(aws.sms_status(), 1) for r in d.receipts}
        before = aws.mailbox()
    finally:
        _end(process, signal.SIGKILL)
    with (tmp_path / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"record":"torn')  # as a kill in the middle of a write leaves it

    process, url = _start(tmp_path)
    try:
        aws = provisioned(url)
        assert aws.mailbox() == before
        left = {r.provider_event_id for d in drain(aws.receipts(), 2 - len(settled)) for r in d.receipts}
        assert (len(settled | left), settled & left) == (2, set())
        assert {r.provider_event_id for d in drain(aws.sms_status(), 1) for r in d.receipts} == told
        states = [aws.email.send_bulk(bulk(entry("a-2", "cy@x.example.com")))[0].state for _ in range(2)]
        assert states == ["throttled", "accepted"]
        with pytest.raises(Refused, match="another sandbox"):
            Sandbox().start(folder=tmp_path)
        assert _end(process, signal.SIGTERM) == 0
    finally:
        if process.poll() is None:
            _end(process, signal.SIGKILL)


def test_a_damaged_journal_and_a_foreign_address_are_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_bytes(b"damaged\n{}\n")
    with pytest.raises(BadInput, match=r"journal\.jsonl, line 1"):
        Sandbox().start(folder=tmp_path)
    with pytest.raises(BadInput, match="loopback"):
        Sandbox().start("0.0.0.0")


def test_receipts_wait_in_a_queue_that_counts_them(aws: Aws) -> None:
    aws.email.send_bulk(bulk(*(entry(f"a-{n}", f"p{n}@x.example.com") for n in range(50))))
    assert len(drain(aws.receipts(), 100)) == 100
    sqs = client(aws.config, "sqs", may_repeat=False)
    url = sqs.get_queue_url(QueueName=QUEUE)["QueueUrl"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert (counts["ApproximateNumberOfMessages"], counts["ApproximateNumberOfMessagesNotVisible"]) == ("0", "0")


@pytest.mark.parametrize("wrong", [{"Account": 7}, {"Nope": "x"}], ids=["type", "member"])
def test_an_answer_that_aws_never_gives_is_a_fault_of_the_sandbox(
    wrong: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "get_caller_identity", lambda _call: wrong)
    sandbox = Sandbox()
    url = sandbox.start()
    with pytest.raises(ClientError):
        client(AwsConfig("eu-central-1", url, retries=1), "sts", may_repeat=True).get_caller_identity()
    with pytest.raises(SandboxFault, match="InvalidAnswer sts GetCallerIdentity"):
        sandbox.stop()


def test_an_error_that_the_operation_does_not_have_is_a_fault_of_the_sandbox() -> None:
    with pytest.raises(InvalidAnswer, match="lists no error Nope"):
        Wire().refusal("sns", "Publish", AwsError("Nope", "x"))
