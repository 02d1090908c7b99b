"""Open incidents are standing queries: what a record that arrives late changes for a person, and what it does not.

What a notice tells somebody (`Concern`) is three things: the keys of its sentences (`kind|AI system|category`), the data
elements that leaked, and how sensitive the worst of it is. Two notices of one incident tell the same facts if these are
the same: another record about the same, a newer version of the model or another attribute of the same category changes
no word of it. Somebody who was told is told again only of more; somebody who was not simply gets the fuller notice.
Pure; who is found is the index's work, who may be told the ledger's.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from bridge.contracts.events import SENSITIVITY_ORDER, CustomerAffected, Sensitivity, Why
from bridge.contracts.scope import Scope
from consumers.domain.persons import Reason, joined

EVERYBODY_SHARE = 0.9
"""From this share of all people known on, a scope counts as one that matches everybody."""
_ABOUT_STORES = frozenset({"everyone", "website_ids", "store_ids"})


@dataclass(frozen=True, slots=True)
class Concern:
    """What a notice tells one person."""

    disclosures: frozenset[str] = frozenset()
    elements: frozenset[str] = frozenset()
    rank: int = 0
    """Of the highest sensitivity, counted from 1; 0 where there is no record."""

    def beyond(self, told: "Concern") -> bool:
        """Return whether there is anything in this that `told` did not tell."""
        return not (self.disclosures <= told.disclosures and self.elements <= told.elements and self.rank <= told.rank)

    def joined(self, other: "Concern") -> "Concern":
        """Return what the two tell together."""
        return Concern(self.disclosures | other.disclosures, self.elements | other.elements, max(self.rank, other.rank))


def concern_of(why: Why | Reason | Mapping[str, Any] | None) -> Concern:
    """Return what a notice that rests on `why` tells: an event's, a recipient's JSON, or none (a value without a record)."""
    if not why:
        return Concern()
    if isinstance(why, Why | Reason):
        disclosures, elements, highest = why.disclosures, why.elements, why.highest_sensitivity
    else:
        # as the case store keeps it: not parsed into a model, for a plan looks at everybody who was told
        disclosures, elements, highest = why["disclosures"], why["elements"], why["highest_sensitivity"]
    return Concern(frozenset(disclosures), frozenset(elements), SENSITIVITY_ORDER.index(Sensitivity(highest)) + 1)


def told_by(whys: Iterable[Why | Reason | Mapping[str, Any] | None]) -> Concern:
    """Return what several notices tell together."""
    told = Concern()
    for why in whys:
        told = told.joined(concern_of(why))
    return told


@dataclass(frozen=True, slots=True)
class Published:
    """What an open incident's readers know of one member: what the index remembers of what it published."""

    standing: str
    concern: Concern

    def after(self, standing: str, concern: Concern) -> "Published | None":
        """Return what they know once the member is published again, or None if there is nothing new to say."""
        if self.standing == "recorded" and standing == "possible":
            return None
        if self.standing != standing:
            return Published(standing, concern)
        if not concern.beyond(self.concern):
            return None
        return Published(standing, self.concern.joined(concern))


def grown(known: CustomerAffected, late: CustomerAffected) -> CustomerAffected:
    """Return what holds of a person after `late` came: more never becomes less, in whatever order the two arrive.

    A certain record outweighs a possible one and is not mixed with it. Who the person is and how they are reached is
    taken from the later event.
    """
    if (known.standing, late.standing) == ("recorded", "possible"):
        return known
    if known.standing != late.standing:
        return late
    why = joined([each.why for each in (known, late) if each.why is not None])
    return late.model_copy(update={"why": why})


class Correction(StrEnum):
    """Why somebody who was told must hear from us again: what they were told was not true of them."""

    NOT_CONCERNED = "not_concerned"
    """The scope was corrected, and no longer covers them at all."""
    TOLD_TOO_MUCH = "told_too_much"
    """The corrected scope covers them, but not everything that they were told of."""


def correction_for(told: Concern, now: Concern | None) -> Correction | None:
    """Return which correction somebody who was told is owed after the scope was corrected; None: nobody is left (`now`)."""
    if now is None:
        return Correction.NOT_CONCERNED
    if told.disclosures - now.disclosures:
        return Correction.TOLD_TOO_MUCH
    return None


def notice_sha256(
    *,
    controller: str,
    scenario: str | None,
    scope: Scope | None,
    exercise: bool,
    concern: Concern,
    standing: str,
) -> str:
    """Return a hash that two incidents' notices to one person share exactly if they would tell the same.

    Beside the concern that is who writes, the scenario, the exposure window, how certain it is, and whether it is an
    exercise: another window is another leak, of which a person hears apart.
    """
    said = {
        "controller": controller,
        "scenario": scenario or "",
        "exposed": [None if at is None else at.isoformat() for at in (_from(scope), _to(scope))],
        "exercise": exercise,
        "standing": standing,
        "disclosures": sorted(concern.disclosures),
        "elements": sorted(concern.elements),
        "rank": concern.rank,
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _from(scope: Scope | None) -> datetime | None:
    return None if scope is None else scope.exposed_from


def _to(scope: Scope | None) -> datetime | None:
    return None if scope is None else scope.exposed_to


def deadline_after(
    deadline_at: datetime | None, period: timedelta | None, added_at: datetime | None
) -> datetime | None:
    """Return by when somebody must be told whose record came at `added_at` (None: in time).

    The duty's own date holds while it lies ahead. Once it has passed, a clock of their own runs: as long as the law gives
    (`period`), from the moment at which they could first be known of.
    """
    if added_at is None or deadline_at is None or deadline_at > added_at or period is None:
        return deadline_at
    return added_at + period


def matches_everybody(scope: Scope, affected_count: int, people_count: int | None) -> bool:
    """Return whether a scope is about everybody, or nearly: what a slip of the pen does, and a person must confirm.

    Either it says so itself (everyone, or everyone of a store or website), or it was found to concern at least 90 % of
    the `people_count` data subjects that the index knows. None: the count is not known, so only the scope's words count.
    """
    if scope.everyone and set(scope.canonical()) <= _ABOUT_STORES:
        return True
    return bool(people_count) and people_count is not None and affected_count >= EVERYBODY_SHARE * people_count


def late_order(leaves: Iterable[tuple[str, str]]) -> Sequence[bytes]:
    """Return the leaf hashes of one late addition, given as (root, hex), in the order of its Merkle root."""
    return [bytes.fromhex(leaf) for _, leaf in sorted(leaves)]
