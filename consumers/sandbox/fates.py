"""What becomes of a message, scripted by its recipient: the same recipient always meets the same fate.

A plus tag of the address says it (`ann+bounce@shop.example.com`, `bob+throttle3@shop.example.com`), or a table posted
to `/_control/behaviours`, which wins and is the only way for telephone numbers. Everything else is delivered.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from bridge.contracts.errors import BadInput, nearest

THROTTLED_TRIES = 2
"""How often `throttle` refuses a recipient when no number is given."""


class Behaviour(StrEnum):
    """How the sandbox treats a recipient."""

    DELIVERED = "delivered"
    BOUNCE = "bounce"
    """Accepted; a permanent bounce follows (for a telephone number: status FAILURE)."""
    THROTTLE = "throttle"
    """Refused as too fast for the first tries, then delivered."""


@dataclass(frozen=True, slots=True)
class Script:
    """A behaviour, and for `throttle` how many tries are refused."""

    behaviour: Behaviour
    times: int = 0


_PLUS_TAG = re.compile(r"[^@]*\+(?P<behaviour>[a-z]+)(?P<times>\d*)@.*", re.IGNORECASE)


def recipient_key(recipient: str) -> str:
    """Return the form under which a recipient is counted: addresses in lower case, numbers as they are."""
    return recipient.strip().lower()


def script_for(recipient: str, posted: Mapping[str, Script]) -> Script:
    """Return how to treat `recipient`; `posted` is keyed by `recipient_key`."""
    key = recipient_key(recipient)
    if key in posted:
        return posted[key]
    tag = _PLUS_TAG.fullmatch(key)
    if tag is None or tag["behaviour"] not in set(Behaviour):
        return Script(Behaviour.DELIVERED)
    behaviour = Behaviour(tag["behaviour"])
    return Script(behaviour, int(tag["times"] or THROTTLED_TRIES) if behaviour is Behaviour.THROTTLE else 0)


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
    times = value.get("times", THROTTLED_TRIES if behaviour is Behaviour.THROTTLE else 0)
    if not isinstance(times, int) or isinstance(times, bool) or times < 0:
        raise BadInput(f"{where}: `times` must be a whole number of tries, got {times!r}")
    if times and behaviour is not Behaviour.THROTTLE:
        raise BadInput(f"{where}: `times` goes with {Behaviour.THROTTLE!s} only")
    return Script(behaviour, times)
