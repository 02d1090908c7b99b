"""Gates: what keeps single recipients from being told yet. A law-enforcement hold, or an authority that must be told
first, blocks just those whom it covers; everybody else goes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """An open gate. `covers` lists jurisdictions (`US-CA`, `DE`; `US` covers its states) or `*`."""

    gate_id: str
    kind: str
    covers: Sequence[str]
    controller: str | None = None
    """Whose people it covers; None: everybody's."""


def gate_for(residence_codes: Sequence[str], gates: Iterable[Gate], controller: str | None = None) -> Gate | None:
    """Return the first gate that covers somebody of `controller` with these residence claims, or None.

    A claim is enough: whoever may live where telling is forbidden is not told until it is lifted. Unknown residence is
    covered by `*` and by the code `unknown` only.
    """
    codes = residence_codes or ("unknown",)
    for gate in gates:
        if gate.controller not in (None, controller):
            continue
        if any(covered in ("*", code) or code.startswith(f"{covered}-") for covered in gate.covers for code in codes):
            return gate
    return None
