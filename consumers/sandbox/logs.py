"""CloudWatch Logs as far as Tocsin uses it: reading the delivery status of SMS, which SNS reports nowhere else.

What is written there is `sms_log`'s. Events are found by time:
https://docs.aws.amazon.com/AmazonCloudWatchLogs/latest/APIReference/API_FilterLogEvents.html
"""

import json
from bisect import bisect_left
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from consumers.sandbox.events import sms_status
from consumers.sandbox.sms_log import LogEvent
from consumers.sandbox.state import State
from consumers.sandbox.wire import AwsError, Call

MAX_EVENTS = 10_000


class CloudWatchLogs:
    """The operations; each runs with the state's lock held and returns the answer's members."""

    def __init__(self, state: State) -> None:
        self._state = state

    def operations(self) -> dict[str, Callable[[Call], dict[str, Any]]]:
        """Return the handler of each operation by its name."""
        return {"FilterLogEvents": self.filter_log_events, "DescribeLogGroups": self.describe_log_groups}

    def filter_log_events(self, call: Call) -> dict[str, Any]:
        """Return a page of a group's events between two times in milliseconds; its token is a position."""
        name = call.params.get("logGroupName", "")
        if call.params.keys() - {"logGroupName", "startTime", "endTime", "nextToken", "limit", "interleaved"}:
            raise AwsError("InvalidParameterException", "the sandbox filters one group by time only")
        if name not in self._state.sms_log.groups:
            raise AwsError("ResourceNotFoundException", "The specified log group does not exist.")
        token = call.params.get("nextToken", "0")
        if not token.isdecimal():
            raise AwsError("InvalidParameterException", "The specified nextToken is invalid.")
        events = self._state.sms_log.groups[name]
        first = bisect_left(events, call.params.get("startTime", 0), key=_milliseconds)
        now = _milliseconds_of(self._state.clock.now())
        last = bisect_left(events, min(now, call.params.get("endTime", now)) + 1, key=_milliseconds)
        start = first + int(token)
        end = min(last, start + call.params.get("limit", MAX_EVENTS))
        page = [
            {
                "logStreamName": f"{event.message.id[:8]}",
                "timestamp": _milliseconds(event),
                "ingestionTime": _milliseconds(event),
                "message": json.dumps(sms_status(event.message)),
                "eventId": f"{_milliseconds(event):020d}{event.number:036d}",
            }
            for event in events[start:end]
        ]
        return {"events": page, **({"nextToken": str(end - first)} if end < last else {})}

    def describe_log_groups(self, call: Call) -> dict[str, Any]:
        """Return the groups whose name begins with a prefix."""
        prefix = call.params.get("logGroupNamePrefix", "")
        return {
            "logGroups": [
                {"logGroupName": name} for name in sorted(self._state.sms_log.groups) if name.startswith(prefix)
            ]
        }


def _milliseconds(event: LogEvent) -> int:
    return _milliseconds_of(event.at)


def _milliseconds_of(at: datetime) -> int:
    return int(at.astimezone(UTC).timestamp() * 1000)
