"""SNS signatures that must not pass, and every event that a receipt is made of."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge.contracts.errors import BadInput, Refused, TocsinError, Unreachable
from consumers.adapters import sqs_receipts
from consumers.adapters.aws import AwsConfig
from consumers.adapters.sqs_receipts import SnsSignatures, SqsReceipts, parse_notification
from consumers.domain.sending import ReceiptKind
from consumers.sandbox.envelopes import Notification, Signer
from consumers.sandbox.http import LoopbackServer
from consumers.sandbox.wire import Request, Response

AT = datetime(2026, 3, 1, 12, 0, 0, 500_000, tzinfo=UTC)
TOPIC = "arn:aws:sns:eu-central-1:000000000000:tocsin-ses-events"


class Sns:
    """A signer whose certificate is served on loopback."""

    def __init__(self) -> None:
        self.signer = Signer.load(None, AT)
        self.fetches = 0
        self.server = LoopbackServer("127.0.0.1", 0, self._answer)

    def _answer(self, request: Request) -> Response:
        self.fetches += 1
        if request.target == self.signer.certificate_path:
            return Response(200, "application/x-pem-file", self.signer.certificate_pem)
        if request.target.endswith(f"{'1' * 32}.pem"):
            return Response(302, "text/plain", b"", {"Location": self.signer.certificate_path})
        return Response(503 if request.target.endswith(f"{'5' * 32}.pem") else 404, "text/plain", b"")

    def envelope(self, version: str = "2", subject: str | None = None, message: str = "{}") -> dict[str, Any]:
        notification = Notification("m-1", TOPIC, f"{TOPIC}:s", subject, message, AT)
        envelope: dict[str, Any] = json.loads(self.signer.envelope(notification, version, self.server.url))
        return envelope


@pytest.fixture(scope="module")
def sns() -> Iterator[Sns]:
    started = Sns()
    yield started
    started.server.close()


@pytest.mark.parametrize("version", ["1", "2"])
@pytest.mark.parametrize("subject", [None, "Amazon SES Email Event Notification"])
def test_both_versions_with_and_without_subject_hold(sns: Sns, version: str, subject: str | None) -> None:
    SnsSignatures(("127.0.0.1",), "000000000000").check(sns.envelope(version, subject))


def test_a_certificate_is_fetched_once(sns: Sns) -> None:
    signatures = SnsSignatures((f"127.0.0.1:{sns.server.port}",))
    before = sns.fetches
    for _ in range(3):
        signatures.check(sns.envelope())
    assert sns.fetches == before + 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"Message": '{"forged":1}'}, "does not match"),
        ({"MessageId": "m-2"}, "does not match"),
        ({"Subject": "added"}, "does not match"),
        ({"Timestamp": "2027-01-01T00:00:00.000Z"}, "does not match"),
        ({"SignatureVersion": "1"}, "does not match"),
        ({"SignatureVersion": "3"}, "neither 1 nor 2"),
        ({"Signature": "%%%"}, "no base64"),
        ({"Signature": ""}, "does not match"),
        ({"Type": "SubscriptionConfirmation"}, "no Notification"),
        ({"TopicArn": "arn:aws:sns:eu-central-1:111111111111:x"}, "another AWS account"),
    ],
)
def test_a_tampered_message_is_refused(sns: Sns, change: dict[str, str], error: str) -> None:
    with pytest.raises(Refused, match=error):
        SnsSignatures(("127.0.0.1",), "000000000000").check(sns.envelope() | change)


@pytest.mark.parametrize(
    "change",
    [
        {"Message": "\ud800"},
        {"Subject": "\udfff"},
        {"Signature": "ä"},
        {"Signature": None},
        {"SignatureVersion": []},
        {"TopicArn": {"a": 1}},
        {"SigningCertURL": ["x"]},
    ],
)
def test_what_no_text_is_made_of_is_refused_like_any_forgery(sns: Sns, change: dict[str, Any]) -> None:
    with pytest.raises(Refused, match=r"^SNS "):
        SnsSignatures(("127.0.0.1",)).check(sns.envelope() | change)


FILE = f"SimpleNotificationService-{'a' * 32}.pem"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        (f"https://evil.example/{FILE}", "allow-list"),
        (f"https://sns.eu-central-1.amazonaws.com.evil.example/{FILE}", "allow-list"),
        (f"https://sns.s3.amazonaws.com/{FILE}", "allow-list"),
        (f"https://sns.s3-eu-west-1.amazonaws.com/{FILE}", "allow-list"),
        (f"https://sns.bucket.s3.eu-west-1.amazonaws.com/{FILE}", "allow-list"),
        (f"http://sns.eu-central-1.amazonaws.com/{FILE}", "not https"),
        (f"https://sns.eu-central-1.amazonaws.com:8443/{FILE}", "port"),
        (f"https://a@sns.eu-central-1.amazonaws.com/{FILE}", "not one of SNS's"),
        (f"https://sns.eu-central-1.amazonaws.com/{FILE}?x=1", "not one of SNS's"),
        ("https://sns.eu-central-1.amazonaws.com/other.pem", "not one of SNS's"),
        (f"https://sns.eu-central-1.amazonaws.com/{FILE}#x", "not one of SNS's"),
        (f"https://sns.eu-central-1.amazonaws.com/{FILE[:9]}\n{FILE[9:]}", "no URL"),
        (f"https://sns.eu-central-1.amazonaws.com\u2100/{FILE}", "no URL"),
        ("https://[broken", "no URL"),
        ("", "allow-list"),
    ],
)
def test_a_foreign_certificate_is_not_even_fetched(
    sns: Sns, url: str, error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqs_receipts, "_fetch", lambda _url: pytest.fail("fetched"))
    with pytest.raises(Refused, match=error):
        SnsSignatures(("sns.*.amazonaws.com",)).check(sns.envelope() | {"SigningCertURL": url})


def test_awss_own_address_is_fetched(sns: Sns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqs_receipts, "_fetch", lambda _url: sns.signer.certificate_pem)
    url = f"https://sns.us-gov-west-1.amazonaws.com/{FILE}"
    SnsSignatures(("sns.*.amazonaws.com",)).check(sns.envelope() | {"SigningCertURL": url})


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [("0" * 32, Refused, "answered 404"), ("1" * 32, Refused, "answered 302"), ("5" * 32, Unreachable, "answered 503")],
)
def test_a_certificate_that_is_not_there_is_refused_and_one_that_fails_comes_again(
    sns: Sns, name: str, kind: type[TocsinError], error: str
) -> None:
    url = f"{sns.server.url}/SimpleNotificationService-{name}.pem"
    with pytest.raises(kind, match=error):
        SnsSignatures(("127.0.0.1",)).check(sns.envelope() | {"SigningCertURL": url})


def test_a_certificate_that_is_away_is_asked_for_once_and_holds_up_no_other_message(
    sns: Sns, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = {"SigningCertURL": f"{sns.server.url}/SimpleNotificationService-{'5' * 32}.pem"}
    good, late = sns.envelope(message=_event("Send", send={})["Message"]), sns.envelope() | away
    source = SqsReceipts(AwsConfig("eu-central-1", sns.server.url), "q", SnsSignatures(("127.0.0.1",)))
    waiting: list[dict[str, Any]] = []
    monkeypatch.setattr(source, "_lent", lambda *_: waiting)

    def lend(*envelopes: dict[str, Any]) -> list[str]:
        waiting[:] = [
            {"ReceiptHandle": str(number), "Body": json.dumps(envelope)} for number, envelope in enumerate(envelopes)
        ]
        return [each.handle for each in source.receive(10, 0)]

    assert lend(late, good, late, {"Type": "Notification"}) == ["1", "3"]
    before = sns.fetches
    assert lend(late, good, late) == ["1"]
    assert sns.fetches == before + 1
    with pytest.raises(Unreachable, match="answered 503"):
        lend(late)


def _event(event_type: str, **members: Any) -> dict[str, Any]:
    mail = {"messageId": "ses-1", "timestamp": "2026-03-01T12:00:00.500Z", "tags": {"attempt": ["a-1"]}}
    return {"Message": json.dumps({"eventType": event_type, "mail": mail, **members})}


def _bounce(kind: str, sub_type: str) -> dict[str, Any]:
    detail = {
        "bounceType": kind,
        "bounceSubType": sub_type,
        "feedbackId": "f-1",
        "timestamp": "2026-03-01T12:00:01.000Z",
    }
    return _event("Bounce", bounce=detail)


@pytest.mark.parametrize(
    ("envelope", "kind", "sub_type"),
    [
        (_event("Send", send={}), ReceiptKind.SENT, None),
        (_event("Delivery", delivery={"timestamp": "2026-03-01T12:00:01Z"}), ReceiptKind.DELIVERED, None),
        (_bounce("Permanent", "General"), ReceiptKind.BOUNCED_HARD, "General"),
        (_bounce("Permanent", "OnAccountSuppressionList"), ReceiptKind.BOUNCED_HARD, "OnAccountSuppressionList"),
        (_bounce("Transient", "MailboxFull"), ReceiptKind.BOUNCED_SOFT, "MailboxFull"),
        (_bounce("Undetermined", "Undetermined"), ReceiptKind.BOUNCED_SOFT, "Undetermined"),
        (_event("Complaint", complaint={"complaintFeedbackType": "abuse"}), ReceiptKind.COMPLAINED, "abuse"),
        (_event("Complaint", complaint={}), ReceiptKind.COMPLAINED, None),
        (_event("Complaint", complaint={"complaintFeedbackType": "not-spam"}), ReceiptKind.COMPLAINED, "not_spam"),
        (_event("Complaint", complaint={"complaintFeedbackType": "x y"}), ReceiptKind.COMPLAINED, "unlisted"),
        (_event("Complaint", complaint={"complaintFeedbackType": "x" * 65}), ReceiptKind.COMPLAINED, "unlisted"),
        (
            _event("Complaint", complaint={"complaintSubType": "OnAccountSuppressionList", "feedbackId": "f-1"}),
            ReceiptKind.BOUNCED_HARD,
            "OnAccountSuppressionList",
        ),
        (_event("DeliveryDelay", deliveryDelay={"delayType": "MailboxFull"}), ReceiptKind.DELAYED, "MailboxFull"),
        (_event("Reject", reject={"reason": "Bad content"}), ReceiptKind.REJECTED, None),
        (_event("Rendering Failure", failure={"errorMessage": "x"}), ReceiptKind.RENDERING_FAILED, None),
    ],
)
def test_every_ses_event_is_one_receipt(envelope: dict[str, Any], kind: ReceiptKind, sub_type: str | None) -> None:
    (receipt,) = parse_notification(envelope, "0" * 64)
    assert (receipt.kind, receipt.sub_type, receipt.attempt_id) == (kind, sub_type, "a-1")
    assert (receipt.provider, receipt.provider_message_id) == ("ses", "ses-1")
    assert timedelta(0) <= receipt.occurred_at - AT < timedelta(seconds=1)
    assert receipt.occurred_at.tzinfo is UTC


def test_the_same_event_twice_has_one_id_and_two_events_have_two() -> None:
    ids = [parse_notification(_bounce("Permanent", "General"), raw * 64)[0].provider_event_id for raw in "01"]
    assert ids[0] == ids[1]
    assert ids[0] != parse_notification(_event("Send", send={}), "0" * 64)[0].provider_event_id


def test_what_is_about_nobody_is_no_receipt() -> None:
    assert parse_notification({"Message": sqs_receipts.SES_TEST_MESSAGE}, "0" * 64) == ()
    assert parse_notification(_event("Open", open={}), "0" * 64) == ()


@pytest.mark.parametrize(
    "envelope",
    [
        {},
        {"Message": 3},
        {"Message": "words"},
        {"Message": "[]"},
        {"Message": "{}"},
        {"Message": '{"eventType": "Send"}'},
        {"Message": '{"eventType": "Send", "mail": 3}'},
        _event("Brand New"),
        _event("Delivery", delivery={"timestamp": "yesterday"}),
        _event("Delivery", delivery={"timestamp": "0001-01-01T00:00:00+14:00"}),
        _event("Complaint", complaint={"feedbackId": "f" * 200}),
        _event("Complaint", complaint={"feedbackId": "f\x00"}),
        _bounce("Novel", "General"),
        {"Message": '{"notification": {}, "delivery": {}, "status": "MAYBE"}'},
    ],
)
def test_what_cannot_be_read_is_our_error(envelope: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        parse_notification(envelope, "0" * 64)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["mail", "bounce", "send"]), inner),
    max_leaves=8,
)


@given(JSON, st.sampled_from(["Send", "Bounce", "Delivery", "Complaint"]))
def test_no_message_raises_anything_but_our_error(value: object, event_type: str) -> None:
    for message in (value, {"eventType": event_type, "mail": value, "bounce": value, "send": value, "delivery": value}):
        try:
            parse_notification({"Message": json.dumps(message)}, "0" * 64)
        except BadInput:
            continue
