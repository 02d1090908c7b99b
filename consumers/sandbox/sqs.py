"""SQS standard queues as far as Tocsin uses them: at least once, in no promised order, long polling included.

https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/
"""

import hashlib
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import uuid4

from consumers.sandbox.events import ACCOUNT
from consumers.sandbox.queues import Item, Queue
from consumers.sandbox.state import State, deleted_records
from consumers.sandbox.wire import AwsError, Call

MAX_BATCH = 10
MAX_WAIT_SECONDS = 20
MAX_VISIBILITY_SECONDS = 43_200
MAX_BODY_BYTES = 1_048_576

_NUMBERS = {"VisibilityTimeout": (0, MAX_VISIBILITY_SECONDS), "ReceiveMessageWaitTimeSeconds": (0, MAX_WAIT_SECONDS)}


class SimpleQueueService:
    """The operations; each runs with the state's lock held and returns the answer's members."""

    def __init__(self, state: State) -> None:
        self._state = state
        self.closing = False

    def operations(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        """Return the handler of each operation by its name; `ReceiveMessage` takes the lock by itself."""
        return {
            "CreateQueue": self.create_queue,
            "GetQueueUrl": self.get_queue_url,
            "GetQueueAttributes": self.get_queue_attributes,
            "SendMessage": self.send_message,
            "DeleteMessage": self.delete_message,
            "DeleteMessageBatch": self.delete_message_batch,
        }

    def create_queue(self, call: Call) -> dict[str, Any]:
        """Create a queue, or return the one of that name."""
        name = call.params["QueueName"]
        attributes = call.params.get("Attributes", {})
        for key, (low, high) in _NUMBERS.items():
            value = attributes.get(key, str(low))
            if not value.isdecimal() or not low <= int(value) <= high:
                raise AwsError("InvalidAttributeValue", f"Invalid value for the parameter {key}.")
        known = self._state.queues.get(name)
        if known is None:
            arn = f"arn:aws:sqs:{call.region}:{ACCOUNT}:{name}"
            self._state.commit({"record": "queue", "name": name, "arn": arn, "attributes": attributes})
        elif any(known.attributes.get(key) != value for key, value in attributes.items()):
            raise AwsError("QueueNameExists", "A queue already exists with the same name and a different attribute.")
        return {"QueueUrl": _url(call, name)}

    def get_queue_url(self, call: Call) -> dict[str, Any]:
        """Return a queue's address."""
        return {"QueueUrl": _url(call, self._named(call.params["QueueName"]).name)}

    def get_queue_attributes(self, call: Call) -> dict[str, Any]:
        """Return the attributes asked for; counts are exact here, approximate in SQS."""
        queue = self._queue(call)
        visible, hidden = queue.counts(self._state.clock.now())
        attributes = queue.attributes | {
            "QueueArn": queue.arn,
            "VisibilityTimeout": str(queue.visibility_seconds),
            "ApproximateNumberOfMessages": str(visible),
            "ApproximateNumberOfMessagesNotVisible": str(hidden),
        }
        wanted = call.params.get("AttributeNames", ())
        return {"Attributes": {name: value for name, value in attributes.items() if name in wanted or "All" in wanted}}

    def send_message(self, call: Call) -> dict[str, Any]:
        """Put one message into a queue."""
        queue = self._queue(call)
        body = call.params["MessageBody"]
        if not 0 < len(body.encode()) <= MAX_BODY_BYTES:
            raise AwsError("InvalidMessageContents", f"a message has 1 to {MAX_BODY_BYTES} bytes")
        if call.params.keys() - {"QueueUrl", "MessageBody", "DelaySeconds"}:
            raise AwsError("UnsupportedOperation", "the sandbox takes QueueUrl, MessageBody and DelaySeconds only")
        at = self._state.clock.now() + timedelta(seconds=call.params.get("DelaySeconds", 0))
        message_id = str(uuid4())
        self._state.commit(
            {"record": "queued", "queue": queue.name, "id": message_id, "body": body, "visible_at": at.isoformat()}
        )
        return {"MessageId": message_id, "MD5OfMessageBody": _md5(body)}

    def receive_message(self, call: Call) -> dict[str, Any]:
        """Lend out messages, waiting for the first one up to `WaitTimeSeconds`. Takes the lock by itself."""
        limit = _bounded(call, "MaxNumberOfMessages", 1, 1, MAX_BATCH)
        with self._state.changed:
            queue = self._queue(call)
            wait = _bounded(
                call,
                "WaitTimeSeconds",
                int(queue.attributes.get("ReceiveMessageWaitTimeSeconds", "0")),
                0,
                MAX_WAIT_SECONDS,
            )
            visibility = _bounded(call, "VisibilityTimeout", queue.visibility_seconds, 0, MAX_VISIBILITY_SECONDS)
            until = self._state.clock.now() + timedelta(seconds=wait)
            while not (taken := queue.take(limit, now := self._state.clock.now(), visibility)):
                if now >= until or self.closing:
                    return {}
                due_at = queue.next_due_at()
                wake_at = until if due_at is None else min(until, due_at)
                self._state.changed.wait(max(0.001, (wake_at - now).total_seconds()))
            lent = [(item, item.receives) for item in taken]
        wanted = {*call.params.get("AttributeNames", ()), *call.params.get("MessageSystemAttributeNames", ())}
        # Bodies are composed and signed outside the lock, so that readers never hold up senders.
        return {"Messages": [_message(item, receives, wanted, call.base_url) for item, receives in lent]}

    def delete_message(self, call: Call) -> dict[str, Any]:
        """Remove one message for good."""
        queue = self._queue(call)
        item_id = _item_id(call.params["ReceiptHandle"])
        if item_id is None:
            raise AwsError("ReceiptHandleIsInvalid", "The input receipt handle is invalid.")
        self._state.commit(*deleted_records(queue.name, [item_id]))
        return {}

    def delete_message_batch(self, call: Call) -> dict[str, Any]:
        """Remove up to ten messages for good."""
        queue = self._queue(call)
        entries = call.params["Entries"]
        if not entries:
            raise AwsError("EmptyBatchRequest", "There should be at least one entry in the request.")
        if len(entries) > MAX_BATCH:
            raise AwsError("TooManyEntriesInBatchRequest", f"Maximum number of entries per request are {MAX_BATCH}.")
        if len({entry["Id"] for entry in entries}) != len(entries):
            raise AwsError("BatchEntryIdsNotDistinct", "Ids of a batch must be distinct.")
        items = [(entry["Id"], _item_id(entry["ReceiptHandle"])) for entry in entries]
        self._state.commit(
            *deleted_records(queue.name, [item for _, item in items if item is not None and item in queue])
        )
        failed = [
            {
                "Id": entry,
                "SenderFault": True,
                "Code": "ReceiptHandleIsInvalid",
                "Message": "The receipt handle is invalid.",
            }
            for entry, item in items
            if item is None
        ]
        successful = [{"Id": entry} for entry, item in items if item is not None]
        return {"Successful": successful, "Failed": failed}

    def _queue(self, call: Call) -> Queue:
        return self._named(call.params["QueueUrl"].rpartition("/")[2])

    def _named(self, name: str) -> Queue:
        if name not in self._state.queues:
            raise AwsError("QueueDoesNotExist", "The specified queue does not exist.")
        return self._state.queues[name]


def _url(call: Call, name: str) -> str:
    return f"{call.base_url}/{ACCOUNT}/{name}"


def _bounded(call: Call, name: str, default: int, low: int, high: int) -> int:
    value: int = call.params.get(name, default)
    if not low <= value <= high:
        raise AwsError("ValidationException", f"Value {value} for parameter {name} is invalid; it is {low} to {high}.")
    return value


def _message(item: Item, receives: int, wanted: set[str], base_url: str) -> dict[str, Any]:
    body = item.compose(base_url)
    attributes = {
        "ApproximateReceiveCount": str(receives),
        "SentTimestamp": str(int(item.queued_at.timestamp() * 1000)),
    }
    shown = {name: value for name, value in attributes.items() if name in wanted or "All" in wanted}
    return {
        "MessageId": item.id.partition("@")[0],
        "ReceiptHandle": f"{item.id}#{receives}",
        "MD5OfBody": _md5(body),
        "Body": body,
        **({"Attributes": shown} if shown else {}),
    }


def _item_id(handle: str) -> str | None:
    item_id, hash_sign, receives = handle.rpartition("#")
    return item_id if hash_sign and receives.isdecimal() else None


def _md5(body: str) -> str:
    return hashlib.md5(body.encode(), usedforsecurity=False).hexdigest()
