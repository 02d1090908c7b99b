"""What becomes of a message, scripted by its recipient: the same recipient always meets the same fate.

A plus tag of the address says it (`ann+bounce@shop.example.com`, `bob+throttle3@shop.example.com`), or a table posted
to `/_control/behaviours`, which wins and is the only way for telephone numbers. The addresses of SES's mailbox simulator
meet what AWS documents of them, and its simulated telephone number that fails does. Everything else is delivered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.contracts.errors import BadInput, nearest

THROTTLED_TRIES = 2
"""How often `throttle` refuses a recipient when no number is given."""
LOST_TRIES = 1
"""How often `timeout` and `lost` leave a recipient's call without an answer when no number is given."""


class Behaviour(StrEnum):
    """How the sandbox treats a recipient."""

    DELIVERED = "delivered"
    BOUNCE = "bounce"
    """Accepted; a permanent bounce follows (for a telephone number: status FAILURE)."""
    SOFTBOUNCE = "softbounce"
    """Accepted; after a delay SES gives the message up as a transient bounce (mailbox full)."""
    LATEBOUNCE = "latebounce"
    """Delivered, and then bounced for good: the server that took it could not hand it on (for a telephone number: delivered)."""
    COMPLAINT = "complaint"
    """Delivered, and then complained about."""
    DELAY = "delay"
    """Accepted, reported as delayed, delivered in the end (for a telephone number: its status comes late)."""
    REFUSE = "refuse"
    """Refused by the call itself (an entry's status MESSAGE_REJECTED; for a telephone number: InvalidParameter)."""
    TRANSIENT = "transient"
    """Not taken, at every try, for a temporary issue that never ends (an entry's status TRANSIENT_FAILURE; for a telephone
    number: delivered).
    """
    REJECT = "reject"
    """Accepted by the call and then rejected: SES found a virus in it."""
    SPAM = "spam"
    """Delivered, into a folder that nobody opens: no later event ever follows."""
    SILENT = "silent"
    """Accepted, and nothing is ever reported again."""
    TIMEOUT = "timeout"
    """Taken, but the connection ends before the answer for the first tries: receipts tell what became of it."""
    LOST = "lost"
    """Not taken, and the connection ends without an answer for the first tries."""
    OOTO = "ooto"
    """Delivered; an automatic response (out of the office) follows, which SES reports as a transient bounce."""
    SUPPRESSED = "suppressed"
    """Accepted, not sent: a hard bounce as of an address on SES's global suppression list."""
    THROTTLE = "throttle"
    """Refused as too fast for the first tries, then delivered."""


@dataclass(frozen=True, slots=True)
class Script:
    """A behaviour, and for those of `COUNTED` how many tries it concerns."""

    behaviour: Behaviour
    times: int = 0


COUNTED = {Behaviour.THROTTLE: THROTTLED_TRIES, Behaviour.TIMEOUT: LOST_TRIES, Behaviour.LOST: LOST_TRIES}
"""Behaviours that concern a number of tries, and how many when none is given."""

SIMULATOR_DOMAIN = "simulator.amazonses.com"
"""https://docs.aws.amazon.com/ses/latest/dg/send-an-email-from-console.html#send-email-simulator"""

SIMULATED = {
    "success": Behaviour.DELIVERED,
    "bounce": Behaviour.BOUNCE,
    "ooto": Behaviour.OOTO,
    "complaint": Behaviour.COMPLAINT,
    "suppressionlist": Behaviour.SUPPRESSED,
}
"""Local part of the mailbox simulator's addresses, without its label, -> what becomes of a message."""

SIMULATED_PHONE_FAILING = "+14254147167"
"""https://docs.aws.amazon.com/sms-voice/latest/userguide/test-phone-numbers.html"""

_PLUS_TAG = re.compile(r"[^@]*\+(?P<behaviour>[a-z]+)(?P<times>\d*)@.*", re.IGNORECASE)


def recipient_key(recipient: str) -> str:
    """Return the form under which a recipient is counted: addresses in lower case, numbers as they are."""
    return recipient.strip().lower()


def is_simulated(recipient: str) -> bool:
    """Say whether `recipient` is an address of SES's mailbox simulator, which exempts it from quota and suppression."""
    return recipient_key(recipient).endswith(f"@{SIMULATOR_DOMAIN}")


def script_for(recipient: str, posted: Mapping[str, Script]) -> Script:
    """Return how to treat `recipient`; `posted` is keyed by `recipient_key`."""
    key = recipient_key(recipient)
    if key in posted:
        return posted[key]
    if is_simulated(key):
        return Script(SIMULATED.get(key.partition("@")[0].partition("+")[0], Behaviour.DELIVERED))
    if key == SIMULATED_PHONE_FAILING:
        return Script(Behaviour.BOUNCE)
    tag = _PLUS_TAG.fullmatch(key)
    if tag is None or tag["behaviour"] not in set(Behaviour):
        return Script(Behaviour.DELIVERED)
    behaviour = Behaviour(tag["behaviour"])
    return Script(behaviour, int(tag["times"] or COUNTED[behaviour]) if behaviour in COUNTED else 0)


def parse_scripts(posted: object) -> dict[str, Script]:
    """Read `{recipient: "bounce"}` or `{recipient: {"behaviour": "throttle", "times": 3}}`. Raises BadInput.

    No message names a recipient: they may be somebody's.
    """
    if not isinstance(posted, dict):
        raise BadInput("behaviours: expected a JSON object of recipient -> behaviour")
    return {recipient_key(recipient): _parse_script(value, n) for n, (recipient, value) in enumerate(posted.items(), 1)}


def _parse_script(value: object, position: int) -> Script:
    where = f"behaviours, entry {position}"
    if isinstance(value, str):
        value = {"behaviour": value}
    if not isinstance(value, dict):
        raise BadInput(f"{where}: expected a behaviour or an object with `behaviour` and `times`")
    for key in value:
        if key not in ("behaviour", "times"):
            raise BadInput(f"{where}: unknown key {key!r}{nearest(key, ('behaviour', 'times'))}")
    name = value.get("behaviour")
    if not isinstance(name, str) or name not in set(Behaviour):
        known = [behaviour.value for behaviour in Behaviour]
        raise BadInput(f"{where}: unknown behaviour {name!r}{nearest(str(name), known)}; known: {', '.join(known)}")
    behaviour = Behaviour(name)
    times = value.get("times", COUNTED.get(behaviour, 0))
    if not isinstance(times, int) or isinstance(times, bool) or times < 0:
        raise BadInput(f"{where}: `times` must be a whole number of tries, got {times!r}")
    if times and behaviour not in COUNTED:
        raise BadInput(f"{where}: `times` goes with {', '.join(COUNTED)} only")
    return Script(behaviour, times)
