"""What SES answers to a bulk, as results: read past the SDK, so that nothing it would have caught goes unseen. The wire itself
is in `tests/contract/test_aws_adapters.py`.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse

from consumers.adapters.aws import AwsConfig
from consumers.adapters.ses import ENTRY_STATES, SesEmail
from consumers.domain.sending import BulkEmail, EmailEntry, SendState


class Answering:
    """SES, whose next answer is set. Nothing leaves this process."""

    def __init__(self) -> None:
        self.email = SesEmail(AwsConfig("eu-central-1", "http://127.0.0.1:1"), "tocsin")
        self.email._ses.meta.events.register("before-send.sesv2", self._answer)
        self.status, self.body = 200, b""
        self.echoes = False
        self.bodies: list[Any] = []

    def _answer(self, request: Any, **_: Any) -> AWSResponse:
        asked = json.loads(request.body)
        self.bodies.append(asked)
        body = self.body
        if self.echoes:
            addresses = [each["Destination"]["ToAddresses"][0] for each in asked["BulkEmailEntries"]]
            body = answer(*({"Status": "SUCCESS", "MessageId": f"to {address}"} for address in addresses))
        raw = SimpleNamespace(stream=lambda *_: iter((body,)), read=lambda *_: body)
        return AWSResponse(request.url, self.status, {}, raw)


@pytest.fixture(scope="module")
def ses() -> Answering:
    return Answering()


def answer(*results: dict[str, Any]) -> bytes:
    return json.dumps({"BulkEmailEntryResults": results}).encode()


def bulk(*names: str) -> BulkEmail:
    entries = [
        EmailEntry(name, f"{name}@mail.example.com", {"name": f'Ä \u2028{name}"', "name_html": name}) for name in names
    ]
    return BulkEmail(
        "s@shop.example.com", None, "S", "<p>{{name_html}}</p>", "{{name}}", "INC-1", entries, exercise=False
    )


def test_every_status_is_told_in_order_with_its_own_word(ses: Answering) -> None:
    statuses = [*ENTRY_STATES, "NEWER_THAN_WE"]
    ses.body = answer(*({"Status": each, "MessageId": "m", "Error": "a@b", "More": {}} for each in statuses))
    results = ses.email.send_bulk(bulk(*(f"a{number}" for number in range(len(statuses)))))
    assert [each.state for each in results] == [*ENTRY_STATES.values(), SendState.UNKNOWN]
    assert [each.code for each in results] == [None if each == "SUCCESS" else each for each in statuses]
    assert results[0].provider_message_id == "m"
    assert "a@b" not in repr(results)


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (answer({"Status": "SUCCESS", "MessageId": None}, {"Status": None}), [None, ""]),
        (answer({}, {"Status": "FAILED"}), ["", "FAILED"]),
        (answer({"Status": "SUCCESS"}), ["ResultCountMismatch"] * 2),
        (b"{}", ["ResultCountMismatch"] * 2),
        (b"", ["ResultCountMismatch"] * 2),
        (b"<html>", ["ResultCountMismatch"] * 2),
        (b"\xff", ["ResultCountMismatch"] * 2),
    ],
)
def test_an_answer_that_says_nothing_leaves_it_to_receipts(
    ses: Answering, body: bytes, codes: list[str | None]
) -> None:
    ses.body = answer({"Status": "SUCCESS"}, {"Status": "SUCCESS"})
    ses.email.send_bulk(bulk("a1", "a2"))  # what it said must not be taken for the next answer
    ses.body = body
    results = ses.email.send_bulk(bulk("a1", "a2"))
    assert [each.code for each in results] == codes
    assert all(each.state is SendState.UNKNOWN for each in results if each.code is not None and each.code != "FAILED")


def test_a_failed_call_is_told_by_the_word_of_its_error(ses: Answering) -> None:
    ses.status, ses.body = 429, b'{"__type":"TooManyRequestsException","message":"a1@mail.example.com"}'
    try:
        (result,) = ses.email.send_bulk(bulk("a1"))
    finally:
        ses.status = 200
    assert (result.state, result.code) == (SendState.THROTTLED, "TooManyRequestsException")


def test_slots_arrive_as_they_were(ses: Answering) -> None:
    ses.body = answer({"Status": "SUCCESS"})
    ses.email.send_bulk(bulk("a1"))
    (entry,) = ses.bodies[-1]["BulkEmailEntries"]
    data = entry["ReplacementEmailContent"]["ReplacementTemplate"]["ReplacementTemplateData"]
    assert json.loads(data) == {"name": 'Ä \u2028a1"', "name_html": "a1"}
    assert {tag["Name"]: tag["Value"] for tag in entry["ReplacementTags"]} == {"attempt": "a1", "incident": "INC-1"}


def test_calls_of_several_threads_get_their_own_answers(ses: Answering) -> None:
    ses.echoes = True
    calls = [bulk(f"a{number}", f"b{number}") for number in range(60)]
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(ses.email.send_bulk, calls))
    finally:
        ses.echoes = False
    for call, results in zip(calls, answers, strict=True):
        assert [each.provider_message_id for each in results] == [f"to {entry.to_address}" for entry in call.entries]
