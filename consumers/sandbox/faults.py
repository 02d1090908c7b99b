"""Faults of a whole service, posted to `/_control/faults`: as when AWS itself is ill, whoever the recipient is.

    {"sesv2": {"answer": "500", "calls": 20}, "sns": "reset"}
    {"sesv2": {"answer": "hold", "operation": "SendBulkEmail", "after": 3}}
    {"sns": {"answer": "slow", "seconds": 0.2}}

A table replaces the one before; `{}` ends all faults. Without `calls` a fault lasts until then, without `operation` all
calls of the service meet it, with `after` so many of them are answered first. Reading the same address says how many calls
are held at this moment.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from bridge.contracts.errors import BadInput, nearest

SERVICES = ("sesv2", "sns", "sqs", "sts", "logs", "sms-gateway")
"""botocore's service names, and the Twilio-compatible gateway."""


class FaultyAnswer(StrEnum):
    """What a call gets instead of its answer."""

    SERVER_ERROR = "500"
    """Status 500, nothing taken (no caller can know that)."""
    TOO_MANY = "429"
    """Refused as too fast, nothing taken."""
    DENIED = "403"
    """Refused whoever the recipient is: the account may not do this. Nothing taken."""
    RESET = "reset"
    """The connection ends without an answer, nothing taken."""
    RESET_AFTER = "reset_after"
    """Everything is taken and the connection ends before the answer."""
    HOLD = "hold"
    """Neither taken nor answered until another table is posted, and then as usual: also for a caller that gave up."""
    HOLD_AFTER = "hold_after"
    """Taken at once, and answered once another table is posted."""
    SLOW = "slow"
    """Taken and answered as usual, after `seconds`."""


_LONGEST_SECONDS = 60
HELD = frozenset({FaultyAnswer.HOLD, FaultyAnswer.HOLD_AFTER})


@dataclass(frozen=True, slots=True)
class Fault:
    """An answer and how many more calls meet it; None means all."""

    answer: FaultyAnswer
    calls: int | None = None
    operation: str | None = None
    """Which calls meet it, by AWS's name; None: all."""
    after: int = 0
    """So many calls are answered as usual before the first meets it."""
    seconds: float = 0.0
    """How long a slow answer takes."""

    @property
    def over(self) -> bool:
        """Whether calls are answered properly again."""
        return self.calls == 0

    def once_less(self) -> "Fault":
        """Return the fault after one more call met it, or was let through before."""
        if self.after:
            return replace(self, after=self.after - 1)
        return self if self.calls is None else replace(self, calls=self.calls - 1)


def parse_faults(posted: object) -> dict[str, Fault]:
    """Read the table above. Raises BadInput."""
    if not isinstance(posted, dict):
        raise BadInput("faults: expected a JSON object of service -> fault")
    return {_service(name): _fault(name, value) for name, value in posted.items()}


_KEYS = ("answer", "calls", "operation", "after", "seconds")


def _service(name: str) -> str:
    if name not in SERVICES:
        raise BadInput(f"faults: unknown service {name!r}{nearest(name, SERVICES)}; known: {', '.join(SERVICES)}")
    return name


def _fault(service: str, value: object) -> Fault:
    if isinstance(value, str):
        value = {"answer": value}
    if not isinstance(value, dict):
        raise BadInput(f"faults, {service}: expected an answer or an object with {', '.join(_KEYS)}")
    for key in value:
        if key not in _KEYS:
            raise BadInput(f"faults, {service}: unknown key {key!r}{nearest(key, _KEYS)}")
    answer = value.get("answer")
    if not isinstance(answer, str) or answer not in set(FaultyAnswer):
        known = [each.value for each in FaultyAnswer]
        raise BadInput(f"faults, {service}: unknown answer {answer!r}; known: {', '.join(known)}")
    for key in ("calls", "after"):
        count = value.get(key)
        if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 0):
            raise BadInput(f"faults, {service}: `{key}` must be a whole number, got {count!r}")
    seconds = value.get("seconds")
    is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool) and 0 < seconds <= _LONGEST_SECONDS
    if (seconds is not None) != (answer == FaultyAnswer.SLOW) or not (seconds is None or is_number):
        raise BadInput(
            f"faults, {service}: `seconds` (up to {_LONGEST_SECONDS}) and `slow` go together, got {seconds!r}"
        )
    operation = value.get("operation")
    if operation is not None and not isinstance(operation, str):
        raise BadInput(f"faults, {service}: `operation` must be a name, got {operation!r}")
    if service == "sms-gateway" and (operation is not None or answer in HELD or answer == FaultyAnswer.SLOW):
        raise BadInput(f"faults, {service}: its calls are not held up, and it has one operation only")
    return Fault(FaultyAnswer(answer), value.get("calls"), operation, value.get("after") or 0, seconds or 0.0)
