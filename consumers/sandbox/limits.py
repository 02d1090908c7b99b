"""What the account may do, posted to `/_control/account`: SES quotas, its own sandbox mode, and states that AWS imposes.

    {"max_24_hour_send": 200, "max_send_rate": 1, "production_access": false}

What is not named takes its usual value again.
"""

from dataclasses import dataclass, fields

from bridge.contracts.errors import BadInput, nearest

ENFORCEMENT = ("HEALTHY", "PROBATION", "SHUTDOWN")


@dataclass(frozen=True, slots=True)
class Limits:
    """The account's limits; rates count recipients a second."""

    max_24_hour_send: float = 10_000_000.0
    max_send_rate: float = 10_000.0
    production_access: bool = True
    """Without it SES sends to verified addresses only."""
    sending_enabled: bool = True
    enforcement_status: str = "HEALTHY"
    sms_sandbox: bool = False
    """SNS's own sandbox: SMS to verified numbers only; said, not played."""
    sms_numbers: str = ""
    """Countries in which the account holds a number to send from, comma separated (US,CA)."""


def parse_limits(posted: object) -> Limits:
    """Read the object above. Raises BadInput."""
    known = {each.name: type(each.default) for each in fields(Limits)}
    if not isinstance(posted, dict):
        raise BadInput(f"account: expected a JSON object with {', '.join(known)}")
    values: dict[str, object] = {}
    for key, value in posted.items():
        if key not in known:
            raise BadInput(f"account: unknown key {key!r}{nearest(key, known)}; known: {', '.join(known)}")
        number = known[key] is float and isinstance(value, int | float) and not isinstance(value, bool) and value >= 0
        if not number and (known[key] is float or not isinstance(value, known[key])):
            raise BadInput(f"account: `{key}` cannot be {value!r}")
        values[key] = float(value) if number else value
    limits = Limits(**values)  # type: ignore[arg-type]  # checked against the fields' own types above
    if limits.enforcement_status not in ENFORCEMENT:
        raise BadInput(f"account: `enforcement_status` is one of {', '.join(ENFORCEMENT)}")
    return limits
