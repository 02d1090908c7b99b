"""Gates: what keeps single recipients from being told yet. A law-enforcement hold, or an authority that must be told
first, blocks just those whom it covers; everybody else goes.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gate:
    """An open gate. It covers whom any of `covers`, `segments` and `people` names."""

    gate_id: str
    kind: str
    covers: Sequence[str]
    """Jurisdictions (`US-CA`, `DE`; `US` covers its states) or `*`."""
    controller: str | None = None
    """Whose people it covers; None: everybody's."""
    segments: Collection[str] = ()
    people: Collection[str] = ()
    """Roots of single persons."""

    def covers_person(self, codes: Sequence[str], segment_id: str | None, root: str | None) -> bool:
        """Return whether it covers somebody with these residence claims, of this segment, with this root."""
        return (
            root in self.people
            or segment_id in self.segments
            or any(
                covered in ("*", code) or code.startswith(f"{covered}-") for covered in self.covers for code in codes
            )
        )


def gate_for(
    residence_codes: Sequence[str],
    gates: Iterable[Gate],
    controller: str | None = None,
    *,
    segment_id: str | None = None,
    root: str | None = None,
) -> Gate | None:
    """Return the first gate that covers somebody of `controller` with these residence claims, or None.

    A claim is enough: whoever may live where telling is forbidden is not told until it is lifted. Unknown residence is
    covered by `*` and by the code `unknown` only.
    """
    codes = residence_codes or ("unknown",)
    for gate in gates:
        if gate.controller in (None, controller) and gate.covers_person(codes, segment_id, root):
            return gate
    return None
